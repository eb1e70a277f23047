/* Products of large matrices, c = a b or c += a b, for a team of threads; for mlp.c.

   b is laid out in panels of WIDE columns and a, where its columns lie together, in panels of TALL rows, so that the inner
   loop reads one number after the other (Goto and van de Geijn, 2008, doi 10.1145/1356052.1356053). A depth of more than
   DEEP or DEEP_TURNED is taken in steps. A sum over the depth has one order, whatever the number of rows and threads. */

#pragma once

#include <omp.h>

#include "vectors.h"

#define TALL 12         /* rows of a tile; with WIDE columns its sums fill the registers of AVX-512 */
#define WIDE 32         /* columns of a tile: two vectors */
#define BLOCK 4         /* tiles of rows, about, that a thread takes at once: their numbers fit the cache */
#define DEEP 512        /* depth of a step */
#define DEEP_TURNED 384 /* if a has to be laid out too */

/* Number (i, p) is at[i * row + p * step], where row or step is 1. */
typedef struct {
    const float *at;
    int64_t row, step;
} Matrix;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
static inline int64_t padded(int64_t count, int64_t size) { return parts(count, size) * size; }

/* The depth of a step, of which at most `most` are taken. */
static inline int64_t step_of(int64_t depth, int64_t most) { return parts(depth, parts(depth, most)); }

/* A tile of c, (TALL, WIDE), from a panel of b. */
#define TILE_OF(NAME, ROW, STEP)                                                                                   \
static void NAME(const float *a, int64_t row, int64_t depth, const float *b, float *c, int64_t c_row, int add) {  \
    lanes sum[TALL][2];                                                                                            \
    _Pragma("GCC unroll 16") for (int i = 0; i < TALL; i++) {                                                      \
        lanes *to = (lanes *)(c + i * c_row);                                                                      \
        __builtin_prefetch(to, 1), __builtin_prefetch(to + 1, 1);                                                  \
        sum[i][0] = add ? to[0] : (lanes){0}, sum[i][1] = add ? to[1] : (lanes){0};                                \
    }                                                                                                              \
    const float *quarter[4] = {a, a + 3 * ROW, a + 6 * ROW, a + 9 * ROW};                                          \
    for (int64_t p = 0; p < depth; p++, b += WIDE) {                                                               \
        const lanes x = ((const lanes *)b)[0], y = ((const lanes *)b)[1];                                          \
        _Pragma("GCC unroll 16") for (int i = 0; i < TALL; i++) {                                                  \
            const float one = quarter[i / 3][i % 3 * ROW];                                                         \
            sum[i][0] += one * x, sum[i][1] += one * y;                                                            \
        }                                                                                                          \
        _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) quarter[k] += STEP;                                    \
    }                                                                                                              \
    _Pragma("GCC unroll 16") for (int i = 0; i < TALL; i++) {                                                      \
        lanes *to = (lanes *)(c + i * c_row);                                                                      \
        to[0] = sum[i][0], to[1] = sum[i][1];                                                                      \
    }                                                                                                              \
}
TILE_OF(tile_of_rows, row, 1)
TILE_OF(tile_of_panel, 1, TALL)

/* The same at an edge, for fewer rows and columns. */
static void tile_at_edge(Matrix a, int64_t rows, int64_t depth, const float *b, float *c, int64_t c_row, int64_t columns, int add) {
    float panel[DEEP * TALL], whole[TALL * WIDE] = {0};
    for (int64_t p = 0; p < depth; p++)
        for (int64_t i = 0; i < TALL; i++) panel[p * TALL + i] = i < rows ? a.at[i * a.row + p * a.step] : 0;
    for (int64_t i = 0; i < rows && add; i++) memcpy(whole + i * WIDE, c + i * c_row, columns * sizeof(float));
    tile_of_panel(panel, 0, depth, b, whole, WIDE, add);
    for (int64_t i = 0; i < rows; i++) memcpy(c + i * c_row, whole + i * WIDE, columns * sizeof(float));
}

