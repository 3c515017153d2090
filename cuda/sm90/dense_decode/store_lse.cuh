// lse of a row of a piece: the request's, or where the request is split its accumulator's.
#pragma once
#include "common/divide.cuh"
#include "common/numeric.cuh"
#include "sm90/dense_decode/pieces.cuh"

namespace flashmla::sm90::dense_decode {

// `lse2` is to base 2, -inf for a row that sees nothing.
__device__ __forceinline__ void store_row_lse(const DenseDecodeParams& p, const Place& place, const Piece& piece, int row,
                                              float lse2) {
    if (row >= p.rows) return;
    if (piece.whole()) {
        if (p.lse == 0) return;
        const int token = divide(row, p.group_magic, p.group_shift);
        const int head = place.kv_head * p.group + row - token * p.group;
        float lse = lse2 * kLn2;
        if (lse2 == -INFINITY && p.lse_empty_pos_inf) lse = INFINITY;
        reinterpret_cast<float*>(p.lse)[piece.request * p.lse_strides[0] + head * p.lse_strides[1] +
                                        token * p.lse_strides[2]] = lse;
    } else if (piece.slot >= 0) {
        const int64_t at = (int64_t(piece.slot) * p.h_kv + place.kv_head) * p.rows + row;
        reinterpret_cast<float*>(p.split_lse)[at] = lse2;
    }
}

}  // namespace flashmla::sm90::dense_decode
