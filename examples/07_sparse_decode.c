/*
 * Sparse attention over an FP8 cache that grows: every step each request's new key is quantised into the cache
 * (flashmla_kv_cache_append), an indexer names the tokens that matter, their positions become indices into the
 * cache (flashmla_map_indices), and the query attends to them alone (flashmla_sparse_decode).
 *
 * Teaches: the four calls of a step without a byte of the cache passing through the host, topk_length for requests
 * that have fewer tokens than the indexer may name, and on a GPU one CUDA graph of the whole step. What is attended
 * to is read back (flashmla_kv_cache_gather) to compare with plain C.
 */
#include "common/device.h"
#include "common/reference.h"

#include <math.h>
#include <stdio.h>

enum { REQUESTS = 3, HEADS = 16, PAGE = 16, PAGES_EACH = 16, PAGES = REQUESTS * PAGES_EACH, TOPK = 64, STEPS = 96 };

/* The indexer of this example: the last tokens of a request, and before them some at random, each once. */
static int choose(int32_t *positions, int tokens, uint64_t *state) {
    const int wanted = tokens < TOPK ? tokens : TOPK, last = wanted < TOPK / 2 ? wanted : TOPK / 2;
    int chosen = 0;
    for (int t = tokens - last; t < tokens; ++t) positions[chosen++] = t;
    /* Of those before, as many as there is room for: each with the chance that is left. */
    for (int t = 0, before = tokens - last; t < before && chosen < wanted; ++t) {
        const double chance = (double)(wanted - chosen) / (before - t);
        if ((random_float(state) + 1) / 2 < chance) positions[chosen++] = t;
    }
    /* What the length does not count may hold anything. */
    for (int k = chosen; k < TOPK; ++k) positions[k] = -1;
    return chosen;
}

/* e4m3 has 3 bits of mantissa: what comes back is within a sixteenth, or half a step of the smallest numbers. */
static int is_near(const uint16_t *row, const uint16_t *original) {
    for (int g = 0; g < D_V; g += 128) {
        float max = 0;
        for (int k = g; k < g + 128; ++k) max = fmaxf(max, fabsf(bf16_to_float(original[k])));
        for (int k = g; k < g + 128; ++k) {
            const float x = bf16_to_float(row[k]), y = bf16_to_float(original[k]);
            if (fabsf(x - y) > fabsf(y) / 15 + max / 1024) return 0;
        }
    }
    for (int k = D_V; k < D_QK; ++k) {
        if (row[k] != original[k]) return 0; /* the rotary part is not quantised */
    }
    return 1;
}

