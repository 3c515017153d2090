#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To nearest, ties to even; for finite numbers. */
uint16_t bf16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float random_float(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (float)((double)(*state >> 11) / 4503599627370496.0 - 1.0);
}

void reference_row(const uint16_t *q, const uint16_t *cache, const int32_t *pages, int page_size, int tokens,
                   double out[D_V], double *lse) {
    const double scale = 1.0 / sqrt((double)D_QK);
    double *logits = malloc(sizeof *logits * (size_t)(tokens > 0 ? tokens : 1));
    double highest = -INFINITY, sum = 0.0;
    int t, i;
    for (i = 0; i < D_V; ++i) out[i] = 0.0;
    *lse = -INFINITY;
    if (logits == NULL || tokens == 0) {
        free(logits);
        return;
    }
    for (t = 0; t < tokens; ++t) {
        const uint16_t *k = cache + ((size_t)pages[t / page_size] * (size_t)page_size + (size_t)(t % page_size)) * D_QK;
        double dot = 0.0;
        for (i = 0; i < D_QK; ++i) dot += (double)bf16_to_float(q[i]) * (double)bf16_to_float(k[i]);
        logits[t] = dot * scale;
        if (logits[t] > highest) highest = logits[t];
    }
    for (t = 0; t < tokens; ++t) sum += exp(logits[t] - highest);
    for (t = 0; t < tokens; ++t) {
        const uint16_t *v = cache + ((size_t)pages[t / page_size] * (size_t)page_size + (size_t)(t % page_size)) * D_QK;
        const double weight = exp(logits[t] - highest) / sum;
        for (i = 0; i < D_V; ++i) out[i] += weight * (double)bf16_to_float(v[i]);
    }
    *lse = highest + log(sum);
    free(logits);
}

int compare_row(const char *what, const uint16_t *out, float lse, const double reference[D_V], double reference_lse) {
    int i;
    for (i = 0; i < D_V; ++i) {
        const double got = (double)bf16_to_float(out[i]), bound = 8e-4 + 2.01 / 128 * fabs(reference[i]);
        if (!(fabs(got - reference[i]) <= bound)) {
            printf("%s, column %d: %g, not %g\n", what, i, got, reference[i]);
            return 1;
        }
    }
    if (isinf(reference_lse) ? (double)lse != reference_lse
                             : !(fabs((double)lse - reference_lse) <= 1e-6 + 8.01 / 65536 * fabs(reference_lse))) {
        printf("%s, lse: %g, not %g\n", what, (double)lse, reference_lse);
        return 1;
    }
    return 0;
}
