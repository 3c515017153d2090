// The pieces of work of a thread block: what the plan gives its partition.
#pragma once
#include "common/divide.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"
#include "sm90/dense_decode/config.cuh"

namespace flashmla::sm90::dense_decode {

// Which rows of which KV head a thread block computes, and in which partition.
struct Place {
    int row_block, kv_head, partition;

    __device__ __forceinline__ explicit Place(const DenseDecodeParams& p) {
        int rest = blockIdx.x;
        row_block = kv_head = 0;
        partition = rest;
        // Mostly; divisions would stand between a thread block's start and its first load.
        if (p.row_blocks == 1 && p.h_kv == 1) return;
        row_block = rest % p.row_blocks;
        rest /= p.row_blocks;
        kv_head = rest % p.h_kv;
        partition = rest / p.h_kv;
    }
};

// A contiguous run of tiles of one request.
struct Piece {
    int request, tokens;
    int tile_begin, tile_end;
    bool whole;  // the request is not split: the piece writes the output itself
    int slot;    // accumulator of a piece of a split request; -1: there is none, the plan is for other lengths
};

// Walks the pieces of a partition. Every role walks them alike. A plan that was never written
// cannot lead outside the tensors: all that is read from it is clamped.
class Pieces {
  public:
    Pieces() = default;
    __device__ __forceinline__ Pieces(const DenseDecodeParams& p, int partition) : partition_(partition) {
        const Border* borders = reinterpret_cast<const Border*>(p.borders);
        Border begin = borders[partition_];
        end_ = borders[partition_ + 1];
        request_ = max(begin.request, 0);
        tile_ = max(begin.tile, 0);
        end_.request = min(end_.request, p.b);
        next_tokens_ = begin.tokens;
        plan_tiles_ = begin.plan_tiles;
        // A batch-invariant plan has no stretches: of what else would be its end the request is behind all, and the tile tells
        // the piece's number, which for the first is the partition's.
        if (p.pieces != 0) {
            end_ = {p.b, partition_};
            if (partition_ >= p.slots && partition_ >= p.b) request_ = p.b;
        }
    }

    __device__ __forceinline__ bool next(const DenseDecodeParams& p, Piece& piece) {
        if (!active(p)) return false;
        const int tokens = clamp_tokens(next_tokens_, p.max_tokens);
        const int tiles = tiles_of(tokens);
        const int request = request_, tile = tile_;
        int stop = request == end_.request ? min(end_.tile, tiles) : tiles;
        int slot = slot_of(p.b, p.partitions, request, partition_, tile);
        // Only a batch-invariant plan; otherwise there is nothing to fetch, and the code lies out of the way.
        if (__builtin_expect(p.pieces != 0, 0)) {
            const DealtPiece& dealt = reinterpret_cast<const DealtPiece*>(p.pieces)[end_.tile];
            stop = min(dealt.tile_end, tiles);
            slot = dealt.slot;
            // A damaged plan must not go round in circles, nor, below, stand still.
            end_.tile = dealt.next > end_.tile ? dealt.next : -1;
            take(p);
        } else if (stop >= tiles) {
            ++request_;
            tile_ = 0;
        } else {
            tile_ = max(stop, tile_ + 1);
        }
        load_tokens(p);
        stop = max(stop, min(tile, tiles));
        piece.request = request;
        piece.tokens = tokens;
        piece.tile_begin = min(tile, tiles);
        piece.tile_end = stop;
        piece.whole = tile == 0 && stop == tiles;
        piece.slot = piece.whole ? 0 : slot;
        if (piece.slot < 0 || piece.slot >= p.slots) piece.slot = -1;
        return true;
    }

    // Whether what is read of the cache is little enough for the rest of L2 to matter: then it should not push out what
    // other kernels left there, which takes time where that has to be written to memory. Of more, it would push out what
    // it needs itself. Measured on an H100: cuda/NOTES.md.
    __device__ __forceinline__ bool reads_little(const DenseDecodeParams& p) const {
        return int64_t(plan_tiles_) * p.h_kv <= kLittle;
    }

  private:
    __device__ __forceinline__ bool active(const DenseDecodeParams& p) const {
        return request_ < p.b && Border{request_, tile_} < end_;
    }
    // Ahead of their use.
    __device__ __forceinline__ void load_tokens(const DenseDecodeParams& p) {
        if (active(p)) next_tokens_ = reinterpret_cast<const int*>(p.cache_seqlens)[request_ * p.cache_seqlens_stride];
    }
    // Goes to the piece of a batch-invariant plan that `end_` tells, if there is room for such a one.
    __device__ __forceinline__ void take(const DenseDecodeParams& p) {
        const int index = end_.tile;
        request_ = p.b;
        if (index < 0 || (index >= p.slots && index >= p.b)) return;
        const DealtPiece& dealt = reinterpret_cast<const DealtPiece*>(p.pieces)[index];
        request_ = max(dealt.request, 0);
        tile_ = max(dealt.tile_begin, 0);
    }

    int partition_;
    int request_, tile_;
    int next_tokens_;  // fetched a piece ahead
    int plan_tiles_;
    Border end_;
};

// How many keys a query row sees, counted from the first.
__device__ __forceinline__ int visible_tokens(const DenseDecodeParams& p, int tokens, int row) {
    return p.causal ? min(tokens, tokens - p.s_q + 1 + divide(row, p.group_magic, p.group_shift)) : tokens;
}

}  // namespace flashmla::sm90::dense_decode
