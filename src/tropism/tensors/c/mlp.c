/* Products of large matrices, and gated MLPs made of them, forward and backward; see ../matrices.py. */

#include "matrices.h"

#ifdef __AVX512F__ /* on other processors torch's products are used */

#define FEW (1 << 21) /* multiply-adds that one thread makes sooner than two can begin */

/* c (rows, columns) = a b, or c += a b if `add`; a (rows, depth) and b (depth, columns) as `Matrix` says. */
void multiply(const float *a_at, int64_t a_row, int64_t a_step, const float *b_at, int64_t b_row, int64_t b_step, float *c,
              int64_t c_row, int64_t rows, int64_t columns, int64_t depth, int64_t add) {
    int64_t most = step_of(depth, a_step == 1 ? DEEP : DEEP_TURNED), wide = padded(columns, WIDE), tall = padded(rows, TALL);
    float *right = space(depth * (wide + (a_step == 1 ? 0 : tall))), *left = right + depth * wide;
#pragma omp parallel if (rows * columns * depth > FEW)
    {
        for (int64_t p = 0; p < depth; p += most) {
            int64_t deep = least(most, depth - p);
            lay_right((Matrix){b_at + p * b_row, b_row, b_step}, deep, columns, right + p * wide);
            if (a_step != 1) lay_left((Matrix){a_at + p * a_step, a_row, a_step}, rows, deep, left + p * tall);
        }
#pragma omp barrier
        int64_t blocks = blocks_of(rows);
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t begin = begin_of(block, blocks, rows), count = begin_of(block + 1, blocks, rows) - begin;
            for (int64_t p = 0, deep; p < depth; p += deep) {
                deep = least(most, depth - p);
                Matrix a = a_step == 1 ? (Matrix){a_at + begin * a_row + p, a_row, 1} : (Matrix){left + p * tall + begin * deep, 1, TALL};
                multiply_rows(a, count, deep, right + p * wide, c + begin * c_row, c_row, columns, add || p);
            }
        }
    }
    free(right);
}

/* out = (silu(x gate^T) * (x up^T)) down^T, for weights as linear layers have them. */
typedef struct {
    int64_t rows, width, inner;
    const float *x, *gate, *up, *down;
    float *gated, *upped;  /* (rows, inner): x gate^T and x up^T, kept for the backward pass; or null */
    float *out;            /* (rows, width) */
    const float *slope;    /* the gradient of out */
    float *mixed, *gate_back, *up_back; /* (rows, inner): what `down` is multiplied with; the gradients of gated and upped */
    float *x_back;         /* (rows, width) */
} Mlp;

/* A whole matrix (depth, columns) in panels, one step of its depth after the other. */
static void lay_whole(Matrix b, int64_t depth, int64_t columns, float *to) {
    int64_t most = step_of(depth, DEEP), wide = padded(columns, WIDE);
    for (int64_t p = 0; p < depth; p += most)
        lay_right((Matrix){b.at + p * b.row, b.row, b.step}, least(most, depth - p), columns, to + p * wide);
}

static void multiply_whole(const float *a, int64_t rows, int64_t depth, const float *b, float *c, int64_t columns, int add) {
    int64_t most = step_of(depth, DEEP), wide = padded(columns, WIDE);
    for (int64_t p = 0; p < depth; p += most)
        multiply_rows((Matrix){a + p, depth, 1}, rows, least(most, depth - p), b + p * wide, c, columns, columns, add || p);
}

void mlp_forward(const Mlp *m) {
    int64_t rows = m->rows, width = m->width, inner = m->inner, half = width * padded(inner, WIDE), most = BLOCK * TALL * inner;
    int64_t third = inner * padded(width, WIDE), own_size = (m->gated ? 1 : 3) * most;
    float *gate = space(2 * half + third + omp_get_max_threads() * own_size), *up = gate + half, *down = up + half;
#pragma omp parallel
    {
        float *own = down + third + omp_get_thread_num() * own_size;
        lay_whole((Matrix){m->gate, 1, width}, width, inner, gate);
        lay_whole((Matrix){m->up, 1, width}, width, inner, up);
        lay_whole((Matrix){m->down, 1, inner}, inner, width, down);
#pragma omp barrier
        int64_t blocks = blocks_of(rows);
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t begin = begin_of(block, blocks, rows), count = begin_of(block + 1, blocks, rows) - begin;
            const float *x = m->x + begin * width;
            float *g = m->gated ? m->gated + begin * inner : own + most, *u = m->gated ? m->upped + begin * inner : own + 2 * most;
            multiply_whole(x, count, width, gate, g, inner, 0);
            multiply_whole(x, count, width, up, u, inner, 0);
#pragma omp simd
            for (int64_t i = 0; i < count * inner; i++) own[i] = gated_of(g[i], u[i]);
            multiply_whole(own, count, inner, down, m->out + begin * width, width, 0);
        }
    }
    free(gate);
}

/* The gradients of x, gated and upped, and `mixed`; those of the weights are products of these. */
void mlp_backward(const Mlp *m) {
    int64_t rows = m->rows, width = m->width, inner = m->inner, half = inner * padded(width, WIDE);
    float *gate = space(2 * half + width * padded(inner, WIDE)), *up = gate + half, *down = up + half;
#pragma omp parallel
    {
        lay_whole((Matrix){m->gate, width, 1}, inner, width, gate);
        lay_whole((Matrix){m->up, width, 1}, inner, width, up);
        lay_whole((Matrix){m->down, inner, 1}, width, inner, down);
#pragma omp barrier
        int64_t blocks = blocks_of(rows);
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            int64_t begin = begin_of(block, blocks, rows), count = begin_of(block + 1, blocks, rows) - begin, at = begin * inner;
            const float *g = m->gated + at, *u = m->upped + at;
            float *mixed = m->mixed + at, *gate_back = m->gate_back + at, *up_back = m->up_back + at, *x_back = m->x_back + begin * width;
            multiply_whole(m->slope + begin * width, count, width, down, mixed, inner, 0);
#pragma omp simd
            for (int64_t i = 0; i < count * inner; i++) mixed[i] = u[i] * gated_slopes(g[i], u[i], mixed[i], gate_back + i, up_back + i);
            multiply_whole(gate_back, count, inner, gate, x_back, width, 0);
            multiply_whole(up_back, count, inner, up, x_back, width, 1);
        }
    }
    free(gate);
}

#endif
