/* Vectors of sixteen numbers, and squares of sixteen of them turned around. */

#pragma once

#include "common.h"

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t places __attribute__((vector_size(4 * LANES)));

/* Of two vectors a and b: the pieces of h numbers with an even place, of both in turn; `low + h` takes those with an odd one. */
#define LOW(h, j) ((j) / (2 * (h)) * 2 * (h) + (j) % (h) + ((j) % (2 * (h)) < (h) ? 0 : LANES))
#define EACH(F, h) F(h, 0), F(h, 1), F(h, 2), F(h, 3), F(h, 4), F(h, 5), F(h, 6), F(h, 7), \
                   F(h, 8), F(h, 9), F(h, 10), F(h, 11), F(h, 12), F(h, 13), F(h, 14), F(h, 15)

/* The sums of sixteen vectors. */
#define HALVE(h)                                                                      \
    for (int i = 0; i < h; i++) {                                                     \
        const places low = {EACH(LOW, h)}, high = low + h;                            \
        x[i] = __builtin_shuffle(x[i], x[i + h], low) + __builtin_shuffle(x[i], x[i + h], high); \
    }
static inline lanes sums_of(lanes *x) {
    HALVE(8) HALVE(4) HALVE(2) HALVE(1)
    return x[0];
}

/* Number j of vector i becomes number i of vector j. */
#define SWAP(h)                                                                       \
    for (int i = 0; i < LANES; i++)                                                   \
        if (!(i & h)) {                                                               \
            const places low = {EACH(LOW, h)}, high = low + h;                        \
            const lanes a = x[i], b = x[i + h];                                       \
            x[i] = __builtin_shuffle(a, b, low);                                      \
            x[i + h] = __builtin_shuffle(a, b, high);                                 \
        }
static inline void turn_square(lanes *x) { SWAP(8) SWAP(4) SWAP(2) SWAP(1) }
