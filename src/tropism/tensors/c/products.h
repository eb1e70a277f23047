/* Products of matrices with few rows, on panels: up to 64 rows side by side, so that each weight is multiplied by whole
   vectors of rows, is read as it lies, and needs no copy. Feature d of row 16 v + i of a panel is at (d * wide + v) * 16 + i,
   where `wide` is the panel's number of vectors; the panels of a step follow each other.

   A sum over the inputs has one order, so a row's result depends neither on the other rows nor on the number of threads. */

#pragma once

#include "vectors.h"

#define WIDEST 4   /* vectors in a panel: with 6 outputs they fill the registers of AVX-512 */
#define TILE 24    /* outputs of a job */
#define DEPTH 1024 /* inputs at a time, whose part of a panel fits the cache */

/* The rows of a step as panels, of nearly the same width. */
typedef struct {
    int64_t rows, vectors, panels;
} Shape;

static inline Shape shape_of(int64_t rows) {
    int64_t vectors = (rows + LANES - 1) / LANES;
    return (Shape){rows, vectors, (vectors + WIDEST - 1) / WIDEST};
}

/* The first vector of a panel. */
static inline int64_t first_of(const Shape *s, int64_t panel) { return panel * s->vectors / s->panels; }

/* Where the features of a vector of rows begin, and how far apart they are: `count` features in all. */
typedef struct {
    float *at;
    int64_t step;
} Column;

static inline Column column_of(const Shape *s, float *panels, int64_t count, int64_t vector) {
    int64_t panel = s->panels - 1;
    while (first_of(s, panel) > vector) panel--;
    int64_t first = first_of(s, panel), wide = first_of(s, panel + 1) - first;
    return (Column){panels + (first * count + vector - first) * LANES, wide * LANES};
}

/* `count` features of up to 16 rows: from where they begin `step` apart into a column, or out of it to where each begins. */
static void into_column(Column to, const float *x, int64_t step, int64_t rows, int64_t count) {
    for (int64_t d = 0; d < count; d += LANES) {
        lanes y[LANES] = {0};
        int64_t some = count - d < LANES ? count - d : LANES;
        for (int i = 0; i < LANES && i < rows; i++)
            if (some == LANES) y[i] = *(const lanes *)(x + i * step + d);
            else memcpy(&y[i], x + i * step + d, some * sizeof(float));
        turn_square(y);
        for (int64_t i = 0; i < some; i++) *(lanes *)(to.at + (d + i) * to.step) = y[i];
    }
}

static void out_of_column(Column from, float *const *to, int64_t rows, int64_t count) {
    for (int64_t d = 0; d < count; d += LANES) {
        lanes y[LANES] = {0};
        int64_t some = count - d < LANES ? count - d : LANES;
        for (int64_t i = 0; i < some; i++) y[i] = *(const lanes *)(from.at + (d + i) * from.step);
        turn_square(y);
        for (int i = 0; i < LANES && i < rows; i++)
            if (some == LANES) *(lanes *)(to[i] + d) = y[i];
            else memcpy(to[i] + d, &y[i], some * sizeof(float));
    }
}

/* S outputs of V vectors of rows: out[s] += sum of w[s][d] * x[d]; the weights of an output begin `step` apart. */
#define KERNEL(S, V)                                                                                       \
static void outputs_##S##_##V(const float *w, int64_t step, int64_t count, const float *x, float *out) {  \
    lanes sum[S][V];                                                                                       \
    for (int s = 0; s < S; s++)                                                                            \
        for (int v = 0; v < V; v++) sum[s][v] = ((const lanes *)out)[s * V + v];                           \
    for (int64_t d = 0; d < count; d++) {                                                                  \
        lanes in[V];                                                                                       \
        for (int v = 0; v < V; v++) in[v] = ((const lanes *)x)[d * V + v];                                 \
        for (int s = 0; s < S; s++)                                                                        \
            for (int v = 0; v < V; v++) sum[s][v] += w[s * step + d] * in[v];                              \
    }                                                                                                      \
    for (int s = 0; s < S; s++)                                                                            \
        for (int v = 0; v < V; v++) ((lanes *)out)[s * V + v] = sum[s][v];                                 \
}
#define KERNELS(S, V)                                                                                      \
KERNEL(S, V)                                                                                               \
KERNEL(1, V)                                                                                               \
static void outputs_##V(const float *w, int64_t step, int64_t count, const float *x, float *out, int64_t some) { \
    int64_t s = 0;                                                                                         \
    for (; s + S <= some; s += S) outputs_##S##_##V(w + s * step, step, count, x, out + s * V * LANES);    \
    for (; s < some; s++) outputs_1_##V(w + s * step, step, count, x, out + s * V * LANES);                \
}
KERNELS(6, 4)
KERNELS(8, 3)
KERNELS(12, 2)
KERNELS(24, 1)

/* A linear layer: weight (outputs, inputs) and bias (outputs,) or none; what it makes is added to `to` if `add`. */
typedef struct {
    const float *weight, *bias;
    float *to;
    int64_t outputs, add;
} Linear;

/* Runs layers with the same inputs, by all threads of the team. */
static void run_linear(const Shape *s, const Linear *layers, int number, const float *in, int64_t inputs) {
    int64_t jobs = 0;
    for (int i = 0; i < number; i++) jobs += (layers[i].outputs + TILE - 1) / TILE;
#pragma omp for schedule(dynamic)
    for (int64_t job = 0; job < jobs * s->panels; job++) {
        const Linear *layer = layers;
        int64_t panel = job % s->panels, tile = job / s->panels, first = first_of(s, panel), wide = first_of(s, panel + 1) - first;
        for (; tile >= (layer->outputs + TILE - 1) / TILE; layer++) tile -= (layer->outputs + TILE - 1) / TILE;
        int64_t begin = tile * TILE, some = layer->outputs - begin < TILE ? layer->outputs - begin : TILE;
        float *to = layer->to + (first * layer->outputs + begin * wide) * LANES;
        if (!layer->add) memset(to, 0, some * wide * LANES * sizeof(float));
        if (layer->bias)
            for (int64_t i = 0; i < some; i++)
                for (int64_t j = 0; j < wide * LANES; j++) to[i * wide * LANES + j] += layer->bias[begin + i];
        for (int64_t d = 0; d < inputs; d += DEPTH) {
            const float *w = layer->weight + begin * inputs + d, *x = in + (first * inputs + d * wide) * LANES;
            int64_t count = inputs - d < DEPTH ? inputs - d : DEPTH;
            switch (wide) {
            case 4: outputs_4(w, inputs, count, x, to, some); break;
            case 3: outputs_3(w, inputs, count, x, to, some); break;
            case 2: outputs_2(w, inputs, count, x, to, some); break;
            default: outputs_1(w, inputs, count, x, to, some);
            }
        }
    }
}
