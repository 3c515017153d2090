// Dense decode on SM90: the thread block's set-up and its roles. config.cuh says what it computes.
//
// The first thread blocks of the grid compute the plan's partitions. Where requests can be split, others follow, which
// get multiprocessors as the first ones end: they combine the pieces (any/combine.cuh) that they wait for, and the
// last one ends the rendezvous.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/mbarrier.cuh"
#include "common/register_pool.cuh"
#include "sm90/dense_decode/combine_pieces.cuh"
#include "sm90/dense_decode/invariant_pieces.cuh"
#include "sm90/dense_decode/output.cuh"
#include "sm90/dense_decode/scores.cuh"

namespace flashmla::sm90::dense_decode {

__device__ __forceinline__ void init_barriers(Shared& s) {
    const auto init = [](uint64_t& barrier, int arrivals) { mbarrier_init(smem_address(&barrier), arrivals); };
    const int warps = 4 * kArrivalsOfWarp;  // of a role
    for (int i = 0; i < kStages; ++i) {
        for (int g = 0; g < kBarriersPerStage; ++g) init(s.stage_full[i][g], 1);
        init(s.stage_empty[i], 2 * warps);
    }
    init(s.k_rope_full, 1);
    init(s.k_rope_empty, warps);
    init(s.q_tail_full, 1);
    init(s.q_tail_empty, warps);
    init(s.p_full, warps);
    init(s.p_empty, 2 * warps);
    init(s.final_full, warps);
    init(s.final_empty, 2 * warps);
    fence_mbarrier_init();
}

template <class T, int kHeadDim, class Pieces>
__device__ __forceinline__ void run(const Maps& maps, const DenseDecodeParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    Shared& s = *reinterpret_cast<Shared*>(dynamic);
    const int blocks = p.partitions * p.h_kv * p.row_blocks;
    Rendezvous rendezvous(p.rendezvous, p.call);
    if (blockIdx.x >= blocks) return combine_pieces<T, kThreads>(p, rendezvous, blocks);
    if (threadIdx.x == 0) {
        // The swizzle counts from here. There is no static shared memory that could push it.
        if (smem_address(dynamic) % 1024 != 0) __trap();
        prefetch_tensor_map(maps.q);
        prefetch_tensor_map(maps.kv);
        if (kHeadDim > kLatent) prefetch_tensor_map(maps.kv_rope);
        init_barriers(s);
    }
    __syncthreads();
    grid_dependency_wait();
    if (threadIdx.x == 0 && p.slots > 0) {
        rendezvous.begin_later(&s.calls);
        copy_async<4>(&s.splits, reinterpret_cast<const SplitPlan*>(p.splits));
    }

    const int role = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (role == 0) {
        register_pool_acquire<kScoresRegisters>();
        Scores<T, kHeadDim, Pieces>(p, s).run();
    } else {
        register_pool_release<kOutputRegisters>();
        if (role == 1) {
            Output<T, kHeadDim, Pieces, true>(p, maps, s).run();
        } else {
            Output<T, kHeadDim, Pieces, false>(p, maps, s).run();
        }
    }
    if (p.slots == 0) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        copy_async_wait();
        rendezvous.begin_now(&s.calls);
        if (s.splits > 0) rendezvous.tell();
    }
}

}  // namespace flashmla::sm90::dense_decode

// One instantiation a file: each compiles in seconds, and in parallel. `pieces`: Pieces, or InvariantPieces.
#define FLASHMLA_DENSE_DECODE(name, T, head_dim, pieces)                                                         \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::dense_decode::kThreads, 1)                      \
        name(const __grid_constant__ flashmla::TensorMap q, const __grid_constant__ flashmla::TensorMap kv,      \
             const __grid_constant__ flashmla::TensorMap kv_rope,                                                \
             const __grid_constant__ flashmla::DenseDecodeParams params) {                                       \
        flashmla::sm90::dense_decode::run<T, head_dim, flashmla::sm90::dense_decode::pieces>(                    \
            {&q, &kv, &kv_rope}, params);                                                                        \
    }
