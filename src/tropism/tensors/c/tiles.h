/* Products of small matrices that lie in the caches, and functions of vectors; for attention.c. */

#include "common.h"

#if defined(__AVX512F__)
#define LANES 16 /* numbers of a vector of the processor: GCC is slow with wider ones */
#define ROWS 8   /* whose sums of two vectors each fit the registers */
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#else
#define LANES 4
#define ROWS 4
#endif
#define GRAIN 8 /* a multiple of ROWS */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* 2^x for x <= 1, relative error about 1e-7 (Cephes); 0 below -125. */
static inline float power(float given) {
    float x = given < -125.0f ? -125.0f : given;
    float n = rintf(x), r = x - n;
    float p = 1.535336188319500e-4f;
    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    union { float f; int32_t i; } made = {p * r + 1.0f};
    made.i += (int32_t)((uint32_t)(int32_t)n << 23);
    return given < -125.0f ? 0.0f : made.f;
}

/* tanh(x), relative error about 1e-7 (Cephes). */
static inline float tanh_of(float x) {
    float z = x * x, p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x, far = 1.0f - 2.0f / (exp_of(2.0f * fabsf(x)) + 1.0f);
    return fabsf(x) < 0.625f ? near : copysignf(far, x);
}

/* c[i][j] = sum over p of a[i * row + p * step] * b[p][j], added to c if `add`, for ROWS rows and some vectors of columns. */
#define PRODUCT(NAME, VECTORS)                                                                                              \
static void NAME(const float *a, int64_t row, int64_t step, const float *b, int64_t width, int64_t depth, float *c,         \
                 int64_t c_width, int add) {                                                                                \
    lanes sum[ROWS][VECTORS];                                                                                               \
    _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++)                                                                 \
        _Pragma("GCC unroll 4") for (int j = 0; j < VECTORS; j++)                                                           \
            sum[i][j] = add ? *(const lanes *)(c + i * c_width + j * LANES) : (lanes){0};                                   \
    for (int64_t p = 0; p < depth; p++) {                                                                                   \
        lanes along[VECTORS];                                                                                               \
        _Pragma("GCC unroll 4") for (int j = 0; j < VECTORS; j++) along[j] = *(const lanes *)(b + p * width + j * LANES);    \
        _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++) {                                                           \
            float one = a[i * row + p * step];                                                                              \
            _Pragma("GCC unroll 4") for (int j = 0; j < VECTORS; j++) sum[i][j] += one * along[j];                          \
        }                                                                                                                   \
    }                                                                                                                       \
    _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; i++)                                                                 \
        _Pragma("GCC unroll 4") for (int j = 0; j < VECTORS; j++) *(lanes *)(c + i * c_width + j * LANES) = sum[i][j];       \
}
PRODUCT(product_two, 2)
PRODUCT(product_one, 1)

/* The same for any rows and columns, multiples of GRAIN and LANES. */
static void product(const float *a, int64_t row, int64_t step, const float *b, int64_t width, int64_t depth, float *c,
                    int64_t c_width, int64_t rows, int64_t columns, int add) {
    int64_t j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        for (int64_t i = 0; i < rows; i += ROWS)
            product_two(a + i * row, row, step, b + j, width, depth, c + i * c_width + j, c_width, add);
    if (j == columns) return;
    for (int64_t i = 0; i < rows; i += ROWS)
        product_one(a + i * row, row, step, b + j, width, depth, c + i * c_width + j, c_width, add);
}
