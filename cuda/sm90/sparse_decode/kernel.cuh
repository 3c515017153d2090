// Sparse decode on SM90: the thread block's set-up and its roles. config.cuh says what it computes.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/mbarrier.cuh"
#include "common/register_pool.cuh"
#include "sm90/sparse_decode/gather.cuh"
#include "sm90/sparse_decode/gather_ahead.cuh"
#include "sm90/sparse_decode/left.cuh"
#include "sm90/sparse_decode/pair_gather.cuh"
#include "sm90/sparse_decode/right.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
__device__ __forceinline__ void init_barriers(Shared<Layout>& s) {
    const auto init = [](uint64_t& barrier, int arrivals) { mbarrier_init(smem_address(&barrier), arrivals); };
    const int warps = 4 * kArrivalsOfWarp;
    for (int i = 0; i < kStages; ++i) {
        for (int half = 0; half < Shared<Layout>::kHalves; ++half) {
            init(s.k_full[half][i], warps);
            init(s.k_empty[half][i], 2 * warps);
        }
    }
    init(s.q_full, 1);
    init(s.q_empty, warps);
    init(s.p_full, warps);
    init(s.p_empty, warps);
    init(s.final_full, warps);
    init(s.final_empty, warps);
    if constexpr (Layout::kSplit) {
        init(s.other_full, 1);
        mbarrier_arrive_expect_tx(smem_address(&s.other_full), kHalfBytes);
    }
    fence_mbarrier_init();
}

template <class Layout>
__device__ __forceinline__ void run(const TensorMap* q, const SparseDecodeParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    Shared<Layout>& s = *reinterpret_cast<Shared<Layout>*>(dynamic);
    if (threadIdx.x == 0) {
        // The swizzle counts from here. There is no static shared memory that could push it.
        if (smem_address(dynamic) % 1024 != 0) __trap();
        prefetch_tensor_map(q);
        init_barriers(s);
    }
    if constexpr (Layout::kPair || Layout::kSplit) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
    grid_dependency_wait();

    const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (role == 0) {
        register_pool_acquire<Layout::kLeftRegisters>();
        Left<Layout>(p, q, s).run();
    } else if (role == 1) {
        register_pool_release<Layout::kRightRegisters>();
        Right<Layout>(p, s).run();
    } else {
        register_pool_release<Layout::kGatherRegisters>();
        using Alone = std::conditional_t<Layout::kByColumns, GatherAhead<Layout>, Gather<Layout>>;
        std::conditional_t<Layout::kPair, PairGather<Layout>, Alone>(p, s).run();
        if constexpr (Layout::kSplit) {
            // The others of the block do so when K is no longer needed.
            __syncwarp();
            cluster_arrive();
            cluster_wait();
        }
    }
    if constexpr (Layout::kPair) {
        // The other block may still say that it is done with a stage.
        cluster_arrive();
        cluster_wait();
    }
}

}  // namespace flashmla::sm90::sparse_decode

// One instantiation a file: each compiles in seconds, and in parallel.
#define FLASHMLA_SPARSE_DECODE(name, layout)                                                                     \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::sparse_decode::kThreads, 1)                     \
        name(const __grid_constant__ flashmla::TensorMap q,                                                      \
             const __grid_constant__ flashmla::SparseDecodeParams params) {                                      \
        flashmla::sm90::sparse_decode::run<flashmla::sm90::sparse_decode::layout>(&q, params);                   \
    }
