/* What `step.c` and `steps.c` share. */

#pragma once

#include "pages.h"

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

/* x (rows, width), the embedded tokens, becomes the last hidden states. `given` says what the rows see. */
void one_step(const Model *m, const Rows *given, float *x);

/* out (rows, outputs) = x (rows, inputs) weight (outputs, inputs)^T + bias, which may be missing; a row depends on no other. */
void linear_rows(const float *x, const float *weight, const float *bias, float *out, int64_t rows, int64_t inputs, int64_t outputs);
