// The thread blocks behind those of the partitions: they combine the pieces of split requests.
#pragma once
#include "any/combine.cuh"
#include "common/grid_dependency.cuh"
#include "common/rendezvous.cuh"
#include "flashmla_params.h"

namespace flashmla::sm90::dense_decode {

// Combines what the partitions' blocks wrote.
template <class T, int kBlockThreads>
__device__ __forceinline__ void combine_pieces(const DenseDecodeParams& p, Rendezvous rendezvous, int first_block) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    const int block = blockIdx.x - first_block, blocks = gridDim.x - first_block - 1;
    grid_dependency_wait();
    // Where nothing is split, nobody waits.
    if (*reinterpret_cast<const int*>(p.splits) <= 0) return;
    rendezvous.begin();
    if (block == blocks) {
        if (threadIdx.x < 32) rendezvous.end();
        return;
    }
    if (threadIdx.x == 0) rendezvous.tell();
    bool all_there = false;
    auto ready = [&](const SplitPlan& split) {
        if (all_there) return;
        bool all = false;
        if (threadIdx.x < 32) {
            all = rendezvous.there(0, first_block, 1);
            // The pieces of a default plan lie in as many partitions, of which the second piece's slot tells the first.
            // (A plan for other lengths may tell anything; who is waited for exists all the same, and comes.)
            const int step = p.h_kv * p.row_blocks;
            const int first = p.requests != 0 ? 0 : min(split.rest_slot, p.partitions) * step;
            const int end = p.requests != 0 ? first_block : first + min(split.pieces, p.partitions - first / step) * step;
            if (!all) rendezvous.wait(first, end, 1);
        }
        all_there = __syncthreads_or(all);
    };
    Combine<T, kBlockThreads / 32, DenseDecodeParams, decltype(ready)>(p, reinterpret_cast<float4*>(dynamic), ready)
        .run(block, blocks);
}

}  // namespace flashmla::sm90::dense_decode
