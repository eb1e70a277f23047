/* Attention of one query to the pages of its row. */

#pragma once

#include "vectors.h"

#define PAGE 16

typedef struct {
    int64_t rows, heads, kv_heads, size, v_size, q_step, window; /* window 0: everything is seen */
    float scale, softcap;                                        /* softcap 0: none */
    const float *own_keys, *own_values, *shared_keys, *shared_values, *sinks;
    /* Row r sees the first seen[i] tokens of page[i], start[r] <= i < start[r + 1]; the first shared[r] are shared pages. */
    const int64_t *start, *page, *seen, *shared;
} Rows;

/* Of a page and one head: the products of a query with the keys of its first `count` tokens (out has
   room for PAGE); the sum of their values by weight. */
#define SIZED(SIZE)                                                                                                   \
static void dots_##SIZE(const float *q, const float *k, float *out, int count) {                                                 \
    lanes total[PAGE];                                                                                                \
    for (int t = 0; t < count; t++) {                                                                                 \
        total[t] = *(const lanes *)q * *(const lanes *)(k + t * SIZE);                                                \
        for (int d = LANES; d < SIZE; d += LANES) total[t] += *(const lanes *)(q + d) * *(const lanes *)(k + t * SIZE + d);\
    }                                                                                                                 \
    for (int t = count; t < PAGE; t++) total[t] = (lanes){0};                                                         \
    *(lanes *)out = sums_of(total);                                                                                   \
}                                                                                                                     \
static void mix_##SIZE(const float *weight, const float *v, float *out, int64_t count) {                              \
    lanes total[SIZE / LANES];                                                                                        \
    for (int d = 0; d < SIZE / LANES; d++) total[d] = *(const lanes *)(out + d * LANES);                              \
    for (int64_t t = 0; t < count; t++)                                                                               \
        for (int d = 0; d < SIZE / LANES; d++) total[d] += weight[t] * *(const lanes *)(v + t * SIZE + d * LANES);    \
    for (int d = 0; d < SIZE / LANES; d++) *(lanes *)(out + d * LANES) = total[d];                                    \
}
SIZED(16)
SIZED(32)
SIZED(64)
SIZED(128)

static void dots(const float *q, const float *k, float *out, int count, int64_t size) {
    switch (size) {
    case 16: dots_16(q, k, out, count); return;
    case 32: dots_32(q, k, out, count); return;
    case 64: dots_64(q, k, out, count); return;
    case 128: dots_128(q, k, out, count); return;
    }
    for (int t = 0; t < count; t++) {
        float total = 0;
        for (int64_t d = 0; d < size; d++) total += q[d] * k[t * size + d];
        out[t] = total;
    }
}

static void mix(const float *weight, const float *v, float *out, int64_t count, int64_t size) {
    switch (size) {
    case 16: mix_16(weight, v, out, count); return;
    case 32: mix_32(weight, v, out, count); return;
    case 64: mix_64(weight, v, out, count); return;
    case 128: mix_128(weight, v, out, count); return;
    }
    for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < size; d++) out[d] += weight[t] * v[t * size + d];
}

/* The number of scores that a row may need. */
static int64_t longest_of(const Rows *a) {
    int64_t longest = 0;
    for (int64_t r = 0; r < a->rows; r++)
        if (a->start[r + 1] - a->start[r] > longest) longest = a->start[r + 1] - a->start[r];
    return PAGE * (longest + 1);
}

/* Head h of row r, whose query is given: to (v_size,). */
static void attend_one(const Rows *a, int64_t r, int64_t h, const float *query, float *scores, float *to) {
    int64_t kv = h / (a->heads / a->kv_heads), first = a->start[r], last = a->start[r + 1], own = first + a->shared[r], many = 0;
    for (int64_t i = first; i < last; many += a->seen[i++])
        dots(query, (i < own ? a->shared_keys : a->own_keys) + (a->page[i] * a->kv_heads + kv) * PAGE * a->size, scores + many,
             a->seen[i], a->size);
    int64_t hidden = a->window && many > a->window ? many - a->window : 0;
    float top = a->sinks ? a->sinks[h] : -INFINITY, total = 0;
    for (int64_t t = 0; t < hidden; t++) scores[t] = -INFINITY;
    for (int64_t t = many; t % LANES; t++) scores[t] = -INFINITY; /* so that all loops go by whole vectors */
    for (int64_t t = 0; t < many; t += LANES)
        for (int i = 0; i < LANES; i++) scores[t + i] *= a->scale;
    if (a->softcap)
        for (int64_t t = hidden; t < many; t++) scores[t] = tanhf(scores[t] / a->softcap) * a->softcap;
    for (int64_t t = 0; t < many; t += LANES)
        for (int i = 0; i < LANES; i++) top = scores[t + i] > top ? scores[t + i] : top;
    for (int64_t t = 0; t < many; t += LANES)
        for (int i = 0; i < LANES; i++) total += scores[t + i] = exp_of(scores[t + i] - top);
    if (a->sinks) total += exp_of(a->sinks[h] - top);
    memset(to, 0, a->v_size * sizeof(float));
    many = 0;
    for (int64_t i = first; i < last; many += a->seen[i++])
        mix(scores + many, (i < own ? a->shared_values : a->own_values) + (a->page[i] * a->kv_heads + kv) * PAGE * a->v_size, to,
            a->seen[i], a->v_size);
    for (int64_t d = 0; d < a->v_size; d++) to[d] /= total;
}
