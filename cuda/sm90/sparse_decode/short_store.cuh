// Short pieces: the store of what a thread block computed, each half of the warps its half of the columns.
#pragma once
#include "common/matrix.cuh"
#include "common/numeric.cuh"
#include "sm90/sparse_decode/short_combine.cuh"
#include "sm90/sparse_decode/store.cuh"

namespace flashmla::sm90::sparse_decode {

// Of a piece of a split unit, as it is.
__device__ __forceinline__ void store_piece(const SparseDecodeParams& p, const Place& place, const Piece& piece,
                                            const float (&acc)[128], int half) {
    const int rows = place.row_block * (kHeads / kFragmentRows) + threadIdx.x / 32 % 4;
    if (rows >= fragment_rows(p) || piece.slot < 0) return;
    float4* to = fragments(p, piece.slot, rows, half) + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kFragments; ++i) to[i * 32] = make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]);
}

// And what its rows' accumulators are relative to. Every thread of a row knows that.
__device__ __forceinline__ void store_piece_sums(const SparseDecodeParams& p, const Place& place, const Piece& piece,
                                                 const float (&reference)[2], const float (&sum)[2]) {
    const int row = place.row_block * kHeads + row_of_thread(0);
    if (threadIdx.x % 4 != 0 || row >= fragment_rows(p) * kFragmentRows || piece.slot < 0) return;
    float2* to = piece_sums(p, piece.slot, row);
    to[0] = {reference[0], sum[0]};
    to[8] = {reference[1], sum[1]};
}

}  // namespace flashmla::sm90::sparse_decode
