/* The choice of a token; see decoding.c. */

#pragma once

#include <stdint.h>

/* The first token at which the cumulative probability of logits exceeds a number, and its log-probability. Sums are in double
   precision; `weight` has room for `width` numbers. */
int64_t chosen_token(const float *logits, double number, float *weight, int64_t width, float *logp);
