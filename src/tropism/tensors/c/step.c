/* A decoding step of a Llama-like model: one new token of each row through all layers; see ../../models/step.py.

       x += out(attention(norm(x)))      x += down(silu(gate(norm(x))) * up(norm(x)))

   All layers run in one call, so nothing waits for Python between them. Activations are panels of rows (products.h), except
   that queries, keys and values go row by row. */

#include "pages.h"
#include "products.h"

#ifdef __AVX512F__ /* without it the libraries that torch multiplies with are faster */

/* Norms of queries and keys and biases may be missing. */
typedef struct {
    const float *norm, *query, *key, *value, *query_bias, *key_bias, *value_bias, *query_norm, *key_norm, *out, *out_bias;
    const float *inner_norm, *gate, *up, *down, *gate_bias, *up_bias, *down_bias;
    float *keys, *values; /* own pages, which the new token is written to */
    const float *shared_keys, *shared_values;
    int64_t window;
} Layer;

typedef struct {
    int64_t layers, width, inner, turned; /* the first `turned` numbers of each head are turned */
    float eps;
    const float *last_norm;
    const Layer *layer;
    const float *cosine, *sine; /* (rows, turned) and (rows, turned / 2) */
    const int64_t *page, *at;   /* where the new tokens are written */
} Model;

/* RMS norm of one column. */
static void norm_column(Column x, Column to, const float *weight, int64_t width, float eps) {
    lanes total = {0};
    for (int64_t d = 0; d < width; d++) {
        lanes y = *(const lanes *)(x.at + d * x.step);
        total += y * y;
    }
    for (int i = 0; i < LANES; i++) total[i] = 1.0f / sqrtf(total[i] / width + eps);
    for (int64_t d = 0; d < width; d++) *(lanes *)(to.at + d * to.step) = *(const lanes *)(x.at + d * x.step) * total * weight[d];
}

/* A head of a row: normalised if `weight` is given, then turned. */
static void turn_head(float *x, const float *weight, const Model *m, int64_t r, int64_t size) {
    if (weight) {
        float total = 0;
        for (int64_t d = 0; d < size; d++) total += x[d] * x[d];
        float scale = 1.0f / sqrtf(total / size + m->eps);
        for (int64_t d = 0; d < size; d++) x[d] = x[d] * scale * weight[d];
    }
    int64_t half = m->turned / 2;
    const float *c = m->cosine + r * m->turned, *s = m->sine + r * half;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * c[i] - b * s[i];
        x[i + half] = b * c[i + half] + a * s[i];
    }
}

/* One head of the queries, keys or values of a column, row by row: queries to `q`, the others to pages. */
static void place_head(const Model *m, const Layer *l, const Rows *a, Column from, int64_t vector, int64_t head, float *q) {
    int64_t rows = a->rows - vector * LANES < LANES ? a->rows - vector * LANES : LANES, size = a->size;
    int64_t kv = head < a->heads ? -1 : (head - a->heads) % a->kv_heads, value = head >= a->heads + a->kv_heads;
    float made[LANES * size], *to[LANES];
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = vector * LANES + i;
        to[i] = kv < 0 ? q + (r * a->heads + head) * size
                       : (value ? l->values : l->keys) + ((m->page[r] * a->kv_heads + kv) * PAGE + m->at[r]) * size;
        for (int64_t d = 0; d < size; d += LANES) __builtin_prefetch(to[i] + d, 1);
    }
    out_of_column(from, made, size, rows, size);
    for (int64_t i = 0; i < rows; i++) {
        if (!value) turn_head(made + i * size, kv < 0 ? l->query_norm : l->key_norm, m, vector * LANES + i, size);
        memcpy(to[i], made + i * size, size * sizeof(float));
    }
}

/* x (rows, width), the embedded tokens, becomes the last hidden states. `given` says what the rows see. */
void step(const Model *m, const Rows *given, float *x_rows) {
    const Shape s = shape_of(given->rows);
    const int64_t padded = s.vectors * LANES, width = m->width, size = given->size, heads = given->heads, kv_heads = given->kv_heads;
    const int64_t all = heads + 2 * kv_heads, room = room_of(given);
    float *x = aligned_alloc(64, sizeof(float) * padded * (2 * width + (all + 2 * heads) * size + 2 * m->inner));
    float *h = x + padded * width, *qkv = h + padded * width, *q = qkv + padded * all * size, *mixed = q + padded * heads * size;
    float *gate = mixed + padded * heads * size, *up = gate + padded * m->inner;
    float *k = qkv + padded * heads * size, *v = k + padded * kv_heads * size;
#pragma omp parallel
    {
        float *scores = malloc(sizeof(float) * heads * room);
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++)
            into_column(column_of(&s, x, width, i), x_rows + i * LANES * width, width, s.rows - i * LANES, width);
        for (const Layer *l = m->layer; l < m->layer + m->layers; l++) {
            Rows a = *given;
            a.window = l->window, a.q_step = heads * size;
            a.own_keys = l->keys, a.own_values = l->values, a.shared_keys = l->shared_keys, a.shared_values = l->shared_values;
#pragma omp for
            for (int64_t i = 0; i < s.vectors; i++)
                norm_column(column_of(&s, x, width, i), column_of(&s, h, width, i), l->norm, width, m->eps);
            run_linear(&s, (Linear[]){{l->query, l->query_bias, qkv, heads * size}, {l->key, l->key_bias, k, kv_heads * size},
                                      {l->value, l->value_bias, v, kv_heads * size}}, 3, h, width);
#pragma omp for collapse(2)
            for (int64_t i = 0; i < s.vectors; i++)
                for (int64_t head = 0; head < all; head++) {
                    int64_t from = head < heads ? 0 : head < heads + kv_heads ? heads : heads + kv_heads, many = from ? kv_heads : heads;
                    Column c = column_of(&s, qkv + padded * from * size, many * size, i);
                    c.at += (head - from) * size * c.step;
                    place_head(m, l, &a, c, i, head, q);
                }
            attend_rows(&a, q, scores, room, mixed);
#pragma omp for
            for (int64_t i = 0; i < s.vectors; i++)
                into_column(column_of(&s, qkv, heads * size, i), mixed + i * LANES * heads * size, heads * size, s.rows - i * LANES,
                            heads * size);
            run_linear(&s, (Linear[]){{l->out, l->out_bias, x, width, 1}}, 1, qkv, heads * size);
#pragma omp for
            for (int64_t i = 0; i < s.vectors; i++)
                norm_column(column_of(&s, x, width, i), column_of(&s, h, width, i), l->inner_norm, width, m->eps);
            run_linear(&s, (Linear[]){{l->gate, l->gate_bias, gate, m->inner}, {l->up, l->up_bias, up, m->inner}}, 2, h, width);
#pragma omp for simd
            for (int64_t i = 0; i < padded * m->inner; i++) gate[i] = gate[i] / (1.0f + exp_of(-gate[i])) * up[i];
            run_linear(&s, (Linear[]){{l->down, l->down_bias, x, width, 1}}, 1, gate, m->inner);
        }
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++) {
            Column c = column_of(&s, x, width, i);
            norm_column(c, c, m->last_norm, width, m->eps);
            out_of_column(c, x_rows + i * LANES * width, width, s.rows - i * LANES, width);
        }
        free(scores);
    }
    free(x);
}

#endif
