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
    bool all_there = false;
    auto ready = [&](const SplitPlan& split) {
        if (all_there) return;
        bool all = false;
        if (threadIdx.x < 32) {
            // Of all partitions at first. Then of those that have a piece: the pieces of a default plan lie in as many
            // partitions, of which the second piece's slot tells the first. (A plan for other lengths may tell anything; who is
            // waited for exists all the same, and comes.)
            int first = 0, end = first_block;
#pragma unroll 1
            while (!rendezvous.there(first, end, 1)) {
                if (p.pieces == 0) {
                    const int step = p.h_kv * p.row_blocks, partition = min(split.rest_slot, p.partitions);
                    first = partition * step;
                    end = first + min(split.pieces, p.partitions - partition) * step;
                }
                __nanosleep(64);
            }
            all = first == 0 && end == first_block;
        }
        all_there = __syncthreads_or(all);
    };
    // All that comes from afar is asked for at once.
    Combine<T, kBlockThreads / 32, DenseDecodeParams, decltype(ready)> combine(p, reinterpret_cast<float4*>(dynamic), ready);
    rendezvous.begin();
    // Where nothing is split, nobody waits.
    if (combine.splits() <= 0) return;
    if (block == blocks) {
        if (threadIdx.x < 32) rendezvous.end();
        return;
    }
    if (threadIdx.x == 0) rendezvous.tell_only();
    combine.run(block, blocks);
}

}  // namespace flashmla::sm90::dense_decode
