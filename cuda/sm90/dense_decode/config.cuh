// Dense decode on SM90: O = softmax(scale Q K^T) V over a paged latent cache, V being the first
// 512 columns of K.
//
// A thread block computes 64 query rows (heads of one KV head, and tokens) against tiles of 64 cached
// tokens. The accumulator of 64 x 512 FP32 fills half the register file, which decides the rest. The products
// of a tile need each byte of K twice, once as K and once as V, and shared memory feeds the matrix units at
// 128 bytes a clock, so that what is read often lives in registers:
//
//   warps 0-3   scores: hold most of Q in registers; S = Q K^T, softmax, P to shared memory
//   warps 4-7   output, columns 0 .. 255:   O = O * rescale + P V; between products they copy what does not
//               fit the ring (TMA)
//   warps 8-11  output, columns 256 .. 511; between products they fill the ring of K tiles, and Q before them
//
// Reading per tile: K once (72 KiB), V once (64), P twice (16) and the tail of Q (16), where two warpgroups
// that each compute S for every other tile read all of Q as well (216 in all, not 168).
//
// The matrix units work on P(i) V(i) while the scores warps compute the softmax of tile i + 1, and on
// Q K(i + 2) after that:
//
//   scores        | Q K(i + 1), P(i) stored | softmax(i + 1) | Q K(i + 2), P(i + 1) stored | softmax(i + 2)
//   output        | waits                   | P(i) V(i)      | waits                       | P(i + 1) V(i + 1)
//   matrix units  | Q K(i + 1)              | P(i) V(i)      | Q K(i + 2)                  | P(i + 1) V(i + 1)
//
// P(i) stays in registers until P(i - 1) V(i - 1) is done, is stored while products with K(i + 1) are queued, and given
// away before the last of them: products of 256 columns take the matrix units from those of 64, but need time to begin.
//
// Thread blocks with other rows of a request run side by side and ask for the same tiles at about the same
// time; the hardware merges such requests on the way to L2. (Sharing by multicast in clusters moves more bytes
// out of L2, and couples the blocks.)
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::dense_decode {

constexpr int kRows = 64;
constexpr int kTokens = 64;
constexpr int kLatent = 512;       // d_v, and the part of d_qk that V shares
constexpr int kThreads = 384;
constexpr int kStages = 3;         // tiles of K's latent part in shared memory
constexpr int kColumnTile = 64;    // columns of one swizzled tile, 128 bytes
constexpr int kColumnTiles = kLatent / kColumnTile;
// Column tiles of Q that stay in registers; the rest, the rotary part too, stays in shared memory.
constexpr int kRegisterTiles = 7;
constexpr int kTileBytes = kTokens * kColumnTile * 2;
constexpr int kStageBytes = kColumnTiles * kTileBytes;
// Of the products with K(i + 1), each of 16 columns, as many are issued before P(i) is stored as the hardware queues:
// it holds seven, then it blocks the warp.
constexpr int kStepsBeforeP = 6;
// When P(i) is given away this many are still to be issued: what the output warps need to begin takes longer than the
// seven in the queue.
constexpr int kStepsAfterP = 7;
static_assert(kStepsBeforeP <= kLatent / 32 && kLatent / 32 <= kLatent / 16 - kStepsAfterP, "see Scores::products");
// The column tiles of a stage arrive on two barriers, so that products begin before all came.
constexpr int kBarriersPerStage = 2;
constexpr int kTilesPerBarrier = kColumnTiles / kBarriersPerStage;

// K in a stage: half after half of its columns, in a half group after group of eight tokens, in a group column tile after
// column tile. To the matrix units a tile may lie so as well as column tile after column tile (strides of their operands
// say), and one copy brings all columns of a half for the tokens of a small page, which lie together then. (Q passes column
// tile after column tile.)
constexpr int kGroupTokens = 8;
constexpr int kGroupTileBytes = kGroupTokens * kColumnTile * 2;
constexpr int kGroupBytes = kTilesPerBarrier * kGroupTileBytes;
constexpr int kHalfBytes = kTokens / kGroupTokens * kGroupBytes;
static_assert(kBarriersPerStage * kHalfBytes == kStageBytes, "see above");

// Where a column tile begins in a stage, and a token in a column tile, in bytes.
__host__ __device__ constexpr int column_tile_at(int tile) {
    return tile / kTilesPerBarrier * kHalfBytes + tile % kTilesPerBarrier * kGroupTileBytes;
}
__host__ __device__ constexpr int token_at(int token) {
    return token / kGroupTokens * kGroupBytes + token % kGroupTokens * kColumnTile * 2;
}

// Tiles of K that are little (Pieces::reads_little).
constexpr int kLittle = 1536;

// Registers of a thread; 384 threads have 168 on average.
constexpr int kScoresRegisters = 184;
constexpr int kOutputRegisters = 160;

// Position in the ring of stages.
struct Ring {
    int stage = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == kStages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

}  // namespace flashmla::sm90::dense_decode
