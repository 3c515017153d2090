/* A program of a later header, `int64_t added[4]` at the end of every struct, run with the library of today: members
 * that are 0 ask for nothing, others for what this library does not have. */
#define _DEFAULT_SOURCE
#include <flashmla.h>

#include "guarded.h"

int main(void) {
    flashmla_options_t options = FLASHMLA_OPTIONS_INIT;
    const flashmla_device_info_t device_init = FLASHMLA_DEVICE_INFO_INIT;
    flashmla_device_info_t *device = guarded(&device_init, sizeof device_init);
    flashmla_kernel_info_t kernel = FLASHMLA_KERNEL_INFO_INIT;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    flashmla_dense_decode_params_t p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    flashmla_sparse_prefill_params_t s = FLASHMLA_SPARSE_PREFILL_PARAMS_INIT;
    flashmla_sparse_decode_params_t d = FLASHMLA_SPARSE_DECODE_PARAMS_INIT;
    flashmla_kv_cache_append_params_t a = FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT;
    flashmla_kv_cache_gather_params_t g = FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT;
    flashmla_map_indices_params_t m = FLASHMLA_MAP_INDICES_PARAMS_INIT;
    flashmla_context_t *context = NULL;
    char message[512];

    options.added[3] = 1;
    EXPECT(flashmla_create(FLASHMLA_DEVICE_CPU, &options, &context) == FLASHMLA_ERROR_STRUCT_SIZE && context == NULL);
    flashmla_last_error(message, sizeof message);
    EXPECT(strstr(message, "is not 0") != NULL);
    options.added[3] = 0;
    EXPECT(flashmla_create(FLASHMLA_DEVICE_CPU, &options, &context) == FLASHMLA_SUCCESS);

    /* Of an output the members that the library does not know become 0. */
    memset(device->added, 0xff, sizeof device->added), memset(kernel.added, 0xff, sizeof kernel.added);
    EXPECT(flashmla_get_device_info(context, device) == FLASHMLA_SUCCESS);
    EXPECT(device->added[0] == 0 && device->added[3] == 0 && device->name[0] != '\0');

    p.s_q = p.h_kv = p.num_blocks = p.max_blocks_per_seq = 1, p.h_q = 16, p.d_qk = 576, p.page_block_size = 64;
    p.plan = &plan;
    EXPECT(flashmla_dense_decode_query(context, &p, &kernel) == FLASHMLA_SUCCESS);
    EXPECT(kernel.added[0] == 0 && kernel.added[3] == 0 && kernel.name[0] != '\0');
    EXPECT(flashmla_dense_decode_plan(context, &p, NULL) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_dense_decode(context, &p, NULL) == FLASHMLA_SUCCESS);
    p.added[0] = 1;
    EXPECT(flashmla_dense_decode(context, &p, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    p.added[0] = 0, plan.added[2] = 1;
    EXPECT(flashmla_dense_decode(context, &p, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);

    s.h_q = 16, s.d_qk = 576;
    EXPECT(flashmla_sparse_prefill(context, &s, NULL) == FLASHMLA_SUCCESS);
    s.added[1] = -1;
    EXPECT(flashmla_sparse_prefill(context, &s, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);

    d.layout = FLASHMLA_LAYOUT_V4, d.h_q = 16, d.d_qk = 512, d.page_block_size = 64;
    plan.added[2] = 0, plan.fingerprint = 0, d.plan = &plan;
    EXPECT(flashmla_sparse_decode_plan(context, &d, NULL) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_sparse_decode(context, &d, NULL) == FLASHMLA_SUCCESS);
    d.added[0] = 1;
    EXPECT(flashmla_sparse_decode(context, &d, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    a.d_qk = g.d_qk = 576, a.page_block_size = g.page_block_size = m.page_block_size = 64;
    EXPECT(flashmla_kv_cache_append(context, &a, NULL) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_kv_cache_gather(context, &g, NULL) == FLASHMLA_SUCCESS);
    EXPECT(flashmla_map_indices(context, &m, NULL) == FLASHMLA_SUCCESS);
    a.added[3] = g.added[3] = m.added[3] = 1;
    EXPECT(flashmla_kv_cache_append(context, &a, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    EXPECT(flashmla_kv_cache_gather(context, &g, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    EXPECT(flashmla_map_indices(context, &m, NULL) == FLASHMLA_ERROR_STRUCT_SIZE);
    EXPECT(flashmla_destroy(context) == FLASHMLA_SUCCESS);
    puts("a new program runs");
    return 0;
}
