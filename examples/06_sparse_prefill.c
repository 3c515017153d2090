/*
 * DeepSeek Sparse Attention over prompts: two prompts of different lengths, laid one after the other, every query
 * token attending to at most TOPK of the tokens before it.
 *
 * Teaches: there is no batch axis and no mask argument. Prompts share one array of rows, and the indices, global
 * to it, say who sees what: causality and the borders between prompts too. A token with fewer than TOPK tokens
 * before it says so by a length; its further indices are never looked at. No plan, no workspace.
 * Checks rows against plain C and prints what it ran on, how long a call took, and how fast that is.
 */
#include "common/device.h"
#include "common/reference.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROMPTS = 2 };

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What a model's indexer does by scores: `topk` different tokens out of the `n` first, in any order. Here it takes the
 * latest quarter and spreads the others, so that neighbouring queries share most, as they do in practice. */
static void choose(int32_t *indices, int topk, int n, uint64_t *state) {
    const int latest = topk / 4, far = topk - latest;
    for (int i = 0; i < latest; ++i) indices[i] = n - 1 - i;
    for (int i = 0; i < far; ++i) {
        /* One token out of each of `far` ranges. */
        const long long from = (long long)(n - latest) * i / far, to = (long long)(n - latest) * (i + 1) / far;
        const double at = (double)(random_float(state) + 1.0f) * 0.5;
        indices[latest + i] = (int32_t)(from + (long long)(at * 0.999 * (double)(to - from)));
    }
}

int main(void) {
    device *d = device_open();
    flashmla_sparse_prefill_params_t p = FLASHMLA_SPARSE_PREFILL_PARAMS_INIT;
    flashmla_kernel_info_t kernel = FLASHMLA_KERNEL_INFO_INIT;
    float times[16];
    uint64_t state = 42;
    int failed = 0, rows = 0;
    if (d == NULL) return 1;

    const int gpu = device_is_gpu(d), heads = gpu ? 128 : 16, topk = gpu ? 1024 : 64, repetitions = gpu ? 15 : 3;
    const int length[PROMPTS] = {gpu ? 3000 : 150, gpu ? 1096 : 42};
    const int tokens = length[0] + length[1];
    const size_t q_count = (size_t)tokens * (size_t)heads * D_QK, kv_count = (size_t)tokens * D_QK;
    const size_t out_rows = (size_t)tokens * (size_t)heads, index_count = (size_t)tokens * (size_t)topk;
    uint16_t *q = malloc(q_count * 2), *kv = malloc(kv_count * 2), *out = malloc(out_rows * D_V * 2);
    float *lse = malloc(out_rows * sizeof *lse);
    int32_t *indices = malloc(index_count * sizeof *indices), *lens = malloc((size_t)tokens * sizeof *lens);
    if (!q || !kv || !out || !lse || !indices || !lens) return 1;
    for (size_t i = 0; i < q_count; ++i) q[i] = bf16_from_float(random_float(&state));
    for (size_t i = 0; i < kv_count; ++i) kv[i] = bf16_from_float(random_float(&state));

    double attended = 0;
    for (int prompt = 0, first = 0; prompt < PROMPTS; first += length[prompt++]) {
        for (int i = 0; i < length[prompt]; ++i) {
            int32_t *own = indices + (size_t)(first + i) * (size_t)topk;
            /* Token i of a prompt sees tokens 0 .. i of it. */
            const int seen = i + 1, count = seen < topk ? seen : topk;
            if (seen <= topk) {
                for (int k = 0; k < seen; ++k) own[k] = k;
            } else {
                choose(own, topk, seen, &state);
            }
            for (int k = 0; k < count; ++k) own[k] += first;
            for (int k = count; k < topk; ++k) own[k] = 2147480000; /* anything */
            lens[first + i] = count;
            attended += count;
        }
    }

    p.s_q = tokens, p.h_q = heads, p.s_kv = tokens, p.d_qk = D_QK, p.topk = topk;
    check(flashmla_sparse_prefill_query(device_context(d), &p, &kernel), "flashmla_sparse_prefill_query");
    printf("kernel: %s\n", kernel.name);
    printf("shapes: prompts of %d and %d tokens, %d heads, d %d/%d, at most %d rows a token\n", length[0], length[1],
           heads, D_QK, D_V, topk);

    /* All tensors contiguous: strides stay 0. */
    void *d_q = device_alloc(d, q_count * 2), *d_kv = device_alloc(d, kv_count * 2);
    void *d_indices = device_alloc(d, index_count * sizeof *indices);
    void *d_lens = device_alloc(d, (size_t)tokens * sizeof *lens);
    void *d_out = device_alloc(d, out_rows * D_V * 2), *d_lse = device_alloc(d, out_rows * sizeof *lse);
    device_upload(d, d_q, q, q_count * 2);
    device_upload(d, d_kv, kv, kv_count * 2);
    device_upload(d, d_indices, indices, index_count * sizeof *indices);
    device_upload(d, d_lens, lens, (size_t)tokens * sizeof *lens);
    p.q.data = d_q, p.kv.data = d_kv, p.indices.data = d_indices, p.topk_length.data = d_lens;
    p.out.data = d_out, p.lse.data = d_lse;
    /* An engine asks once, with its maxima; so far the answer is always 0. */
    check(flashmla_sparse_prefill_workspace_size(device_context(d), &p, &p.workspace_size),
          "flashmla_sparse_prefill_workspace_size");
    p.workspace = device_alloc(d, p.workspace_size);

    /* The first calls warm up. */
    for (int i = -2; i < repetitions; ++i) {
        device_timer_start(d);
        check(flashmla_sparse_prefill(device_context(d), &p, device_stream(d)), "flashmla_sparse_prefill");
        const float ms = device_timer_stop(d);
        if (i >= 0) times[i] = ms;
    }
    qsort(times, (size_t)repetitions, sizeof *times, by_value);
    const double ms = (double)times[repetitions / 2];
    printf("time: %.3f ms a call, the median of %d\n", ms, repetitions);
    if (gpu) printf("speed: %.0f TFLOPS\n", 2.0 * heads * attended * (D_QK + D_V) / ms * 1e-9);

    device_download(d, out, d_out, out_rows * D_V * 2);
    device_download(d, lse, d_lse, out_rows * sizeof *lse);
    for (int t = 0; t < tokens; t += gpu ? 173 : 7) {
        for (int h = 0; h < heads; h += gpu ? 31 : 5, ++rows) {
            const size_t row = (size_t)t * (size_t)heads + (size_t)h;
            double reference[D_V], reference_lse;
            char what[64];
            /* The indices are a block table of pages of one token. */
            reference_row(q + row * D_QK, kv, indices + (size_t)t * (size_t)topk, 1, lens[t], reference, &reference_lse);
            snprintf(what, sizeof what, "token %d, head %d", t, h);
            failed += compare_row(what, out + row * D_V, lse[row], reference, reference_lse);
        }
    }
    printf("check: %d of %d rows as plain C computes them\n", rows - failed, rows);

    device_free(d, d_q), device_free(d, d_kv), device_free(d, d_indices), device_free(d, d_lens);
    device_free(d, d_out), device_free(d, d_lse), device_free(d, p.workspace);
    free(q), free(kv), free(out), free(lse), free(indices), free(lens);
    device_close(d);
    return failed != 0;
}
