/*
 * A cache that grows while it is read: requests gain a token a step, pages are handed out as they are needed,
 * and lengths and block table change in place.
 *
 * Teaches: one plan a step shared by all layers, and on a GPU one CUDA graph of plan and layers, captured once
 * and replayed every step: the plan is made anew from the lengths that a replay finds.
 */
#include "common/device.h"
#include "common/reference.h"

#include <stdio.h>
#include <stdlib.h>

enum { REQUESTS = 3, HEADS = 16, LAYERS = 2, PAGE = 16, STEPS = 24, PAGES_EACH = 40, PAGES = REQUESTS * PAGES_EACH };

int main(void) {
    device *d = device_open();
    flashmla_dense_decode_params_t p[LAYERS];
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    const size_t q_bytes = (size_t)REQUESTS * HEADS * D_QK * 2, out_bytes = (size_t)REQUESTS * HEADS * D_V * 2;
    const size_t cache_bytes = (size_t)PAGES * PAGE * D_QK * 2, row_bytes = D_QK * 2;
    static uint16_t q[LAYERS][REQUESTS * HEADS * D_QK], out[REQUESTS * HEADS * D_V];
    static uint16_t cache[LAYERS][PAGES * PAGE * D_QK];
    static int32_t table[REQUESTS][PAGES_EACH], lens[REQUESTS] = {30, 0, 500};
    uint8_t *d_cache[LAYERS];
    void *d_q[LAYERS], *d_out[LAYERS], *d_table, *d_lens, *workspace;
    float lse[REQUESTS * HEADS];
    void *d_lse;
    uint64_t state = 7;
    int next_page = 0, failed = 0, rows = 0;
    device_graph *graph = NULL;
    size_t workspace_size;
    if (d == NULL) return 1;

    d_table = device_alloc(d, sizeof table);
    d_lens = device_alloc(d, sizeof lens);
    d_lse = device_alloc(d, sizeof lse);
    for (int l = 0; l < LAYERS; ++l) {
        const flashmla_dense_decode_params_t init = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
        p[l] = init;
        d_q[l] = device_alloc(d, q_bytes);
        d_cache[l] = device_alloc(d, cache_bytes);
        d_out[l] = device_alloc(d, out_bytes);
        for (size_t i = 0; i < sizeof cache[l] / 2; ++i) cache[l][i] = bf16_from_float(random_float(&state));
        device_upload(d, d_cache[l], cache[l], cache_bytes);
        p[l].b = REQUESTS, p[l].s_q = 1, p[l].h_q = HEADS, p[l].h_kv = 1, p[l].d_qk = D_QK;
        p[l].num_blocks = PAGES, p[l].page_block_size = PAGE, p[l].max_blocks_per_seq = PAGES_EACH;
        p[l].q.data = d_q[l], p[l].kv_cache.data = d_cache[l], p[l].out.data = d_out[l], p[l].lse.data = d_lse;
        p[l].block_table.data = d_table, p[l].cache_seqlens.data = d_lens, p[l].plan = &plan;
    }
    check(flashmla_dense_decode_plan_size(device_context(d), &p[0], &plan.size), "plan size");
    check(flashmla_dense_decode_workspace_size(device_context(d), &p[0], &workspace_size), "workspace size");
    plan.data = device_alloc(d, plan.size);
    workspace = device_alloc(d, workspace_size);
    /* Layers run one after the other on the stream: one workspace serves all. */
    for (int l = 0; l < LAYERS; ++l) p[l].workspace = workspace, p[l].workspace_size = workspace_size;
    /* Pages of what is cached already; entries not used yet may hold anything. */
    for (int i = 0; i < REQUESTS; ++i) {
        for (int k = 0; k < PAGES_EACH; ++k) table[i][k] = k * PAGE < lens[i] ? next_page++ : -1;
    }

    for (int step = 0; step < STEPS; ++step) {
        for (int i = 0; i < REQUESTS; ++i) {
            /* Every request gains a token; where its last page is full it gets a new one. */
            const int slot = lens[i]++, page = slot / PAGE;
            if (table[i][page] < 0) table[i][page] = next_page++;
            for (int l = 0; l < LAYERS; ++l) {
                const size_t row = (size_t)table[i][page] * PAGE + (size_t)(slot % PAGE);
                for (int k = 0; k < D_QK; ++k) cache[l][row * D_QK + (size_t)k] = bf16_from_float(random_float(&state));
                device_upload(d, d_cache[l] + row * row_bytes, cache[l] + row * D_QK, row_bytes);
            }
        }
        for (int l = 0; l < LAYERS; ++l) {
            for (size_t i = 0; i < q_bytes / 2; ++i) q[l][i] = bf16_from_float(random_float(&state));
            device_upload(d, d_q[l], q[l], q_bytes);
        }
        device_upload(d, d_table, table, sizeof table);
        device_upload(d, d_lens, lens, sizeof lens);

        if (graph == NULL) {
            const int capturing = device_capture_begin(d);
            check(flashmla_dense_decode_plan(device_context(d), &p[0], device_stream(d)), "flashmla_dense_decode_plan");
            for (int l = 0; l < LAYERS; ++l)
                check(flashmla_dense_decode(device_context(d), &p[l], device_stream(d)), "flashmla_dense_decode");
            if (capturing) graph = device_capture_end(d);
        }
        if (graph != NULL) device_graph_launch(d, graph);

        /* The lse is that of the last layer. */
        device_download(d, out, d_out[LAYERS - 1], out_bytes);
        device_download(d, lse, d_lse, sizeof lse);
        for (int i = 0; i < REQUESTS; ++i, ++rows) {
            const size_t row = (size_t)i * HEADS + (size_t)(step % HEADS);
            double reference[D_V], reference_lse;
            char what[64];
            reference_row(q[LAYERS - 1] + row * D_QK, cache[LAYERS - 1], table[i], PAGE, lens[i], reference,
                          &reference_lse);
            snprintf(what, sizeof what, "step %d, request %d", step, i);
            failed += compare_row(what, out + row * D_V, lse[row], reference, reference_lse);
        }
    }
    printf("%d steps of %d layers, %s; %d of %d rows as plain C computes them\n", STEPS, LAYERS,
           graph != NULL ? "one graph replayed" : "called directly", rows - failed, rows);

    for (int l = 0; l < LAYERS; ++l) device_free(d, d_q[l]), device_free(d, d_cache[l]), device_free(d, d_out[l]);
    device_free(d, d_table), device_free(d, d_lens), device_free(d, d_lse), device_free(d, plan.data);
    device_free(d, workspace);
    device_close(d);
    return failed != 0;
}
