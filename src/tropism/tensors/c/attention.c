/* Attention of sequences that share prompts, with gradients; see ../attention.py.

   A unit is a prompt P with its answers A1 … AK. P A1 is one causal square, and so is each other answer, all of which see P
   too. A tile of TILE queries goes through the keys it sees, KEYS at a time. Scores are kept as s[key][query]. The sum of
   exponentials is kept relative to the highest score so far (arXiv 2205.14135); the backward pass computes the scores again.
   All scores are in units of log 2, so that exp is a power of 2.

   Each number is computed by one thread in a fixed order, so it does not depend on the number of threads. */

#include "tiles.h"

#define TILE 32 /* queries */
#define KEYS 64 /* of a step, a multiple of GRAIN */
#define LOG2E 1.44269504088896341f
#define LN2 0.693147180559945309f
#define LOW -1e30f /* below all scores; not -inf, as differences of it are taken */

typedef struct {
    int64_t tokens, heads, kv_heads, size, v_size, units, window; /* window 0: everything is seen */
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;          /* how far rows and heads are apart */
    float scale, softcap;                                         /* softcap 0: none */
    const float *q, *k, *v, *slopes, *sinks;                      /* (heads,) ALiBi's slopes and sinks, or null */
    const int64_t *unit;  /* (units, 5): where P A1 begins, its tokens, those of P, where A2 begins, the tokens of A2 … AK */
    const int64_t *first; /* (tokens,) the first token of P A1 or of the answer that a token belongs to */
    float *out, *log;     /* (tokens, heads, v_size), and of each query the logarithm of the sum of exponentials (heads, tokens) */
    const float *slope;   /* the gradient of out */
    float *along, *q_back, *k_back, *v_back; /* out * slope (heads, tokens), gradients (tokens, heads or kv_heads, size) */
} Attention;

typedef struct {
    int64_t begin, length, prompt, rest, rest_length, keys;
} Unit;

static int64_t up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

static Unit unit_of(const Attention *a, int64_t u) {
    const int64_t *x = a->unit + 5 * u;
    return (Unit){x[0], x[1], x[2], x[3], x[4], x[1] + x[4]};
}

/* The place in the whole sequence of a unit's token. */
static inline int64_t token(const Unit *u, int64_t i) { return i < u->length ? u->begin + i : u->rest + i - u->length; }

static float *room(int64_t count) { return aligned_alloc(64, up(count * sizeof(float), 64)); }

/* Rows of a head as (keys + GRAIN, padded), with zeros around them. */
static void gather(const float *x, int64_t row, const Unit *u, int64_t size, int64_t padded, float *to) {
    memset(to, 0, (u->keys + GRAIN) * padded * sizeof(float));
    for (int64_t i = 0; i < u->keys; i++) memcpy(to + i * padded, x + token(u, i) * row, size * sizeof(float));
}

static void scatter(const float *from, int64_t padded, const Unit *u, int64_t size, float *x, int64_t row) {
    for (int64_t i = 0; i < u->keys; i++) memcpy(x + token(u, i) * row, from + i * padded, size * sizeof(float));
}

/* The queries [begin, begin + count) of a unit, which see the keys [low, high] of the unit, at the distance `at` - key. */
typedef struct {
    int64_t begin, count, from, to;
    int32_t low[TILE], high[TILE], at[TILE];
} Seen;

/* What a tile sees of the prompt (part 0) or of its own answers (part 1). */
static void look(const Attention *a, const Unit *u, Seen *s, int part) {
    s->from = u->keys, s->to = 0;
    for (int64_t l = 0; l < TILE; l++) {
        if (l >= s->count) { /* its results are not used */
            s->low[l] = 0, s->high[l] = INT32_MAX, s->at[l] = 1 << 30;
            continue;
        }
        int64_t q = s->begin + l, own = q - (token(u, q) - a->first[token(u, q)]);
        int64_t at = part ? q : q < u->length ? -1 : q - own + u->prompt;
        int64_t low = part ? own : 0, high = part ? q : q < u->length ? -1 : u->prompt - 1;
        if (a->window && low < at - a->window + 1) low = at - a->window + 1;
        s->low[l] = low, s->high[l] = high, s->at[l] = at;
        if (low <= high && low < s->from) s->from = low;
        if (low <= high && high + 1 > s->to) s->to = high + 1;
    }
}

/* The scores (count, TILE) of the keys from `begin`. */
static void scores(const Attention *a, const Seen *s, const float *turned, const float *k, int64_t padded, int64_t begin,
                   int64_t count, float slope, float *out) {
    product(k + begin * padded, padded, 1, turned, TILE, padded, out, TILE, count, TILE, 0);
    if (a->softcap) {
        float cap = a->softcap * LOG2E, less = 1.0f / cap;
        for (int64_t i = 0; i < count * TILE; i++) out[i] = cap * tanh_of(out[i] * less);
    }
    if (slope)
        for (int64_t k = 0; k < count; k++)
            for (int l = 0; l < TILE; l++) out[k * TILE + l] -= slope * (s->at[l] - (int32_t)(begin + k));
    int hidden = 0;
    for (int l = 0; l < TILE; l++) hidden |= s->low[l] > begin || s->high[l] < begin + count - 1;
    if (hidden)
        for (int64_t k = 0; k < count; k++) {
            int32_t key = begin + k;
            for (int l = 0; l < TILE; l++)
                out[k * TILE + l] = key < s->low[l] || key > s->high[l] ? -INFINITY : out[k * TILE + l];
        }
}

