/* A decoding step of a Llama-like model: one new token of each row through all layers; see ../../models/step.py.

       x += out(attention(norm(x)))      x += down(silu(gate(norm(x))) * up(norm(x)))

   All layers run in one call, so nothing waits for Python between them. Activations are panels of rows (products.h), except
   that queries, keys and values go row by row. */

#include "step.h"

#include "products.h"

#ifdef __AVX512F__ /* without it the libraries that torch multiplies with are faster */

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

/* A head of a column turned to the positions of its rows. */
static void turn_column(Column x, Column cosine, Column sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        lanes *a = (lanes *)(x.at + i * x.step), *b = (lanes *)(x.at + (i + half) * x.step), low = *a, high = *b;
        lanes s = *(const lanes *)(sine.at + i * sine.step);
        *a = low * *(const lanes *)(cosine.at + i * cosine.step) - high * s;
        *b = high * *(const lanes *)(cosine.at + (i + half) * cosine.step) + low * s;
    }
}

/* One head of the queries, keys or values of a column, row by row: queries to `q`, the others to pages. */
static void place_head(const Model *m, const Layer *l, const Rows *a, Column from, Column cosine, Column sine, int64_t vector,
                       int64_t head, float *q) {
    int64_t rows = a->rows - vector * LANES < LANES ? a->rows - vector * LANES : LANES, size = a->size;
    int64_t kv = head < a->heads ? -1 : (head - a->heads) % a->kv_heads, value = head >= a->heads + a->kv_heads;
    const float *norm = kv < 0 ? l->query_norm : l->key_norm;
    float *to[LANES];
    for (int64_t i = 0; i < rows; i++) {
        int64_t r = vector * LANES + i;
        to[i] = kv < 0 ? q + (r * a->heads + head) * size
                       : (value ? l->values : l->keys) + ((m->page[r] * a->kv_heads + kv) * PAGE + m->at[r]) * size;
        for (int64_t d = 0; d < size; d += LANES) __builtin_prefetch(to[i] + d, 1);
    }
    if (!value && norm) norm_column(from, from, norm, size, m->eps);
    if (!value) turn_column(from, cosine, sine, m->turned / 2);
    out_of_column(from, to, rows, size);
}

/* Where up to 16 rows begin. */
static void rows_at(float *x, int64_t step, float **to) {
    for (int i = 0; i < LANES; i++) to[i] = x + i * step;
}

/* x (rows, width), the embedded tokens, becomes the last hidden states. `given` says what the rows see. */
void one_step(const Model *m, const Rows *given, float *x_rows) {
    const Shape s = shape_of(given->rows);
    const int64_t padded = s.vectors * LANES, width = m->width, size = given->size, heads = given->heads, kv_heads = given->kv_heads;
    const int64_t all = heads + 2 * kv_heads, room = room_of(given);
    float *x = aligned_alloc(64, sizeof(float) * padded * (2 * width + (all + 2 * heads) * size + 2 * m->inner + m->turned / 2 * 3));
    float *h = x + padded * width, *qkv = h + padded * width, *q = qkv + padded * all * size, *mixed = q + padded * heads * size;
    float *gate = mixed + padded * heads * size, *up = gate + padded * m->inner;
    float *cosine = up + padded * m->inner, *sine = cosine + padded * m->turned;
    float *k = qkv + padded * heads * size, *v = k + padded * kv_heads * size;
#pragma omp parallel
    {
        float *scores = malloc(sizeof(float) * heads * room);
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++) {
            int64_t first = i * LANES, rows = s.rows - first, half = m->turned / 2;
            into_column(column_of(&s, x, width, i), x_rows + first * width, width, rows, width);
            into_column((Column){cosine + first * m->turned, LANES}, m->cosine + first * m->turned, m->turned, rows, m->turned);
            into_column((Column){sine + first * half, LANES}, m->sine + first * half, half, rows, half);
        }
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
                    Column turn = {cosine + i * LANES * m->turned, LANES}, by = {sine + i * LANES * (m->turned / 2), LANES};
                    place_head(m, l, &a, c, turn, by, i, head, q);
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
            for (int64_t i = 0; i < padded * m->inner; i++) gate[i] = gated_of(gate[i], up[i]);
            run_linear(&s, (Linear[]){{l->down, l->down_bias, x, width, 1}}, 1, gate, m->inner);
        }
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++) {
            Column c = column_of(&s, x, width, i);
            norm_column(c, c, m->last_norm, width, m->eps);
            float *to[LANES];
            rows_at(x_rows + i * LANES * width, width, to);
            out_of_column(c, to, s.rows - i * LANES, width);
        }
        free(scores);
    }
    free(x);
}

void linear_rows(const float *x_rows, const float *weight, const float *bias, float *out, int64_t rows, int64_t inputs, int64_t outputs) {
    const Shape s = shape_of(rows);
    float *x = aligned_alloc(64, sizeof(float) * s.vectors * LANES * (inputs + outputs)), *y = x + s.vectors * LANES * inputs;
#pragma omp parallel
    {
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++)
            into_column(column_of(&s, x, inputs, i), x_rows + i * LANES * inputs, inputs, rows - i * LANES, inputs);
        run_linear(&s, (Linear[]){{weight, bias, y, outputs}}, 1, x, inputs);
#pragma omp for
        for (int64_t i = 0; i < s.vectors; i++) {
            float *to[LANES];
            rows_at(out + i * LANES * outputs, outputs, to);
            out_of_column(column_of(&s, y, outputs, i), to, rows - i * LANES, outputs);
        }
    }
    free(x);
}

#endif
