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
    int flags;
    int slot;  // accumulator of a piece of a split request; -1: there is none, the plan is for other lengths

    // The request is not split: the piece writes the output itself. It continues what the partition before began; it leaves
    // what it has to the partition behind.
    enum { kWhole = 1, kResumes = 2, kSuspends = 4 };
    __device__ __forceinline__ bool whole() const { return flags & kWhole; }
    __device__ __forceinline__ bool resumes() const { return flags & kResumes; }
    __device__ __forceinline__ bool suspends() const { return flags & kSuspends; }
};

// Whether what is read of the cache is little enough for the rest of L2 to matter: then it should not push out what
// other kernels left there, which takes time where that has to be written to memory. Of more, it would push out what
// it needs itself. Measured on an H100: cuda/NOTES.md.
__device__ __forceinline__ bool reads_little(const DenseDecodeParams& p, int plan_tiles) {
    return int64_t(plan_tiles) * p.h_kv <= kLittle;
}

// Walks the pieces of a partition of a default plan. Every role walks them alike. A plan that was never written
// cannot lead outside the tensors: all that is read from it is clamped.
class Pieces {
  public:
    static constexpr bool kHandsOver = false;

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
    }

    __device__ __forceinline__ bool next(const DenseDecodeParams& p, Piece& piece) {
        if (!active(p)) return false;
        const int tokens = clamp_tokens(next_tokens_, p.max_tokens);
        const int tiles = tiles_of(tokens);
        const int request = request_, tile = tile_;
        int stop = request == end_.request ? min(end_.tile, tiles) : tiles;
        const int slot = slot_of(p.b, p.partitions, request, partition_, tile);
        if (stop >= tiles) {
            ++request_;
            tile_ = 0;
        } else {
            // A damaged plan must not stand still.
            tile_ = max(stop, tile_ + 1);
        }
        load_tokens(p);
        stop = max(stop, min(tile, tiles));
        piece.request = request;
        piece.tokens = tokens;
        piece.tile_begin = min(tile, tiles);
        piece.tile_end = stop;
        piece.flags = tile == 0 && stop == tiles ? Piece::kWhole : 0;
        piece.slot = piece.whole() ? 0 : slot;
        if (piece.slot < 0 || piece.slot >= p.slots) piece.slot = -1;
        return true;
    }

    __device__ __forceinline__ bool reads_little(const DenseDecodeParams& p) const {
        return dense_decode::reads_little(p, plan_tiles_);
    }

  private:
    __device__ __forceinline__ bool active(const DenseDecodeParams& p) const {
        return request_ < p.b && Border{request_, tile_} < end_;
    }
    // Ahead of their use.
    __device__ __forceinline__ void load_tokens(const DenseDecodeParams& p) {
        if (active(p)) next_tokens_ = reinterpret_cast<const int*>(p.cache_seqlens)[request_ * p.cache_seqlens_stride];
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
