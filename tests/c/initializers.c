/* Every initial value, under every standard; alone and beside CUDA's own declaration of the stream. */
#ifdef BESIDE_CUDA
#define __DRIVER_TYPES_H__
typedef struct CUstream_st *cudaStream_t;
#endif
#include <flashmla.h>
/* Twice, as happens. */
#include <flashmla.h>

int main(void) {
    flashmla_options_t options = FLASHMLA_OPTIONS_INIT;
    flashmla_device_info_t device = FLASHMLA_DEVICE_INFO_INIT;
    flashmla_kernel_info_t kernel = FLASHMLA_KERNEL_INFO_INIT;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    flashmla_dense_decode_params_t params = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    flashmla_sparse_prefill_params_t prefill = FLASHMLA_SPARSE_PREFILL_PARAMS_INIT;
    flashmla_sparse_decode_params_t sparse = FLASHMLA_SPARSE_DECODE_PARAMS_INIT;
    flashmla_kv_cache_append_params_t append = FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT;
    flashmla_kv_cache_gather_params_t gather = FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT;
    flashmla_map_indices_params_t map = FLASHMLA_MAP_INDICES_PARAMS_INIT;
    cudaStream_t stream = NULL;
    (void)stream;
    return !(options.struct_size == sizeof options && device.struct_size == sizeof device &&
             kernel.struct_size == sizeof kernel && plan.struct_size == sizeof plan &&
             params.struct_size == sizeof params && params.plan == NULL && params.lse.data == NULL &&
             prefill.struct_size == sizeof prefill && prefill.softmax_scale == 0 && prefill.lse.data == NULL &&
             prefill.workspace == NULL && prefill.workspace_size == 0 &&
             params.kv_layout == FLASHMLA_LAYOUT_PLAIN && sparse.struct_size == sizeof sparse && sparse.layout == 0 &&
             sparse.extra_topk == 0 && sparse.lse.data == NULL && sparse.plan == NULL &&
             append.struct_size == sizeof append && append.kv_cache.data == NULL &&
             gather.struct_size == sizeof gather && gather.rows.data == NULL && map.struct_size == sizeof map &&
             map.indices.data == NULL);
}
