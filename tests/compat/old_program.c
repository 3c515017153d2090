/* A program of the first header, run with the library of today: its structs are shorter, and that is all right. */
#define _DEFAULT_SOURCE
#include <flashmla.h>

#include "guarded.h"

#include <math.h>

/* What the first header had, in numbers: it is not to be edited. */
typedef char sizes[sizeof(flashmla_options_t) == 16 && sizeof(flashmla_device_info_t) == 152 &&
                           sizeof(flashmla_kernel_info_t) == 88 && sizeof(flashmla_plan_t) == 32 &&
                           sizeof(flashmla_dense_decode_params_t) == 360 &&
                           sizeof(flashmla_sparse_prefill_params_t) == 392
                       ? 1
                       : -1];

enum { HEADS = 16, PAGE = 64 };

static _Alignas(16) uint16_t q[HEADS * 576], kv[PAGE * 576], out[HEADS * 512];
static int32_t table[1] = {0}, lens[1] = {3}, indices[4] = {5, 7, 9, -1};
static float lse[HEADS], max_logits[HEADS];

static int right(double expected) {
    int h;
    for (h = 0; h < HEADS; ++h) {
        if (!(fabs((double)lse[h] - expected) < 1e-5) || out[h * 512] != 0) return 0;
    }
    memset(lse, 0, sizeof lse), memset(out, 0xff, sizeof out);
    return 1;
}

int main(void) {
    const flashmla_options_t options_init = FLASHMLA_OPTIONS_INIT;
    const flashmla_device_info_t device_init = FLASHMLA_DEVICE_INFO_INIT;
    const flashmla_kernel_info_t kernel_init = FLASHMLA_KERNEL_INFO_INIT;
    const flashmla_plan_t plan_init = FLASHMLA_PLAN_INIT;
    const flashmla_dense_decode_params_t decode_init = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    const flashmla_sparse_prefill_params_t prefill_init = FLASHMLA_SPARSE_PREFILL_PARAMS_INIT;
    flashmla_options_t *options = guarded(&options_init, sizeof options_init);
    flashmla_device_info_t *device = guarded(&device_init, sizeof device_init);
    flashmla_kernel_info_t *kernel = guarded(&kernel_init, sizeof kernel_init);
    flashmla_plan_t *plan = guarded(&plan_init, sizeof plan_init);
    flashmla_dense_decode_params_t *p = guarded(&decode_init, sizeof decode_init);
    flashmla_sparse_prefill_params_t *s = guarded(&prefill_init, sizeof prefill_init);
    flashmla_context_t *context = NULL;
    size_t size = 1;

    EXPECT(flashmla_version() >= FLASHMLA_VERSION_MAJOR * 10000 + FLASHMLA_VERSION_MINOR * 100 + FLASHMLA_VERSION_PATCH);
    options->cpu_threads = 2;
    EXPECT(flashmla_create(FLASHMLA_DEVICE_CPU, options, &context) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_get_device_info(context, device) == FLASHMLA_SUCCESS);
    EXPECT(device->multiprocessors == 2 && device->struct_size == sizeof *device);

    p->b = p->s_q = p->h_kv = p->num_blocks = p->max_blocks_per_seq = 1;
    p->h_q = HEADS, p->d_qk = 576, p->page_block_size = PAGE;
    p->q.data = q, p->kv_cache.data = kv, p->block_table.data = table, p->cache_seqlens.data = lens;
    p->out.data = out, p->lse.data = lse, p->plan = plan;
    EXPECT(flashmla_dense_decode_query(context, p, kernel) == FLASHMLA_SUCCESS && kernel->name[0] != '\0');
    EXPECT(flashmla_dense_decode_plan_size(context, p, &size) == FLASHMLA_SUCCESS && size == 0);
    EXPECT(flashmla_dense_decode_workspace_size(context, p, &size) == FLASHMLA_SUCCESS && size == 0);
    EXPECT(flashmla_dense_decode(context, p, NULL) == FLASHMLA_ERROR_PLAN_MISMATCH);
    EXPECT(flashmla_dense_decode_plan(context, p, NULL) == FLASHMLA_SUCCESS && plan->fingerprint != 0);
    EXPECT(flashmla_dense_decode(context, p, NULL) == FLASHMLA_SUCCESS && right(log(3.0)));

    s->s_q = 1, s->h_q = HEADS, s->s_kv = PAGE, s->d_qk = 576, s->topk = 4;
    s->q.data = q, s->kv.data = kv, s->indices.data = indices;
    s->out.data = out, s->lse.data = lse, s->max_logits.data = max_logits;
    EXPECT(flashmla_sparse_prefill_query(context, s, kernel) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_sparse_prefill_workspace_size(context, s, &size) == FLASHMLA_SUCCESS && size == 0);
    EXPECT(flashmla_sparse_prefill(context, s, NULL) == FLASHMLA_SUCCESS && right(log(3.0)));

    /* Shorter than the first of its kind is no older program, but a mistake. */
    p->struct_size -= 8;
    EXPECT(flashmla_dense_decode(context, p, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    EXPECT(flashmla_destroy(context) == FLASHMLA_SUCCESS);
    puts("an old program runs");
    return 0;
}
