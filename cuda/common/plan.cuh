// The plan of a split-KV decode as the kernels read it. src/schedule.rs defines it, and says why.
#pragma once
#include <cstdint>

namespace flashmla {

constexpr int kTileTokens = 64;
constexpr int kMinPieceTiles = 2;
constexpr int kMinSplitTiles = 4;
constexpr int kMinStretch = 1;
constexpr int kSplitCost = 4;
constexpr int kHandoverCost = 3;
constexpr int kDealtPieces = 1024;
constexpr int kMostCost = 1048576;
constexpr int kMaxPartitions = 1024;

// The start of a stretch: a tile of a request, and how many tokens that has. And the tiles of the whole plan.
struct alignas(16) Border {
    int request, tile, tokens, plan_tiles;
};

__device__ __forceinline__ bool operator<(Border a, Border b) {
    return a.request < b.request || (a.request == b.request && a.tile < b.tile);
}

// The same of a partition of a batch-invariant plan: its first piece (-1: there is none), and if not 0 the tile at which it
// leaves that to the partition behind.
struct alignas(16) Start {
    int piece, tile;
    int unused, plan_tiles;
};

// A piece of a batch-invariant plan: of which tiles of a request, its accumulator (-1: the request is whole), and the
// next one of the same partition, which lies further behind (-1: there is none). And what the request's first list has.
struct alignas(8) DealtPiece {
    int request, tile_begin, tile_end;
    int slot, next;
    int tokens;
};

// A request that is split, and its accumulators: `first_slot` and the others in a row from `rest_slot` on. The list of
// these begins with a record whose `request` is their number.
struct alignas(16) SplitPlan {
    int request, pieces;
    int first_slot, rest_slot;
};

__device__ __forceinline__ int clamp_tokens(int tokens, int max_tokens) { return min(max(tokens, 0), max_tokens); }

__device__ __forceinline__ int tiles_of(int tokens) {
    // Not (tokens + 63) / 64: that overflows next to 2^31.
    return tokens / kTileTokens + (tokens % kTileTokens != 0);
}

// Accumulator of the piece of a request split by a default plan that begins at `tile` in `partition`.
__device__ __forceinline__ int slot_of(int b, int partitions, int request, int partition, int tile) {
    if (tile > 0) return partition - 1;
    return partitions - 1 + (b < partitions ? request : partition);
}

}  // namespace flashmla
