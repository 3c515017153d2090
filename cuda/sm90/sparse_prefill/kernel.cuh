// Sparse prefill on SM90: the thread block's set-up and its roles. config.cuh says what it computes.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/mbarrier.cuh"
#include "common/register_pool.cuh"
#include "sm90/sparse_prefill/gather.cuh"
#include "sm90/sparse_prefill/output.cuh"
#include "sm90/sparse_prefill/scores.cuh"

namespace flashmla::sm90::sparse_prefill {

template <int kHeadDim>
__device__ __forceinline__ void init_barriers(Shared<kHeadDim>& s) {
    const auto init = [](uint64_t& barrier, int arrivals) { mbarrier_init(smem_address(&barrier), arrivals); };
    const int scores_warps = 4 * kArrivalsOfWarp, output_warps = 8 * kArrivalsOfWarp;
    for (int i = 0; i < kStages; ++i) {
        init(s.stage_full[i], kFullArrivals);
        init(s.rest_full[i], kCopyArrivals);
        for (int step = 0; step < kSteps; ++step) init(s.stage_empty[i][step], kEmptyArrivals);
        init(s.q_read[i], scores_warps);
    }
    for (int i = 0; i < kLateBuffers; ++i) {
        init(s.late_full[i], kCopyArrivals);
        init(s.late_empty[i], 4 * kArrivalsOfWarp);
    }
    init(s.k_rope_full, kCopyArrivals);
    init(s.k_rope_empty, scores_warps);
    init(s.q_tail_full, 1);
    init(s.q_tail_empty, scores_warps);
    init(s.p_full, scores_warps);
    init(s.p_empty, output_warps);
    init(s.final_full, scores_warps);
    init(s.final_empty, output_warps);
    fence_mbarrier_init();
}

template <int kHeadDim>
__device__ __forceinline__ void run(const Maps& maps, const SparsePrefillParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    static_assert(sizeof(Shared<kHeadDim>) <= 232448, "more than a thread block can have");
    auto& s = *reinterpret_cast<Shared<kHeadDim>*>(dynamic);
    if (threadIdx.x == 0) {
        // The swizzle counts from here. There is no static shared memory that could push it.
        if (smem_address(dynamic) % 1024 != 0) __trap();
        prefetch_tensor_map(maps.q);
        prefetch_tensor_map(maps.out);
        init_barriers(s);
    }
    __syncthreads();
    grid_dependency_wait();

    const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (role == 0) {
        register_pool_acquire<kScoresRegisters>();
        Scores<kHeadDim>(p, s).run();
    } else if (role == 3) {
        register_pool_release<kGatherRegisters>();
        Gather<kHeadDim>(p, maps.q, s).run();
    } else {
        register_pool_acquire<kOutputRegisters>();
        if (role == 1) {
            Output<kHeadDim, 0>(p, maps, s).run();
        } else {
            Output<kHeadDim, 1>(p, maps, s).run();
        }
    }
}

}  // namespace flashmla::sm90::sparse_prefill

// One instantiation a file: each compiles in seconds, and in parallel.
#define FLASHMLA_SPARSE_PREFILL(name, head_dim)                                                                  \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::sparse_prefill::kThreads, 1)                    \
        name(const __grid_constant__ flashmla::TensorMap q, const __grid_constant__ flashmla::TensorMap out,     \
             const __grid_constant__ flashmla::SparsePrefillParams params) {                                     \
        flashmla::sm90::sparse_prefill::run<head_dim>({&q, &out}, params);                                        \
    }
