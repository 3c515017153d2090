/*
 * What dense decode computes, in plain C and double precision, and the bounds within which a result is right.
 */
#ifndef EXAMPLES_REFERENCE_H
#define EXAMPLES_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { D_QK = 576, D_V = 512 };

float bf16_to_float(uint16_t x);
uint16_t bf16_from_float(float x);

/* Uniform in [-1, 1), from a state that starts at any number but 0. */
float random_float(uint64_t *state);

/* One query row of D_QK against `tokens` cache rows, of which row t begins at cache[row(t) * D_QK] with
 * row(t) = pages[t / page_size] * page_size + t % page_size. */
void reference_row(const uint16_t *q, const uint16_t *cache, const int32_t *pages, int page_size, int tokens,
                   double out[D_V], double *lse);

/* 0 if a row computed by the library is within the bounds; says which element is not. */
int compare_row(const char *what, const uint16_t *out, float lse, const double reference[D_V], double reference_lse);

#ifdef __cplusplus
}
#endif

#endif
