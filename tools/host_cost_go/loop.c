#define _POSIX_C_SOURCE 200809L
#include "loop.h"

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* What the examples share, compiled into this program. */
#include "../../examples/common/device.c"

static void *zeros(device *d, size_t bytes) {
    void *host = calloc(1, bytes), *memory = device_alloc(d, bytes);
    if (host == NULL) exit(1);
    device_upload(d, memory, host, bytes);
    free(host);
    return memory;
}

problem *problem_make(device *d, int pages) {
    const flashmla_dense_decode_params_t params = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    const flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    const int32_t tokens = 64;
    size_t workspace;
    problem *made = malloc(sizeof *made);
    flashmla_dense_decode_params_t *p = &made->params;
    if (made == NULL) exit(1);
    *p = params, made->plan = plan;
    p->b = device_is_gpu(d) ? 1 : 0, p->s_q = 1, p->h_q = 16, p->h_kv = 1, p->d_qk = 576;
    p->num_blocks = pages, p->page_block_size = 64, p->max_blocks_per_seq = pages, p->plan = &made->plan;
    p->q.data = zeros(d, 16 * 576 * 2), p->kv_cache.data = zeros(d, (size_t)pages * 64 * 576 * 2);
    p->block_table.data = zeros(d, (size_t)pages * 4), p->cache_seqlens.data = zeros(d, 4);
    p->out.data = zeros(d, 16 * 512 * 2);
    device_upload(d, (void *)p->cache_seqlens.data, &tokens, sizeof tokens);
    check(flashmla_dense_decode_plan_size(device_context(d), p, &made->plan.size), "plan_size");
    check(flashmla_dense_decode_workspace_size(device_context(d), p, &workspace), "workspace_size");
    made->plan.data = device_alloc(d, made->plan.size);
    p->workspace = device_alloc(d, workspace), p->workspace_size = workspace;
    check(flashmla_dense_decode_plan(device_context(d), p, device_stream(d)), "plan");
    return made;
}

void problem_free(device *d, problem *p) {
    const flashmla_dense_decode_params_t *s = &p->params;
    const void *memory[] = {s->q.data, s->kv_cache.data, s->block_table.data, s->cache_seqlens.data,
                            s->out.data, s->workspace, p->plan.data};
    size_t i;
    device_synchronize(d);
    for (i = 0; i < sizeof memory / sizeof memory[0]; ++i) device_free(d, (void *)memory[i]);
    free(p);
}

double problem_run(device *d, problem *p, int calls) {
    struct timespec began, ended;
    int i;
    device_synchronize(d);
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (i = 0; i < calls; ++i) {
        check(flashmla_dense_decode(device_context(d), &p->params, device_stream(d)), "flashmla_dense_decode");
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    return ((double)(ended.tv_sec - began.tv_sec) * 1e9 + (double)(ended.tv_nsec - began.tv_nsec)) / calls;
}
