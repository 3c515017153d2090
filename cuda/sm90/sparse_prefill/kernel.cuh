// Sparse prefill on SM90: the thread block's set-up and its roles. config.cuh says what it computes.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/mbarrier.cuh"
#include "common/register_pool.cuh"
#include "sm90/sparse_prefill/output.cuh"
#include "sm90/sparse_prefill/scores.cuh"

namespace flashmla::sm90::sparse_prefill {

__device__ __forceinline__ void init_barriers(Shared& s) {
    const auto init = [](uint64_t& barrier, int arrivals) { mbarrier_init(smem_address(&barrier), arrivals); };
    const int warps = 4;
    for (int i = 0; i < kStages; ++i) {
        for (int side = 0; side < 2; ++side) {
            init(s.stage_full[i][side], kSideArrivals);
            init(s.stage_empty[i][side], kEmptyArrivals);
        }
    }
    for (int half = 0; half < 2; ++half) {
        init(s.k_rope_full[half], 64);
        init(s.k_rope_empty[half], warps);
    }
    init(s.q_tail_full, 1);
    init(s.q_tail_empty, warps);
    init(s.p_full, warps);
    init(s.p_empty, 2 * warps);
    init(s.final_full, warps);
    init(s.final_empty, 2 * warps);
    fence_mbarrier_init();
}

template <int kHeadDim>
__device__ __forceinline__ void run(const TensorMap* q, const SparsePrefillParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    Shared& s = *reinterpret_cast<Shared*>(dynamic);
    if (threadIdx.x == 0) {
        // The swizzle counts from here. There is no static shared memory that could push it.
        if (smem_address(dynamic) % 1024 != 0) __trap();
        prefetch_tensor_map(q);
        init_barriers(s);
    }
    __syncthreads();
    grid_dependency_wait();

    const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (role == 0) {
        register_pool_acquire<kScoresRegisters>();
        Scores<kHeadDim>(p, s).run();
    } else {
        register_pool_release<kOutputRegisters>();
        if (role == 1) {
            Output<kHeadDim, 0>(p, q, s).run();
        } else {
            Output<kHeadDim, 1>(p, q, s).run();
        }
    }
}

}  // namespace flashmla::sm90::sparse_prefill

// One instantiation a file: each compiles in seconds, and in parallel.
#define FLASHMLA_SPARSE_PREFILL(name, head_dim)                                                                  \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::sparse_prefill::kThreads, 1)                    \
        name(const __grid_constant__ flashmla::TensorMap q,                                                      \
             const __grid_constant__ flashmla::SparsePrefillParams params) {                                     \
        flashmla::sm90::sparse_prefill::run<head_dim>(&q, params);                                               \
    }
