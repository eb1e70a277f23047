/* Small operations of decoding in one pass over their numbers each; see ../native.py. All tensors are float32.

   Every output is computed by one thread in a fixed order, so it does not depend on the number of threads. */

#include "choice.h"
#include "pages.h"

/* Puts x (rows, heads, size), whose rows begin `step` apart, into pages (pages, heads, PAGE, size). */
void put(float *pages, const int64_t *page, const int64_t *at, const float *x, int64_t rows, int64_t heads, int64_t size,
         int64_t step) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(pages + ((page[r] * heads + h) * PAGE + at[r]) * size, x + r * step + h * size, size * sizeof(float));
}

int64_t chosen_token(const float *logits, double number, float *weight, int64_t width, float *logp) {
    float top = -INFINITY;
    double total = 0, passed = 0;
    for (int64_t i = 0; i < width; i++) top = logits[i] > top ? logits[i] : top;
    for (int64_t i = 0; i < width; i++) weight[i] = exp_of(logits[i] - top);
    for (int64_t i = 0; i < width; i++) total += weight[i];
    int64_t found = 0; /* the last possible one if roundings hide that the number was passed */
    for (int64_t i = 0; i < width && passed <= number * total; i++) {
        passed += weight[i];
        if (weight[i] > 0) found = i;
    }
    *logp = logits[found] - top - (float)log(total);
    return found;
}

/* For each row of logits x and its uniform number: the chosen token, and its log-probability. */
void sample(const float *x, const double *number, int64_t *token, float *logp, int64_t rows, int64_t width) {
#pragma omp parallel if (rows * width > SMALL)
    {
        float *weight = malloc(sizeof(float) * width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) token[r] = chosen_token(x + r * width, number[r], weight, width, logp + r);
        free(weight);
    }
}

/* Attention of one query per row to the pages of its row: out (rows, heads, v_size). */
void attend(const Rows *a, const float *q, float *out) {
    int64_t room = room_of(a);
#pragma omp parallel
    {
        float *scores = malloc(sizeof(float) * a->heads * room);
        attend_rows(a, q, scores, room, out);
        free(scores);
    }
}