/* Rows of `count` queries (TILE, padded) times `scale`, with zeros around them, and the same turned (padded, TILE). */
static void load(const float *x, int64_t row, const Unit *u, int64_t begin, int64_t count, int64_t size, int64_t padded,
                 float scale, float *to, float *turned) {
    memset(to, 0, TILE * padded * sizeof(float));
    for (int64_t l = 0; l < count; l++) {
        const float *from = x + token(u, begin + l) * row;
        for (int64_t d = 0; d < size; d++) to[l * padded + d] = from[d] * scale;
    }
    for (int64_t d = 0; d < padded; d++)
        for (int l = 0; l < TILE; l++) turned[d * TILE + l] = to[l * padded + d];
}

static void tile_forward(const Attention *a, const Unit *u, int64_t h, int64_t begin, int64_t tokens, const float *k,
                         const float *v, int64_t padded, int64_t v_padded, float *scratch) {
    float *q = scratch, *turned = q + TILE * padded, *s = turned + TILE * padded, *mixed = s + KEYS * TILE;
    float top[TILE], total[TILE], factor[TILE], slope = a->slopes ? a->slopes[h] * LOG2E : 0;
    Seen seen = {.begin = begin, .count = tokens};
    load(a->q + h * a->q_head, a->q_row, u, begin, tokens, a->size, padded, a->scale * LOG2E, q, turned);
    memset(mixed, 0, TILE * v_padded * sizeof(float));
    for (int l = 0; l < TILE; l++) top[l] = LOW, total[l] = 0;
    for (int part = 0; part < 2; part++) {
        look(a, u, &seen, part);
        for (int64_t key = seen.from; key < seen.to; key += KEYS) {
            int64_t count = up(seen.to - key < KEYS ? seen.to - key : KEYS, GRAIN);
            scores(a, &seen, turned, k, padded, key, count, slope, s);
            for (int l = 0; l < TILE; l++) factor[l] = top[l];
            for (int64_t i = 0; i < count; i += GRAIN)
                for (int l = 0; l < TILE; l++) {
                    float most = top[l];
                    for (int j = 0; j < GRAIN; j++) most = s[(i + j) * TILE + l] > most ? s[(i + j) * TILE + l] : most;
                    top[l] = most;
                }
            for (int l = 0; l < TILE; l++) factor[l] = power(factor[l] - top[l]), total[l] *= factor[l];
            for (int64_t i = 0; i < count; i += GRAIN)
                for (int l = 0; l < TILE; l++) {
                    float sum = 0;
                    for (int j = 0; j < GRAIN; j++) sum += s[(i + j) * TILE + l] = power(s[(i + j) * TILE + l] - top[l]);
                    total[l] += sum;
                }
            for (int l = 0; l < TILE; l++)
                for (int64_t d = 0; d < v_padded; d++) mixed[l * v_padded + d] *= factor[l];
            product(s, 1, TILE, v + key * v_padded, v_padded, count, mixed, v_padded, TILE, v_padded, 1);
        }
    }
    for (int64_t l = 0; l < tokens; l++) {
        int64_t at = token(u, begin + l);
        float *to = a->out + (at * a->heads + h) * a->v_size, most = top[l];
        if (a->sinks) {
            most = a->sinks[h] * LOG2E > most ? a->sinks[h] * LOG2E : most;
            total[l] = total[l] * power(top[l] - most) + power(a->sinks[h] * LOG2E - most);
        }
        float share = (a->sinks ? power(top[l] - most) : 1.0f) / total[l];
        for (int64_t d = 0; d < a->v_size; d++) to[d] = mixed[l * v_padded + d] * share;
        a->log[h * a->tokens + at] = most * LN2 + logf(total[l]);
    }
}

