/* Small operations of decoding in one pass over their numbers each; see ../native.py. All tensors are float32.

   Every output is computed by one thread in a fixed order, so it does not depend on the number of threads. */

#include "common.h"

#define PAGE 16
#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t places __attribute__((vector_size(4 * LANES)));

/* The sums of sixteen vectors. */
#define LOW(h, j) ((j) / (2 * (h)) * 2 * (h) + (j) % (h) + ((j) % (2 * (h)) < (h) ? 0 : LANES))
#define EACH(F, h) F(h, 0), F(h, 1), F(h, 2), F(h, 3), F(h, 4), F(h, 5), F(h, 6), F(h, 7), \
                   F(h, 8), F(h, 9), F(h, 10), F(h, 11), F(h, 12), F(h, 13), F(h, 14), F(h, 15)
#define HALVE(h)                                                                      \
    for (int i = 0; i < h; i++) {                                                     \
        const places low = {EACH(LOW, h)}, high = low + h;                            \
        x[i] = __builtin_shuffle(x[i], x[i + h], low) + __builtin_shuffle(x[i], x[i + h], high); \
    }
static inline lanes sums_of(lanes *x) {
    HALVE(8) HALVE(4) HALVE(2) HALVE(1)
    return x[0];
}

/* Puts x (rows, heads, size), whose rows begin `step` apart, into pages (pages, heads, PAGE, size). */
void put(float *pages, const int64_t *page, const int64_t *at, const float *x, int64_t rows, int64_t heads, int64_t size,
         int64_t step) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(pages + ((page[r] * heads + h) * PAGE + at[r]) * size, x + r * step + h * size, size * sizeof(float));
}

/* For each row of logits x and its uniform number: the first token at which the cumulative probability exceeds the number,
   and its log-probability. Sums are in double precision. */
void sample(const float *x, const double *number, int64_t *token, float *logp, int64_t rows, int64_t width) {
#pragma omp parallel if (rows * width > SMALL)
    {
        float *weight = malloc(sizeof(float) * width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *in = x + r * width;
            float top = -INFINITY;
            double total = 0, passed = 0;
            for (int64_t i = 0; i < width; i++) top = in[i] > top ? in[i] : top;
            for (int64_t i = 0; i < width; i++) weight[i] = exp_of(in[i] - top);
            for (int64_t i = 0; i < width; i++) total += weight[i];
            int64_t found = 0; /* the last possible one if roundings hide that the number was passed */
            for (int64_t i = 0; i < width && passed <= number[r] * total; i++) {
                passed += weight[i];
                if (weight[i] > 0) found = i;
            }
            token[r] = found;
            logp[r] = in[found] - top - (float)log(total);
        }
        free(weight);
    }
}

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

/* Attention of one query per row to the pages of its row: out (rows, heads, v_size). */
void attend(const Rows *a, const float *q, float *out) {
    int64_t longest = 0, groups = a->heads / a->kv_heads;
    for (int64_t r = 0; r < a->rows; r++)
        if (a->start[r + 1] - a->start[r] > longest) longest = a->start[r + 1] - a->start[r];
#pragma omp parallel
    {
        float *scores = malloc(sizeof(float) * PAGE * (longest + 1));
#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->rows * a->heads; job++) {
            /* Rows that share pages stand together, so the heads are the outer loop: their keys stay in the cache. */
            int64_t h = job / a->rows, r = job % a->rows, kv = h / groups;
            int64_t first = a->start[r], last = a->start[r + 1], own = first + a->shared[r], many = 0;
            const float *query = q + r * a->q_step + h * a->size;
            for (int64_t i = first; i < last; many += a->seen[i++])
                dots(query, (i < own ? a->shared_keys : a->own_keys) + (a->page[i] * a->kv_heads + kv) * PAGE * a->size,
                     scores + many, a->seen[i], a->size);
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
            float *to = out + (r * a->heads + h) * a->v_size;
            memset(to, 0, a->v_size * sizeof(float));
            many = 0;
            for (int64_t i = first; i < last; many += a->seen[i++])
                mix(scores + many, (i < own ? a->shared_values : a->own_values) + (a->page[i] * a->kv_heads + kv) * PAGE * a->v_size,
                    to, a->seen[i], a->v_size);
            for (int64_t d = 0; d < a->v_size; d++) to[d] /= total;
        }
        free(scores);
    }
}
