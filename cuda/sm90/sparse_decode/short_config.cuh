// Sparse decode on SM90, short pieces: small batches, of which a thread block gets a few tiles. config.cuh says what is
// computed; here time is what it takes until the first tile is there, and what code takes that runs once and comes from
// L2 or memory. So all warps do the same, one thing after another, by loops rather than by long code:
//
//   all warps    fetch and convert a *step* of two tiles: 16 tokens a warp
//   warps 0-3    S = Q K^T and softmax of the first tile; O = O * rescale + P V of both, columns 0 .. 255
//   warps 4-7    of the second tile; columns 256 .. 511
//
// What the halves need of each other passes through shared memory: the rows' maxima, before P, and P.
#pragma once
#include "sm90/sparse_decode/work.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr int kShortThreads = 256;
constexpr int kShortWarps = kShortThreads / 32;
constexpr int kStepTiles = 2;
constexpr int kGroupTokens = 16;  // of a tile
// A column tile of K holds the tokens of both tiles, so that these lie one after another.
constexpr int kStageRowBytes = kTokens * kColumnTile * 2;
constexpr int kKTileBytes = kStepTiles * kStageRowBytes;
constexpr int kWarpTokens = kStepTiles * kTokens / kShortWarps;
static_assert(kWarpTokens == 16 && kStepTiles == kStages);

// In a cluster (short_cluster.cuh): what a block hands on of a column tile of its accumulators, in FP16, are one or two
// *records* (two where a block adds up 32 columns), of so many bytes: the rows' units, and the numbers. And to every block
// it says what the rows are relative to.
constexpr int kMaxCluster = 16;
constexpr int kUnitsBytes = kHeads * 2;
constexpr int kRecordBytes = kUnitsBytes + kQTileBytes, kHalfRecordBytes = kUnitsBytes + kQTileBytes / 2;
struct PieceRows {
    float reference[kHeads], sum[kHeads];
};
// Of up to 9 blocks whole records, or of 16 halves: this block's own are there, too.
constexpr int kRecordsBytes = 9 * kRecordBytes;
static_assert(kRecordsBytes >= kMaxCluster * kHalfRecordBytes);

template <class Layout>
struct ShortShared {
    static constexpr int kColumnTiles = Layout::kHeadDim / kColumnTile;
    // P takes the place of the column tile that is no part of V. (V4 has none.)
    static constexpr int kPTile = kLatent / kColumnTile;

    alignas(1024) uint8_t k[kPTile + 1][kKTileBytes];
    alignas(1024) uint8_t q[kColumnTiles][kQTileBytes];
    // The records that a block gets take the place of Q, and need more.
    alignas(16) uint8_t beyond_q[kRecordsBytes - kColumnTiles * kQTileBytes];
    union {
        struct {
            // Of the tokens of a warp: where their rows lie, and their scales.
            alignas(16) uint64_t rows[kShortWarps][kWarpTokens];
            alignas(16) uint32_t scales[kShortWarps][kWarpTokens][4];
        };
        // In a cluster, when there is nothing to fetch any more: of its blocks.
        alignas(16) PieceRows relative[kMaxCluster];
    };
    // Which of them exist.
    alignas(16) uint16_t valid[kShortWarps];
    // Of the rows, by tile: the highest score, and the sum of P.
    float top[kStepTiles][kHeads], sum[kStepTiles][kHeads];
    uint64_t q_full;
    uint64_t rows_received, records_received;  // in a cluster: what its blocks sent
    uint64_t calls;  // the rendezvous's counter
    int splits;      // units that the plan splits
};

static_assert(sizeof(ShortShared<V32>) <= 232448 && sizeof(ShortShared<V4>) <= 232448, "more than a thread block can have");

// The compiler computes all that follows from a thread's number before the first loop, in front of the first load, unless
// it does not know the number there.
__device__ __forceinline__ uint32_t thread_now() {
    uint32_t thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

#define FLASHMLA_SHORT_SHARED(base, member) ((base) + uint32_t(offsetof(ShortShared<Layout>, member)))

}  // namespace flashmla::sm90::sparse_decode
