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
    cudaStream_t stream = NULL;
    (void)stream;
    return !(options.struct_size == sizeof options && device.struct_size == sizeof device &&
             kernel.struct_size == sizeof kernel && plan.struct_size == sizeof plan &&
             params.struct_size == sizeof params && params.plan == NULL && params.lse.data == NULL &&
             prefill.struct_size == sizeof prefill && prefill.softmax_scale == 0 && prefill.lse.data == NULL &&
             prefill.workspace == NULL && prefill.workspace_size == 0);
}