static void tile_backward(const Attention *a, const Unit *u, int64_t h, int64_t begin, int64_t tokens, const float *k,
                          const float *v, float *k_back, float *v_back, int64_t padded, int64_t v_padded, float *scratch) {
    float *q = scratch, *turned = q + TILE * padded, *s = turned + TILE * padded, *back = s + KEYS * TILE;
    float *q_back = back + KEYS * TILE, *slope = q_back + TILE * padded, *slope_turned = slope + TILE * v_padded;
    float log[TILE] = {0}, along[TILE] = {0}, steep = a->slopes ? a->slopes[h] * LOG2E : 0;
    Seen seen = {.begin = begin, .count = tokens};
    load(a->q + h * a->q_head, a->q_row, u, begin, tokens, a->size, padded, a->scale * LOG2E, q, turned);
    load(a->slope + h * a->v_size, a->heads * a->v_size, u, begin, tokens, a->v_size, v_padded, 1.0f, slope, slope_turned);
    memset(q_back, 0, TILE * padded * sizeof(float));
    for (int64_t l = 0; l < tokens; l++) {
        int64_t at = token(u, begin + l);
        const float *out = a->out + (at * a->heads + h) * a->v_size;
        for (int64_t d = 0; d < a->v_size; d++) along[l] += out[d] * slope[l * v_padded + d];
        log[l] = a->log[h * a->tokens + at] * LOG2E;
        a->along[h * a->tokens + at] = along[l];
    }
    for (int part = 0; part < 2; part++) {
        look(a, u, &seen, part);
        for (int64_t key = seen.from; key < seen.to; key += KEYS) {
            int64_t count = up(seen.to - key < KEYS ? seen.to - key : KEYS, GRAIN);
            scores(a, &seen, turned, k, padded, key, count, steep, s);
            product(v + key * v_padded, v_padded, 1, slope_turned, TILE, v_padded, back, TILE, count, TILE, 0);
            if (a->softcap) {
                float less = 1.0f / (a->softcap * LOG2E);
                for (int64_t i = 0; i < count; i++)
                    for (int l = 0; l < TILE; l++) {
                        float *x = s + i * TILE + l, *y = back + i * TILE + l;
                        float capped = (*x + steep * (seen.at[l] - (int32_t)(key + i))) * less;
                        float bend = *x > LOW ? 1.0f - capped * capped : 0.0f;
                        *x = power(*x - log[l]);
                        *y = *x * (*y - along[l]) * bend;
                    }
            } else {
                for (int64_t i = 0; i < count; i++)
                    for (int l = 0; l < TILE; l++) {
                        float *x = s + i * TILE + l, *y = back + i * TILE + l;
                        *x = power(*x - log[l]);
                        *y = *x * (*y - along[l]);
                    }
            }
            product(back, 1, TILE, k + key * padded, padded, count, q_back, padded, TILE, padded, 1);
            product(s, TILE, 1, slope, v_padded, TILE, v_back + key * v_padded, v_padded, count, v_padded, 1);
            product(back, TILE, 1, q, padded, TILE, k_back + key * padded, padded, count, padded, 1);
        }
    }
    for (int64_t l = 0; l < tokens; l++) {
        float *to = a->q_back + (token(u, begin + l) * a->heads + h) * a->size;
        for (int64_t d = 0; d < a->size; d++) to[d] = q_back[l * padded + d] * a->scale;
    }
}

/* Forward pass, or backward pass if `back`. */
static void attention(const Attention *a, int back) {
    int64_t most = 0, padded = up(a->size, LANES), v_padded = up(a->v_size, LANES), shared = a->heads / a->kv_heads;
    for (int64_t u = 0; u < a->units; u++) most = unit_of(a, u).keys > most ? unit_of(a, u).keys : most;
    int64_t rows = most + GRAIN, both = padded + v_padded;
#pragma omp parallel
    {
        float *k = room(rows * both), *v = k + rows * padded;
        float *k_back = back ? room(rows * both) : NULL, *v_back = k_back + rows * padded;
        float *scratch = room(TILE * (3 * padded + 2 * v_padded + 2 * KEYS));
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < a->units * a->kv_heads; job++) {
            Unit u = unit_of(a, job / a->kv_heads);
            int64_t kv = job % a->kv_heads;
            gather(a->k + kv * a->k_head, a->k_row, &u, a->size, padded, k);
            gather(a->v + kv * a->v_head, a->v_row, &u, a->v_size, v_padded, v);
            if (back) memset(k_back, 0, rows * both * sizeof(float));
            for (int64_t h = kv * shared; h < (kv + 1) * shared; h++)
                for (int64_t begin = 0, end; begin < u.keys; begin = end) {
                    end = begin < u.length ? u.length : u.keys;
                    end = begin + TILE < end ? begin + TILE : end;
                    if (back) tile_backward(a, &u, h, begin, end - begin, k, v, k_back, v_back, padded, v_padded, scratch);
                    else tile_forward(a, &u, h, begin, end - begin, k, v, padded, v_padded, scratch);
                }
            if (back) {
                for (int64_t i = 0; i < u.keys * padded; i++) k_back[i] *= LN2; /* as queries are in units of log 2 */
                scatter(k_back, padded, &u, a->size, a->k_back + kv * a->size, a->kv_heads * a->size);
                scatter(v_back, v_padded, &u, a->v_size, a->v_back + kv * a->v_size, a->kv_heads * a->v_size);
            }
        }
        free(k), free(k_back), free(scratch);
    }
}

void attention_forward(const Attention *a) { attention(a, 0); }
void attention_backward(const Attention *a) { attention(a, 1); }
