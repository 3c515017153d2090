/*
 * The smallest real decode: a few requests of different lengths over a shuffled paged BF16 cache, all 128 heads
 * of a DeepSeek model, one query token each.
 *
 * Teaches: a context, the parameter struct, the two buffers that a GPU wants (plan and workspace), plan, run.
 * Checks rows against plain C and prints what it ran on, how long a call took, and how fast that is.
 */
#include "common/device.h"
#include "common/reference.h"

#include <stdio.h>
#include <stdlib.h>

enum { HEADS = 128, PAGE = 64 };

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int main(void) {
    device *d = device_open();
    flashmla_dense_decode_params_t p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    flashmla_kernel_info_t kernel = FLASHMLA_KERNEL_INFO_INIT;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    float times[32];
    uint64_t state = 42;
    int failed = 0;
    if (d == NULL) return 1;

    /* A GPU gets a batch that keeps it busy. */
    const int requests = device_is_gpu(d) ? 128 : 4, longest = device_is_gpu(d) ? 8192 : 700;
    const int repetitions = device_is_gpu(d) ? 31 : 3;
    const int pages_each = (longest + PAGE - 1) / PAGE, pages = requests * pages_each;
    const size_t q_count = (size_t)requests * HEADS * D_QK, out_count = (size_t)requests * HEADS * D_V;
    const size_t cache_count = (size_t)pages * PAGE * D_QK;
    uint16_t *q = malloc(q_count * 2), *out = malloc(out_count * 2), *cache = malloc(cache_count * 2);
    float *lse = malloc((size_t)requests * HEADS * sizeof *lse);
    int32_t *table = malloc((size_t)pages * sizeof *table), *lens = malloc((size_t)requests * sizeof *lens);
    if (!q || !out || !cache || !lse || !table || !lens) return 1;

    for (size_t i = 0; i < q_count; ++i) q[i] = bf16_from_float(random_float(&state));
    for (size_t i = 0; i < cache_count; ++i) cache[i] = bf16_from_float(random_float(&state));
    /* Pages of a request lie anywhere in the cache. */
    for (int i = 0; i < pages; ++i) table[i] = i;
    for (int i = pages - 1; i > 0; --i) {
        const int j = (int)((double)(random_float(&state) + 1.0f) * 0.5 * (double)(i + 1)) % (i + 1);
        const int32_t swap = table[i];
        table[i] = table[j], table[j] = swap;
    }
    double tokens = 0;
    for (int i = 0; i < requests; ++i) {
        lens[i] = i % 7 == 3 ? i : longest - (int)((double)(random_float(&state) + 1.0f) * 0.125 * longest);
        tokens += lens[i];
    }

    p.b = requests, p.s_q = 1, p.h_q = HEADS, p.h_kv = 1, p.d_qk = D_QK;
    p.num_blocks = pages, p.page_block_size = PAGE, p.max_blocks_per_seq = pages_each;
    check(flashmla_dense_decode_query(device_context(d), &p, &kernel), "flashmla_dense_decode_query");
    printf("kernel: %s\n", kernel.name);
    printf("shapes: %d requests, %.0f cached tokens, %d heads, d %d/%d, pages of %d tokens\n", requests, tokens, HEADS,
           D_QK, D_V, PAGE);

    /* All tensors contiguous: strides stay 0. */
    void *d_q = device_alloc(d, q_count * 2), *d_cache = device_alloc(d, cache_count * 2);
    void *d_out = device_alloc(d, out_count * 2), *d_lse = device_alloc(d, (size_t)requests * HEADS * sizeof *lse);
    void *d_table = device_alloc(d, (size_t)pages * sizeof *table);
    void *d_lens = device_alloc(d, (size_t)requests * sizeof *lens);
    device_upload(d, d_q, q, q_count * 2);
    device_upload(d, d_cache, cache, cache_count * 2);
    device_upload(d, d_table, table, (size_t)pages * sizeof *table);
    device_upload(d, d_lens, lens, (size_t)requests * sizeof *lens);
    p.q.data = d_q, p.kv_cache.data = d_cache, p.block_table.data = d_table, p.cache_seqlens.data = d_lens;
    p.out.data = d_out, p.lse.data = d_lse;

    /* Both sizes hold for every smaller batch too: an engine asks once, with its maxima. */
    check(flashmla_dense_decode_plan_size(device_context(d), &p, &plan.size), "flashmla_dense_decode_plan_size");
    check(flashmla_dense_decode_workspace_size(device_context(d), &p, &p.workspace_size),
          "flashmla_dense_decode_workspace_size");
    plan.data = device_alloc(d, plan.size);
    p.workspace = device_alloc(d, p.workspace_size);
    p.plan = &plan;

    /* Once a step ... */
    check(flashmla_dense_decode_plan(device_context(d), &p, device_stream(d)), "flashmla_dense_decode_plan");
    /* ... and once a layer. The first calls warm up. */
    for (int i = -2; i < repetitions; ++i) {
        device_timer_start(d);
        check(flashmla_dense_decode(device_context(d), &p, device_stream(d)), "flashmla_dense_decode");
        const float ms = device_timer_stop(d);
        if (i >= 0) times[i] = ms;
    }
    qsort(times, (size_t)repetitions, sizeof *times, by_value);
    const double ms = (double)times[repetitions / 2];
    printf("time: %.3f ms a call, the median of %d\n", ms, repetitions);
    if (device_is_gpu(d)) {
        printf("speed: %.0f TFLOPS, %.0f GB/s\n", 2.0 * HEADS * tokens * (D_QK + D_V) / ms * 1e-9,
               2.0 * (tokens * D_QK + (double)requests * HEADS * (D_QK + D_V)) / ms * 1e-6);
    }

    device_download(d, out, d_out, out_count * 2);
    device_download(d, lse, d_lse, (size_t)requests * HEADS * sizeof *lse);
    int rows = 0;
    for (int i = 0; i < requests; i += device_is_gpu(d) ? 9 : 1) {
        for (int h = 0; h < HEADS; h += device_is_gpu(d) ? 31 : 17, ++rows) {
            const size_t row = (size_t)i * HEADS + (size_t)h;
            double reference[D_V], reference_lse;
            char what[64];
            reference_row(q + row * D_QK, cache, table + (size_t)i * (size_t)pages_each, PAGE, lens[i], reference,
                          &reference_lse);
            snprintf(what, sizeof what, "request %d, head %d", i, h);
            failed += compare_row(what, out + row * D_V, lse[row], reference, reference_lse);
        }
    }
    printf("check: %d of %d rows as plain C computes them\n", rows - failed, rows);

    device_free(d, d_q), device_free(d, d_cache), device_free(d, d_out), device_free(d, d_lse);
    device_free(d, d_table), device_free(d, d_lens), device_free(d, plan.data), device_free(d, p.workspace);
    free(q), free(out), free(cache), free(lse), free(table), free(lens);
    device_close(d);
    return failed != 0;
}
