/* Parts of the layers of a model, forward and backward, in one pass over their numbers each; see ../fused.py.

   Every output is computed by one thread in a fixed order, so it does not depend on the number of threads. */

#include "common.h"

#define ROWS 64 /* whose gradients of a weight are added up one after the other */

/* out = x / sqrt(mean(x^2) + eps) * (weight + plus), for each row of x. */
void rms(const float *x, const float *weight, float *out, int64_t rows, int64_t width, float eps, float plus) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++) {
        const float *in = x + r * width;
        float *to = out + r * width, total = 0;
        for (int64_t d = 0; d < width; d++) total += in[d] * in[d];
        float scale = 1.0f / sqrtf(total / width + eps);
        for (int64_t d = 0; d < width; d++) to[d] = in[d] * scale * (weight[d] + plus);
    }
}

/* Of the same: the gradient of x, given that of `out`; part (rows / ROWS rounded up, width) adds up to that of the weight. */
void rms_back(const float *x, const float *weight, const float *slope, float *back, float *part, int64_t rows, int64_t width,
              float eps, float plus) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t first = 0; first < rows; first += ROWS) {
        float *sum = part + first / ROWS * width;
        memset(sum, 0, width * sizeof(float));
        for (int64_t r = first; r < first + ROWS && r < rows; r++) {
            const float *in = x + r * width, *s = slope + r * width;
            float *to = back + r * width, squares = 0, along = 0;
            for (int64_t d = 0; d < width; d++) squares += in[d] * in[d];
            float scale = 1.0f / sqrtf(squares / width + eps);
            for (int64_t d = 0; d < width; d++) along += s[d] * (weight[d] + plus) * in[d];
            float shift = along * scale * scale * scale / width;
            for (int64_t d = 0; d < width; d++) to[d] = s[d] * (weight[d] + plus) * scale - in[d] * shift;
            for (int64_t d = 0; d < width; d++) sum[d] += s[d] * in[d] * scale;
        }
    }
}

/* out = silu(gate) * up; out may be gate. */
void gated(const float *gate, const float *up, float *out, int64_t count) {
#pragma omp parallel for simd schedule(static) if (parallel : count > SMALL)
    for (int64_t i = 0; i < count; i++) out[i] = gated_of(gate[i], up[i]);
}

/* Of the same: the gradients of gate and up, given that of `out`. */
void gated_back(const float *gate, const float *up, const float *slope, float *gate_back, float *up_back, int64_t count) {
#pragma omp parallel for simd schedule(static) if (parallel : count > SMALL)
    for (int64_t i = 0; i < count; i++) gated_slopes(gate[i], up[i], slope[i], gate_back + i, up_back + i);
}

/* Heads (rows, heads, size), whose rows begin `step` apart, with the first `turned` numbers of each head turned: with their
   halves a and b, (a cos - b sin, b cos + a sin). Row r has row r % angles of cosine (angles, turned) and of sine (angles,
   sine_width), where sine_width is `turned`, or half of it if both halves are equal. back: the gradient of the heads, given
   that of the turned ones. */
void turn(const float *x, const float *cosine, const float *sine, float *out, int64_t rows, int64_t heads, int64_t size,
          int64_t step, int64_t turned, int64_t angles, int64_t sine_width, int64_t back) {
    int64_t half = turned / 2;
#pragma omp parallel for schedule(static) if (rows * heads * size > SMALL)
    for (int64_t r = 0; r < rows; r++) {
        const float *c = cosine + r % angles * turned, *d = c + half;
        const float *s = sine + r % angles * sine_width, *z = s + sine_width - half;
        for (int64_t h = 0; h < heads; h++) {
            const float *a = x + r * step + h * size, *b = a + half;
            float *to = out + (r * heads + h) * size, *upper = to + half;
            if (back) {
                for (int64_t i = 0; i < half; i++) to[i] = a[i] * c[i] + b[i] * z[i];
                for (int64_t i = 0; i < half; i++) upper[i] = b[i] * d[i] - a[i] * s[i];
            } else {
                for (int64_t i = 0; i < half; i++) to[i] = a[i] * c[i] - b[i] * s[i];
                for (int64_t i = 0; i < half; i++) upper[i] = b[i] * d[i] + a[i] * z[i];
            }
            if (size > turned) memcpy(to + turned, a + turned, (size - turned) * sizeof(float));
        }
    }
}
