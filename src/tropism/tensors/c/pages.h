/* Attention of one query to the pages of its row. */

#pragma once

#include "vectors.h"

#define PAGE 16
#define FEW 32 /* rows */

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

/* The number of scores of a row and a head that there is room for. */
static int64_t room_of(const Rows *a) {
    int64_t longest = 0;
    for (int64_t r = 0; r < a->rows; r++)
        if (a->start[r + 1] - a->start[r] > longest) longest = a->start[r + 1] - a->start[r];
    return PAGE * (longest + 1);
}

/* Scores of a head become weights, whose sum is returned. */
static float weights_of(const Rows *a, int64_t h, float *scores, int64_t many) {
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
    return a->sinks ? total + exp_of(a->sinks[h] - top) : total;
}

/* What a row reads one after the other: the keys of its pages, then the values. Those of a head begin at `at` + head * `step`,
   and are `count` numbers. */
typedef struct {
    const float *at;
    int64_t step, count;
} Read;

/* Read number j of row r; the one after the last is the first of the next row. */
static inline Read read_of(const Rows *a, int64_t r, int64_t j) {
    int64_t pages = a->start[r + 1] - a->start[r];
    if (j == 2 * pages) return r + 1 < a->rows ? read_of(a, r + 1, 0) : (Read){0};
    int64_t number = j < pages ? j : j - pages, i = a->start[r] + number, shared = number < a->shared[r];
    const float *keys = shared ? a->shared_keys : a->own_keys, *values = shared ? a->shared_values : a->own_values;
    int64_t size = j < pages ? a->size : a->v_size;
    return (Read){(j < pages ? keys : values) + a->page[i] * a->kv_heads * PAGE * size, PAGE * size, a->seen[i] * size};
}

/* Asks for a head of what is read next. It is in the second cache by then; the first has no room for it. */
static inline void fetch(Read next, int64_t head) {
    for (int64_t d = 0; d < next.count; d += LANES) __builtin_prefetch(next.at + head * next.step + d, 0, 2);
}

/* Row r and the heads [first, last) of keys and values: q (heads, size) to out (heads, v_size). Scores have `room` for each
   head. The pages are the outer loop: what lies side by side is read one after the other. */
static void attend_row(const Rows *a, int64_t r, int64_t first, int64_t last, const float *q, float *scores, int64_t room, float *out) {
    int64_t groups = a->heads / a->kv_heads, pages = a->start[r + 1] - a->start[r], many = 0;
    const int64_t *seen = a->seen + a->start[r];
    for (int64_t j = 0; j < pages; many += seen[j++]) {
        Read keys = read_of(a, r, j), next = read_of(a, r, j + 1);
        for (int64_t kv = first; kv < last; kv++) {
            fetch(next, kv);
            for (int64_t h = kv * groups; h < (kv + 1) * groups; h++)
                dots(q + h * a->size, keys.at + kv * keys.step, scores + h * room + many, seen[j], a->size);
        }
    }
    for (int64_t h = first * groups; h < last * groups; h++) {
        float scale = 1.0f / weights_of(a, h, scores + h * room, many);
        for (int64_t t = 0; t < many; t++) scores[h * room + t] *= scale;
    }
    memset(out + first * groups * a->v_size, 0, (last - first) * groups * a->v_size * sizeof(float));
    many = 0;
    for (int64_t j = 0; j < pages; many += seen[j++]) {
        Read values = read_of(a, r, pages + j), next = read_of(a, r, pages + j + 1);
        for (int64_t kv = first; kv < last; kv++) {
            fetch(next, kv);
            for (int64_t h = kv * groups; h < (kv + 1) * groups; h++)
                mix(scores + h * room + many, values.at + kv * values.step, out + h * a->v_size, seen[j], a->v_size);
        }
    }
}

/* All rows, by all threads of the team, each of which has its own scores; rows of q begin q_step apart. */
static void attend_rows(const Rows *a, const float *q, float *scores, int64_t room, float *out) {
    int64_t parts = a->rows < FEW ? a->kv_heads : 1; /* few rows are shared out by heads */
#pragma omp for schedule(dynamic, 2)
    for (int64_t job = 0; job < a->rows * parts; job++) {
        int64_t r = job / parts, part = job % parts;
        attend_row(a, r, part * a->kv_heads / parts, (part + 1) * a->kv_heads / parts, q + r * a->q_step, scores, room,
                   out + r * a->heads * a->v_size);
    }
}
