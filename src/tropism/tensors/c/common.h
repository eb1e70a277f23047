/* What the compiled operations share. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SMALL 32768 /* numbers that one thread handles sooner than two can begin */

/* exp(x): 2^n times a polynomial of the rest (Cephes), relative error about 1e-7; 0 below -87, at most exp(88). */
static inline float exp_of(float given) {
    float x = given < -87.0f ? -87.0f : given > 88.0f ? 88.0f : given;
    float n = rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } power = {((int32_t)n + 127) << 23};
    return given < -87.0f ? 0.0f : p * power.f;
}

/* silu(gate) * up. */
static inline float gated_of(float gate, float up) { return gate / (1.0f + exp_of(-gate)) * up; }

/* Of the same: the gradients of gate and up, given that of the result. Returns silu(gate). */
static inline float gated_slopes(float gate, float up, float slope, float *gate_back, float *up_back) {
    float open = 1.0f / (1.0f + exp_of(-gate)), through = gate * open;
    *gate_back = slope * up * (open + through * (1.0f - open));
    *up_back = slope * through;
    return through;
}
