// The tiles of a partition as the gather warps see them: where their tokens are to be looked up.
#pragma once
#include "common/tma.cuh"
#include "sm90/sparse_decode/work.cuh"

namespace flashmla::sm90::sparse_decode {

// What a token that does not exist is read from.
__device__ const uint4 kZeroRow[48] = {};

// What a list says of a token.
struct Entry {
    int value;   // sparse: the index; dense: the page
    int offset;  // dense: of the token in its page, -1 if there is none
    bool extra;  // the list
};

// The list of a tile: where it is, its length, and the tile's first token therein.
template <bool kMayBeDense>
struct List {
    const int* entries = nullptr;
    int tokens = 0, at = 0;
    bool extra = false;

    // Where a token of the tile is to be looked up.
    __device__ __forceinline__ Entry entry(const SparseDecodeParams& p, int token) const {
        Entry entry = {-1, -1, extra};
        const int i = at + token;
        if (i >= tokens) return entry;
        if (kMayBeDense && p.block_table != 0) {
            const int page = divide(i, p.page_magic, p.page_shift);
            entry.offset = i - page * p.page_block_size;
            entry.value = __ldg(entries + page * p.block_table_strides[1]);
        } else {
            entry.value = __ldg(entries + i);
            // The entries of four tiles later, by two warps 32 each.
            const int later = i + 4 * kTokens + token % 8 / 4 * 32;
            if (later < tokens) prefetch_l2_line(entries + later);
        }
        return entry;
    }
};

// Walks the tiles of a partition's pieces.
template <class Pieces>
class TilesOf {
  public:
    using List = sparse_decode::List<Pieces::kMayBeDense>;

    __device__ __forceinline__ TilesOf(const SparseDecodeParams& p, const Place& place) : pieces_(p, place.partition) {
        piece_.tile_end = tile_ = 0;
    }

    // Goes to the next tile; at the end of the work it says false.
    __device__ __forceinline__ bool next(const SparseDecodeParams& p) {
        list_.at += kTokens;
        if (++tile_ < piece_.tile_end) {
            if (tile_ == first_tiles_) begin_list(p, true);
            return true;
        }
        do {
            if (!pieces_.next(p, piece_)) {
                piece_.tile_end = 0;
                tile_ = 0;
                return false;
            }
        } while (Pieces::kMayBeEmpty && piece_.tile_begin == piece_.tile_end);
        tile_ = piece_.tile_begin;
        first_tiles_ = tiles_of(piece_.tokens);
        begin_list(p, tile_ >= first_tiles_);
        return true;
    }

    __device__ __forceinline__ const List& list() const { return list_; }

  private:
    __device__ __forceinline__ void begin_list(const SparseDecodeParams& p, bool extra) {
        list_.extra = extra;
        list_.tokens = extra ? piece_.extra_tokens : piece_.tokens;
        list_.at = (tile_ - (extra ? first_tiles_ : 0)) * kTokens;
        if (Pieces::kMayBeDense && p.block_table != 0) {
            list_.entries = reinterpret_cast<const int*>(p.block_table) + piece_.request * p.block_table_strides[0];
        } else if (extra) {
            list_.entries = reinterpret_cast<const int*>(p.extra_indices) + piece_.request * p.extra_indices_strides[0] +
                            piece_.token * p.extra_indices_strides[1];
        } else {
            list_.entries = reinterpret_cast<const int*>(p.indices) + piece_.request * p.indices_strides[0] +
                            piece_.token * p.indices_strides[1];
        }
    }

    Pieces pieces_;
    Piece piece_;
    int tile_, first_tiles_;
    List list_;
};

}  // namespace flashmla::sm90::sparse_decode
