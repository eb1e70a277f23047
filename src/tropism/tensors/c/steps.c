/* Several decoding steps of a Llama-like model in one call, each with a token for every row; see ../../models/step.py.

   A row ends at a stop or its limit; the others go on. Many rows are shared out to threads, each of which computes all steps of
   its rows and waits for nobody. */

#include <omp.h>

#include "choice.h"
#include "step.h"

#ifdef __AVX512F__

#define APART 32 /* rows of a thread at least, if threads work apart */

/* Cosines and sines of `Model` are (most, rows, …) here. */
typedef struct {
    int64_t most, vocabulary, stops;
    float temperature; /* 0: the likeliest token */
    const float *embedding, *head, *head_bias;
    const uint8_t *absent; /* 1 for ids that are never chosen; may be missing */
    const int64_t *stop;
    const int64_t *last, *written, *limit; /* of each row: its last token, its tokens in own pages, how many it may get */
    const double *number;                  /* (rows, most) */
    int64_t *token, *made;                 /* (rows, most) and (rows,) */
    float *logp;                           /* (rows, most) */
} Steps;

/* The first token with the largest logit. */
static int64_t likeliest(const float *logits, int64_t width) {
    int64_t found = 0;
    for (int64_t i = 1; i < width; i++)
        if (logits[i] > logits[found]) found = i;
    return found;
}

static int ends(const Steps *s, int64_t token) {
    for (int64_t i = 0; i < s->stops; i++)
        if (s->stop[i] == token) return 1;
    return 0;
}

/* The next token of a row, `made` after the first. */
static void choose_for(const Steps *s, int64_t r, int64_t made, float *logits, float *weight) {
    int64_t place = r * s->most + made;
    if (s->absent)
        for (int64_t i = 0; i < s->vocabulary; i++) logits[i] = s->absent[i] ? -INFINITY : logits[i];
    if (s->temperature == 0) {
        s->token[place] = likeliest(logits, s->vocabulary);
        s->logp[place] = 0;
        return;
    }
    if (s->temperature != 1)
        for (int64_t i = 0; i < s->vocabulary; i++) logits[i] /= s->temperature;
    s->token[place] = chosen_token(logits, s->number[place], weight, s->vocabulary, s->logp + place);
}

/* All steps of the rows [first, last). */
static void run_rows(const Model *m, const Rows *given, const Steps *s, int64_t first, int64_t last) {
    int64_t rows = last - first, width = m->width, turned = m->turned, most_pages = given->start[last] - given->start[first];
    int64_t *going = malloc(sizeof(int64_t) * (5 * rows + 1 + 2 * most_pages)), *start = going + rows, *shared = start + rows + 1;
    int64_t *new_page = shared + rows, *at = new_page + rows, *page = at + rows, *seen = page + most_pages, count = rows;
    float *x = malloc(sizeof(float) * rows * (width + turned + turned / 2 + 2 * s->vocabulary));
    float *cosine = x + rows * width, *sine = cosine + rows * turned, *logits = sine + rows * (turned / 2);
    float *weights = logits + rows * s->vocabulary;
    for (int64_t i = 0; i < rows; i++) going[i] = first + i, s->made[first + i] = 0;
    for (int64_t t = 0; t < s->most && count; t++) {
        Model now = *m;
        Rows a = *given;
        int64_t pages = 0, left = 0;
        for (int64_t i = 0; i < count; i++) {
            int64_t r = going[i], mine = given->start[r], own = s->written[r] + t, end = mine + given->shared[r] + own / PAGE;
            start[i] = pages, shared[i] = given->shared[r], new_page[i] = given->page[end], at[i] = own % PAGE;
            for (int64_t j = mine; j <= end; j++, pages++) {
                page[pages] = given->page[j];
                seen[pages] = j == end ? at[i] + 1 : j < mine + shared[i] ? given->seen[j] : PAGE;
            }
            int64_t token = t ? s->token[r * s->most + t - 1] : s->last[r], turn = t * given->rows + r;
            memcpy(x + i * width, s->embedding + token * width, sizeof(float) * width);
            memcpy(cosine + i * turned, m->cosine + turn * turned, sizeof(float) * turned);
            memcpy(sine + i * (turned / 2), m->sine + turn * (turned / 2), sizeof(float) * (turned / 2));
        }
        start[count] = pages;
        a.rows = count, a.start = start, a.page = page, a.seen = seen, a.shared = shared;
        now.cosine = cosine, now.sine = sine, now.page = new_page, now.at = at;
        one_step(&now, &a, x);
        linear_rows(x, s->head, s->head_bias, logits, count, width, s->vocabulary);
#pragma omp parallel for if (count * s->vocabulary > SMALL)
        for (int64_t i = 0; i < count; i++) choose_for(s, going[i], t, logits + i * s->vocabulary, weights + i * s->vocabulary);
        for (int64_t i = 0; i < count; i++) {
            int64_t r = going[i];
            s->made[r] = t + 1;
            if (t + 1 < s->limit[r] && !ends(s, s->token[r * s->most + t])) going[left++] = r;
        }
        count = left;
    }
    free(going);
    free(x);
}

void several_steps(const Model *m, const Rows *given, const Steps *s) {
    int64_t rows = given->rows, threads = omp_get_max_threads();
    if (rows < APART * threads) { /* one after the other: operations have all threads, which they have not inside a team */
        run_rows(m, given, s, 0, rows);
        return;
    }
#pragma omp parallel for schedule(static, 1)
    for (int64_t part = 0; part < threads; part++) run_rows(m, given, s, rows * part / threads, rows * (part + 1) / threads);
}

#endif
