/* The aggregates begin as the C macros do, to the byte, and take designated initialisers where C++ has them. */
#include "problem.hpp"

using namespace flashmla;

#define SAME_START(cpp, c, init)                         \
    do {                                                 \
        const cpp here = {};                             \
        const c there = init;                            \
        EXPECT(std::memcmp(&here, &there, sizeof here) == 0); \
    } while (0)

int main() {
    SAME_START(Options, flashmla_options_t, FLASHMLA_OPTIONS_INIT);
    SAME_START(DeviceInfo, flashmla_device_info_t, FLASHMLA_DEVICE_INFO_INIT);
    SAME_START(KernelInfo, flashmla_kernel_info_t, FLASHMLA_KERNEL_INFO_INIT);
    SAME_START(Plan, flashmla_plan_t, FLASHMLA_PLAN_INIT);
    SAME_START(DenseDecodeParams, flashmla_dense_decode_params_t, FLASHMLA_DENSE_DECODE_PARAMS_INIT);
    SAME_START(SparseDecodeParams, flashmla_sparse_decode_params_t, FLASHMLA_SPARSE_DECODE_PARAMS_INIT);
    SAME_START(SparsePrefillParams, flashmla_sparse_prefill_params_t, FLASHMLA_SPARSE_PREFILL_PARAMS_INIT);
    SAME_START(KvCacheAppendParams, flashmla_kv_cache_append_params_t, FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT);
    SAME_START(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT);
    SAME_START(MapIndicesParams, flashmla_map_indices_params_t, FLASHMLA_MAP_INDICES_PARAMS_INIT);
#ifdef __cpp_designated_initializers
    Problem good;
    const DenseDecodeParams p = {
        .flags = Flags::causal | Flags::batch_invariant,
        .b = 2,
        .s_q = 1,
        .h_q = 16,
        .h_kv = 1,
        .d_qk = 576,
        .num_blocks = 1,
        .page_block_size = 64,
        .max_blocks_per_seq = 1,
        .q = {good.q, {9216, 9216, 576, 1}},
        .kv_cache = {good.cache},
        .block_table = {.data = good.table, .strides = {1, 1, 0, 0}},
        .cache_seqlens = {good.lens},
        .out = {.data = good.out},
        .lse = {good.lse},
        .plan = &good.plan,
    };
    EXPECT(p.struct_size == sizeof p && p.d_v == 0 && p.dtype == Dtype::bf16 && p.q.strides[2] == 576);
#ifdef FLASHMLA_NO_EXCEPTIONS
    const Result<Context> context = Context::open(cpu_device, {.cpu_threads = 1});
    EXPECT(context->dense_decode_plan(p) && context->dense_decode(p));
#else
    const Context context(cpu_device, {.cpu_threads = 1});
    context.dense_decode_plan(p);
    context.dense_decode(p);
#endif
    EXPECT(good.right());
#endif
    return failures != 0;
}