int main(void) {
    device *d = device_open();
    flashmla_kv_cache_append_params_t append = FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT;
    flashmla_map_indices_params_t map = FLASHMLA_MAP_INDICES_PARAMS_INIT;
    flashmla_sparse_decode_params_t decode = FLASHMLA_SPARSE_DECODE_PARAMS_INIT;
    flashmla_kv_cache_gather_params_t gather = FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    static uint16_t keys[REQUESTS][PAGE * PAGES_EACH][D_QK]; /* all of them, to compare with */
    static uint16_t rows[REQUESTS][D_QK], q[REQUESTS][HEADS][D_QK], out[REQUESTS][HEADS][D_V];
    static uint16_t gathered[REQUESTS][TOPK][D_QK];
    static float lse[REQUESTS][HEADS];
    static int32_t table[REQUESTS][PAGES_EACH], positions[REQUESTS][TOPK], lengths[REQUESTS];
    int64_t slots[REQUESTS];
    uint64_t state = 7;
    int next_page = 0, failed = 0, compared = 0;
    const int32_t one_page = 0;
    device_graph *graph = NULL;
    if (d == NULL) return 1;

    for (int i = 0; i < REQUESTS; ++i) {
        for (int k = 0; k < PAGES_EACH; ++k) table[i][k] = -1;
    }
    append.layout = decode.layout = gather.layout = FLASHMLA_LAYOUT_V32;
    append.d_qk = decode.d_qk = gather.d_qk = D_QK;
    append.num_blocks = map.num_blocks = decode.num_blocks = gather.num_blocks = PAGES;
    append.page_block_size = map.page_block_size = decode.page_block_size = gather.page_block_size = PAGE;

    append.n = REQUESTS, append.slot_type = FLASHMLA_INDEX_INT64;
    append.rows.data = device_alloc(d, sizeof rows);
    append.slot_mapping.data = device_alloc(d, sizeof slots);
    append.kv_cache.data = device_alloc(d, (size_t)PAGES * PAGE * 656);

    map.b = REQUESTS, map.s_q = 1, map.topk = TOPK, map.max_blocks_per_seq = PAGES_EACH;
    map.positions.data = device_alloc(d, sizeof positions);
    map.block_table.data = device_alloc(d, sizeof table);
    map.indices.data = device_alloc(d, sizeof positions);

    decode.b = REQUESTS, decode.s_q = 1, decode.h_q = HEADS, decode.topk = TOPK, decode.plan = &plan;
    decode.q.data = device_alloc(d, sizeof q);
    decode.kv_cache.data = append.kv_cache.data;
    decode.indices.data = map.indices.data;
    decode.topk_length.data = device_alloc(d, sizeof lengths);
    decode.topk_length.strides[0] = 1; /* and 0 from token to token: a length for each request */
    decode.out.data = device_alloc(d, sizeof out);
    decode.lse.data = device_alloc(d, sizeof lse);
    check(flashmla_sparse_decode_plan_size(device_context(d), &decode, &plan.size), "plan size");
    check(flashmla_sparse_decode_workspace_size(device_context(d), &decode, &decode.workspace_size), "workspace size");
    plan.data = device_alloc(d, plan.size);
    decode.workspace = device_alloc(d, decode.workspace_size);

    gather.n = REQUESTS * TOPK;
    gather.kv_cache.data = append.kv_cache.data;
    gather.indices.data = map.indices.data;
    gather.rows.data = device_alloc(d, sizeof gathered);

    for (int step = 0; step < STEPS; ++step) {
        for (int i = 0; i < REQUESTS; ++i) {
            /* One request joins later: until then it has no token, and its slot is nowhere. */
            const int tokens = i == 2 ? step - 40 : step, page = tokens < 0 ? 0 : tokens / PAGE;
            lengths[i] = 0, slots[i] = -1;
            if (tokens >= 0) {
                if (table[i][page] < 0) table[i][page] = next_page++;
                slots[i] = (int64_t)table[i][page] * PAGE + tokens % PAGE;
                for (int k = 0; k < D_QK; ++k) {
                    /* Of the size of activations, for which the bounds of the comparison are made. */
                    rows[i][k] = keys[i][tokens][k] = bf16_from_float(random_float(&state) / 8);
                }
            }
            lengths[i] = choose(positions[i], tokens + 1 < 0 ? 0 : tokens + 1, &state);
            for (int h = 0; h < HEADS; ++h) {
                for (int k = 0; k < D_QK; ++k) q[i][h][k] = bf16_from_float(random_float(&state));
            }
        }
        device_upload(d, (void *)append.rows.data, rows, sizeof rows);
        device_upload(d, (void *)append.slot_mapping.data, slots, sizeof slots);
        device_upload(d, (void *)map.positions.data, positions, sizeof positions);
        device_upload(d, (void *)map.block_table.data, table, sizeof table);
        device_upload(d, (void *)decode.topk_length.data, lengths, sizeof lengths);
        device_upload(d, (void *)decode.q.data, q, sizeof q);

        if (graph == NULL) {
            const int capturing = device_capture_begin(d);
            check(flashmla_kv_cache_append(device_context(d), &append, device_stream(d)), "flashmla_kv_cache_append");
            check(flashmla_map_indices(device_context(d), &map, device_stream(d)), "flashmla_map_indices");
            check(flashmla_sparse_decode_plan(device_context(d), &decode, device_stream(d)), "flashmla_sparse_decode_plan");
            check(flashmla_sparse_decode(device_context(d), &decode, device_stream(d)), "flashmla_sparse_decode");
            check(flashmla_kv_cache_gather(device_context(d), &gather, device_stream(d)), "flashmla_kv_cache_gather");
            if (capturing) graph = device_capture_end(d);
        }
        if (graph != NULL) device_graph_launch(d, graph);

        device_download(d, out, decode.out.data, sizeof out);
        device_download(d, lse, decode.lse.data, sizeof lse);
        device_download(d, gathered, gather.rows.data, sizeof gathered);
        for (int i = 0; i < REQUESTS; ++i, ++compared) {
            const int h = step % HEADS;
            double reference[D_V], reference_lse;
            char what[64];
            snprintf(what, sizeof what, "step %d, request %d", step, i);
            for (int k = 0; k < lengths[i]; ++k) {
                if (!is_near(gathered[i][k], keys[i][positions[i][k]])) {
                    printf("%s: token %d is not what was stored\n", what, positions[i][k]);
                    ++failed;
                }
            }
            reference_row(q[i][h], gathered[i][0], &one_page, TOPK, lengths[i], reference, &reference_lse);
            failed += compare_row(what, out[i][h], lse[i][h], reference, reference_lse);
        }
    }
    printf("%d steps, %s; %d of %d rows as plain C computes them\n", STEPS,
           graph != NULL ? "one graph replayed" : "called directly", compared - failed, compared);

    device_free(d, (void *)append.rows.data), device_free(d, (void *)append.slot_mapping.data);
    device_free(d, append.kv_cache.data), device_free(d, (void *)map.positions.data);
    device_free(d, (void *)map.block_table.data), device_free(d, map.indices.data);
    device_free(d, (void *)decode.q.data), device_free(d, (void *)decode.topk_length.data);
    device_free(d, decode.out.data), device_free(d, decode.lse.data), device_free(d, plan.data);
    device_free(d, decode.workspace), device_free(d, gather.rows.data);
    device_close(d);
    return failed != 0;
}
