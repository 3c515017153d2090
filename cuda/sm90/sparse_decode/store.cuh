// The store of a piece's output, by the warpgroups that hold its halves.
#pragma once
#include "common/numeric.cuh"
#include "sm90/sparse_decode/work.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr int kColumns = kLatent / 2;  // of a warpgroup

// The row of the accumulator that a thread holds, of two: `half` 0 or 1.
__device__ __forceinline__ int row_of_thread(int half) {
    return threadIdx.x / 32 % 4 * 16 + half * 8 + threadIdx.x % 32 / 4;
}

// The four threads of a row exchange their pairs of columns, so that each stores 16 bytes.
template <int kHalfRow, bool kLeft>
__device__ __forceinline__ void store_row(const SparseDecodeParams& p, const Place& place, const Piece& piece,
                                          float (&acc)[128], float scale) {
    const int head = place.row_block * kHeads + row_of_thread(kHalfRow), lane = threadIdx.x % 32;
    uint16_t* out = reinterpret_cast<uint16_t*>(p.out) + piece.request * p.out_strides[0] +
                    piece.token * p.out_strides[1] + head * p.out_strides[2] + !kLeft * kColumns + lane % 4 * 8;
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 4) {
        uint32_t x[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = (j + i) * 4 + kHalfRow * 2;
            x[i] = Bf16::pack(acc[at] * scale, acc[at + 1] * scale);
        }
        transpose_4x4(x, lane);
        if (head < p.h_q) *reinterpret_cast<uint4*>(out + j * 8) = make_uint4(x[0], x[1], x[2], x[3]);
    }
}

template <int kHalfRow, bool kLeft>
__device__ __forceinline__ void store_split_row(const SparseDecodeParams& p, const Place& place, const Piece& piece,
                                                float (&acc)[128], float scale) {
    const int head = place.row_block * kHeads + row_of_thread(kHalfRow);
    if (head >= p.h_q || piece.slot < 0) return;
    float* out = reinterpret_cast<float*>(p.split_out) + (int64_t(piece.slot) * p.h_q + head) * kLatent +
                 !kLeft * kColumns + threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
        const float2 pair = {acc[j * 4 + kHalfRow * 2] * scale, acc[j * 4 + kHalfRow * 2 + 1] * scale};
        *reinterpret_cast<float2*>(out + j * 8) = pair;
    }
}

template <bool kLeft>
__device__ __forceinline__ void store(const SparseDecodeParams& p, const Place& place, const Piece& piece,
                                      float (&acc)[128], float scale0, float scale1) {
    if (piece.whole) {
        store_row<0, kLeft>(p, place, piece, acc, scale0);
        store_row<1, kLeft>(p, place, piece, acc, scale1);
    } else {
        store_split_row<0, kLeft>(p, place, piece, acc, scale0);
        store_split_row<1, kLeft>(p, place, piece, acc, scale1);
    }
}

// lse of a whole unit, of its base-2 logarithm.
__device__ __forceinline__ void store_lse(const SparseDecodeParams& p, const Piece& piece, int head, float lse2) {
    if (head >= p.h_q || p.lse == 0) return;
    float lse = lse2 * kLn2;
    if (lse2 == -INFINITY && p.lse_empty_pos_inf) lse = INFINITY;
    reinterpret_cast<float*>(
        p.lse)[piece.request * p.lse_strides[0] + head * p.lse_strides[1] + piece.token * p.lse_strides[2]] = lse;
}

}  // namespace flashmla::sm90::sparse_decode