/* Lines [begin, end) of `count` numbers, which begin `step` apart, into panels (depth, wide); the last has zeros at its end. */
static inline __attribute__((always_inline)) void lay(const float *x, int64_t step, int64_t begin, int64_t end, int64_t depth,
                                                      int64_t count, const int64_t wide, float *to) {
    for (int64_t p = begin; p < end; p++) {
        int64_t j = 0;
        for (; j + wide <= count; j += wide) memcpy(to + j * depth + p * wide, x + p * step + j, wide * sizeof(float));
        for (int64_t k = j; j < count && k < j + wide; k++) to[j * depth + p * wide + k - j] = k < count ? x[p * step + k] : 0;
    }
}

/* One panel (depth, WIDE), of columns that begin `step` apart. */
static void lay_columns(const float *x, int64_t step, int64_t depth, int64_t columns, float *to) {
    for (int64_t p = 0; p < depth; p += LANES) {
        int64_t some = least(LANES, depth - p);
        for (int64_t j = 0; j < WIDE; j += LANES) {
            lanes y[LANES] = {0};
            for (int64_t i = 0; i < LANES && j + i < columns; i++) memcpy(&y[i], x + (j + i) * step + p, some * sizeof(float));
            turn_square(y);
            for (int64_t i = 0; i < some; i++) *(lanes *)(to + (p + i) * WIDE + j) = y[i];
        }
    }
}

/* b (depth, columns) in panels, by all threads of the team, which then have to wait for each other. */
static void lay_right(Matrix b, int64_t depth, int64_t columns, float *to) {
    if (b.step == 1) {
#pragma omp for schedule(static) nowait
        for (int64_t p = 0; p < depth; p += LANES) lay(b.at, b.row, p, least(p + LANES, depth), depth, columns, WIDE, to);
    } else {
#pragma omp for schedule(static) nowait
        for (int64_t j = 0; j < columns; j += WIDE)
            lay_columns(b.at + j * b.step, b.step, depth, least(WIDE, columns - j), to + j * depth);
    }
}

/* a (rows, depth) in panels; the same. */
static void lay_left(Matrix a, int64_t rows, int64_t depth, float *to) {
#pragma omp for schedule(static) nowait
    for (int64_t p = 0; p < depth; p += LANES) lay(a.at, a.step, p, least(p + LANES, depth), depth, rows, TALL, to);
}

/* The product of some rows with the panels `b`. If a.step is not 1, a is in panels. */
static void multiply_rows(Matrix a, int64_t rows, int64_t depth, const float *b, float *c, int64_t c_row, int64_t columns, int add) {
    for (int64_t j = 0; j < columns; j += WIDE)
        for (int64_t i = 0; i < rows; i += TALL) {
            const float *from = a.step == 1 ? a.at + i * a.row : a.at + i * depth, *with = b + j * depth;
            float *to = c + i * c_row + j;
            if (i + TALL > rows || j + WIDE > columns)
                tile_at_edge((Matrix){from, a.row, a.step}, least(TALL, rows - i), depth, with, to, c_row, least(WIDE, columns - j), add);
            else if (a.step == 1) tile_of_rows(from, a.row, depth, with, to, c_row, add);
            else tile_of_panel(from, 0, depth, with, to, c_row, add);
        }
}

/* How many blocks of rows a team takes, one after the other, and where a block begins. */
static inline int64_t blocks_of(int64_t rows) {
    int64_t threads = omp_get_num_threads();
    return threads * parts(parts(rows, TALL), threads * BLOCK);
}
static inline int64_t begin_of(int64_t block, int64_t blocks, int64_t rows) {
    return least(rows, parts(rows, TALL) * block / blocks * TALL);
}

static inline float *space(int64_t count) { return aligned_alloc(64, padded(count * sizeof(float), 64)); }
