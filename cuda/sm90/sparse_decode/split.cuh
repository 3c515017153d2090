// Two blocks that share a unit: what they do when each has its half of the tiles. The first one outputs the left half of
// the columns, the second one the right half: the warpgroup that holds the other half hands its accumulator over, from
// registers to the other block's shared memory, where K was:
//   out = (2^(r - R) acc + 2^(r' - R) acc') / (2^(r - R) s + 2^(r' - R) s'),  R = max(r, r'),
// r being what a row's accumulator acc is relative to, and s the sum of its weights.
#pragma once
#include "common/cluster.cuh"
#include "common/mbarrier.cuh"
#include "common/numeric.cuh"
#include "common/shared.cuh"
#include "common/sink.cuh"
#include "sm90/sparse_decode/store.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr int kHalfBytes = kHeads * kColumns * 4;

// Where the rows of this block's own accumulators are kept for its right warpgroup: the gather warps are done.
template <class Layout>
__device__ __forceinline__ uint32_t own_rows(uint32_t shared) {
    static_assert(sizeof(Shared<Layout>::scales) >= kHeads * 8);
    return FLASHMLA_SPARSE_SHARED(shared, scales);
}

// By the left warpgroup: reference and sum of its rows, for both blocks.
template <class Layout>
__device__ __forceinline__ void leave_rows(uint32_t shared, uint32_t lane, const float (&reference)[2], const float (&sum)[2]) {
    const uint32_t other = cluster_address(FLASHMLA_SPARSE_SHARED(shared, other_rows), cluster_rank() ^ 1);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float of_row = sum[h];
        of_row += __shfl_xor_sync(~0u, of_row, 1);
        of_row += __shfl_xor_sync(~0u, of_row, 2);
        if (lane % 4 != 0) continue;
        const uint32_t at = row_of_thread(h) * 8;
        store_shared_8(own_rows<Layout>(shared) + at, __float_as_uint(reference[h]), __float_as_uint(of_row));
        store_shared_cluster_8(other + at, __float_as_uint(reference[h]), __float_as_uint(of_row));
    }
}

template <class Layout, bool kLeft>
__device__ __forceinline__ void finish_with_other(const SparseDecodeParams& p, uint32_t shared, const Place& place,
                                                  const Piece& piece, float (&acc)[128]) {
    __syncwarp();
    // Nobody in either block needs K any more, and the rows are there.
    cluster_arrive();
    cluster_wait();
    const uint32_t rank = cluster_rank(), at = FLASHMLA_SPARSE_SHARED(shared, k) + threadIdx.x % 128 * 16;
    const uint32_t full = FLASHMLA_SPARSE_SHARED(shared, other_full);
    if ((rank == 0) != kLeft) {
        const uint32_t to = cluster_address(at, rank ^ 1), barrier = cluster_address(full, rank ^ 1);
#pragma unroll
        for (int i = 0; i < 32; ++i)
            store_to_cluster_16(to + i * (128 * 16), acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3], barrier);
        return;
    }
    float own_factor[2], other_factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = row_of_thread(h), head = place.row_block * kHeads + row;
        uint32_t own[2], other[2];
        load_shared_8(own, own_rows<Layout>(shared) + row * 8);
        load_shared_8(other, FLASHMLA_SPARSE_SHARED(shared, other_rows) + row * 8);
        const float own_reference = __uint_as_float(own[0]), other_reference = __uint_as_float(other[0]);
        const float reference = fmaxf(own_reference, other_reference);
        own_factor[h] = exp2_approx(own_reference - reference);
        other_factor[h] = exp2_approx(other_reference - reference);
        const float sum = own_factor[h] * __uint_as_float(own[1]) + other_factor[h] * __uint_as_float(other[1]);
        // NaN is not empty.
        const bool empty = sum == 0.f;
        float denominator = sum;
        if (p.attn_sink != 0 && head < p.h_q) denominator += exp2f(sink_log2(p, head, reference));
        const float scale = empty ? 0.f : 1.f / denominator;
        own_factor[h] *= scale;
        other_factor[h] *= scale;
        if (kLeft && threadIdx.x % 4 == 0) store_lse(p, piece, head, empty ? -INFINITY : reference + log2f(sum));
    }
    mbarrier_wait(full, 0);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        uint32_t x[4];
        load_shared_16(x, at + i * (128 * 16));
#pragma unroll
        for (int j = 0; j < 4; ++j)
            acc[i * 4 + j] = acc[i * 4 + j] * own_factor[j / 2] + __uint_as_float(x[j]) * other_factor[j / 2];
    }
    __syncwarp();
    store_row<0, kLeft>(p, place, piece, acc, 1.f);
    store_row<1, kLeft>(p, place, piece, acc, 1.f);
}

}  // namespace flashmla::sm90::sparse_decode
