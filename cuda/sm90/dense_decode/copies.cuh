// Where Q and K lie in memory, and how the copy engine is asked for a part of them.
#pragma once
#include "common/divide.cuh"
#include "common/tma.cuh"
#include "sm90/dense_decode/pieces.cuh"

namespace flashmla::sm90::dense_decode {

// Q as (column of a tile, head, column tile, token, request), a box being one column tile; the cache as
// (column of a tile, token of a page, column tile, KV head, page), its latent and its rotary part, a box being tokens of one
// column tile, or of the latent part in the kernel for few rows kTilesPerBarrier of them if it has all tokens of a tile. In
// that for many rows the latent part may be (column of a tile, token of a group, column tile of the KV heads in turn, group
// of tokens of a page, page), a box being groups of all column tiles of a barrier.
struct Maps {
    const TensorMap *q, *kv, *kv_rope;
};

// Where a box of tokens lies in the cache.
struct PagedRow {
    int page, offset;
};

// Looks a token up in the block table. Tokens past the length are not looked up: page -1 lies outside the
// tensor, as does every wrong entry of the block table, and arrives as zeros.
__device__ __forceinline__ PagedRow locate(const DenseDecodeParams& p, const Piece& piece, int token) {
    // (A negative one is past 2^31.)
    if (uint32_t(token) >= uint32_t(piece.tokens)) return {-1, 0};
    const int entry = divide(token, p.page_magic, p.page_shift);
    const int* table = reinterpret_cast<const int*>(p.block_table) + piece.request * p.block_table_strides[0];
    return {table[entry * p.block_table_strides[1]], token - entry * p.page_block_size};
}

// One box of a K tile, from column tile `column` on. `once`: see Pieces::reads_little. (Loads under a policy, be it the
// usual one, are not merged on the way to L2 with those of blocks that run side by side.)
__device__ __forceinline__ void copy_k(const TensorMap* map, PagedRow at, int kv_head, int column, uint32_t to,
                                       uint32_t barrier, bool once) {
    if (once) {
        tma_load_5d(to, map, barrier, 0, at.offset, column, kv_head, at.page, l2_evict_first());
    } else {
        tma_load_5d(to, map, barrier, 0, at.offset, column, kv_head, at.page);
    }
}

// A column tile of Q. Rows are (token, head of the group); a box lies within one token, and a token past the
// last one arrives as zeros, as does a column tile past the last one.
__device__ __forceinline__ void copy_q(const DenseDecodeParams& p, const TensorMap* map, const Place& place, int request,
                                       int column, uint32_t to, uint32_t barrier) {
#pragma unroll 1
    for (int first = 0; first < kRows; first += p.q_box_rows) {
        const int row = place.row_block * kRows + first;
        const int token = divide(row, p.group_magic, p.group_shift), head = place.kv_head * p.group + row - token * p.group;
        tma_load_5d(to + first * 128, map, barrier, 0, head, column, token, request);
    }
}

}  // namespace flashmla::sm90::dense_decode
