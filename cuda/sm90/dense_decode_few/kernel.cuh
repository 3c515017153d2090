// Dense decode on SM90 for few query rows: the thread block's set-up and its roles. config.cuh says what it computes.
#pragma once
#include "sm90/dense_decode/combine_pieces.cuh"
#include "sm90/dense_decode/invariant_pieces.cuh"
#include "common/grid_dependency.cuh"
#include "common/register_pool.cuh"
#include "sm90/dense_decode_few/attend.cuh"
#include "sm90/dense_decode_few/load.cuh"

namespace flashmla::sm90::dense_decode_few {

// Registers of a thread, of two warpgroups that compute and of the others; 384 threads have 168 on average.
constexpr int kRegisters = 216;
constexpr int kOtherRegisters = 72;

// Brings into L2 what will be read of the block table, as far as that can be guessed without the plan: one trip to memory
// less before the first copy of K.
__device__ __forceinline__ void warm_block_table(const DenseDecodeParams& p) {
    const int request = min(int(__fdividef(float(blockIdx.x) * p.b, float(p.partitions) * float(p.h_kv * p.row_blocks))), p.b - 1);
    const int64_t entry = threadIdx.x % 32 * 32;
    if (entry * p.page_block_size >= p.max_tokens) return;
    prefetch_l2_line(reinterpret_cast<const int*>(p.block_table) + request * p.block_table_strides[0] +
                     entry * p.block_table_strides[1]);
}

template <class T, int kHeadDim, int kRowsHere, int kGroups, class Pieces>
__device__ __forceinline__ void run_few(const Maps& maps, const DenseDecodeParams& p) {
    using Layout = Layout<kHeadDim, kRowsHere, kGroups>;
    using Shared = typename Layout::Shared;
    extern __shared__ __align__(1024) uint8_t dynamic[];
    Shared& s = *reinterpret_cast<Shared*>(dynamic);
    const int blocks = p.partitions * p.h_kv * p.row_blocks;
    Rendezvous rendezvous(p.rendezvous, p.call);
    if (blockIdx.x >= blocks) return combine_pieces<T, Layout::kThreads>(p, rendezvous, blocks);
    static_assert(offsetof(Shared, half_empty) - offsetof(Shared, half_full) == Layout::kFull * 8);
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (threadIdx.x % 32 == 0) {
        // In a loop, since code is slow to come, and by one thread a warp, since the instruction takes one address.
#pragma unroll 1
        for (int i = warp; i < Layout::kFull + Layout::kEmpty; i += Layout::kThreads / 32)
            mbarrier_init(smem_address(s.half_full) + i * 8, i < Layout::kFull ? 1 : Layout::kWarps * kArrivalsOfWarp);
        fence_mbarrier_init();
    }
    if (threadIdx.x == 0) {
        // The swizzle counts from here. There is no static shared memory that could push it.
        if (smem_address(dynamic) % 1024 != 0) __trap();
        prefetch_tensor_map(maps.q);
        prefetch_tensor_map(maps.kv);
        if (Layout::kRope) prefetch_tensor_map(maps.kv_rope);
    }
    if (warp == Layout::kWarps + 1) warm_block_table(p);
    __syncthreads();
    grid_dependency_wait();

    if (warp < Layout::kWarps) {
        if constexpr (kGroups > 1) register_pool_acquire<kRegisters>();
        Attention<T, kHeadDim, kRowsHere, kGroups, Pieces>(p, maps.q, smem_base(&s)).run();
    } else {
        if constexpr (kGroups > 1) register_pool_release<kOtherRegisters>();
        if (warp == Layout::kWarps) Loader<Layout, Pieces>(p, maps, smem_base(&s)).run();
    }
    if (p.slots == 0) return;
    if (threadIdx.x == Layout::kThreads - 1) {
        rendezvous.begin_later(&s.calls);
        copy_async<4>(&s.splits, reinterpret_cast<const SplitPlan*>(p.splits));
        copy_async_wait();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        rendezvous.begin_now(&s.calls);
        if (s.splits > 0) rendezvous.tell();
    }
}

}  // namespace flashmla::sm90::dense_decode_few

// One instantiation a file: each compiles in seconds, and in parallel. `pieces`: Pieces, or InvariantPieces.
#define FLASHMLA_DENSE_DECODE_FEW(name, T, head_dim, rows, groups, pieces)                                         \
    extern "C" __global__ void                                                                                     \
        __launch_bounds__((flashmla::sm90::dense_decode_few::Layout<head_dim, rows, groups>::kThreads), 1)         \
            name(const __grid_constant__ flashmla::TensorMap q, const __grid_constant__ flashmla::TensorMap kv,    \
                 const __grid_constant__ flashmla::TensorMap kv_rope,                                              \
                 const __grid_constant__ flashmla::DenseDecodeParams params) {                                     \
        flashmla::sm90::dense_decode_few::run_few<T, head_dim, rows, groups,                                       \
                                                  flashmla::sm90::dense_decode::pieces>({&q, &kv, &kv_rope}, params); \
    }
