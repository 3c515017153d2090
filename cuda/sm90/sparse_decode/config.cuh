// Sparse decode on SM90: O = softmax(scale Q K^T) V over the tokens of an FP8 latent cache that a list of
// indices chooses (or, for dense decode on such a cache, a block table), V being the first 512 columns of K.
//
// A thread block computes 64 heads of one query token (a *unit* of the plan is a query token of a request)
// against tiles of 64 cached tokens:
//
//   warps 0-3    S = Q K^T, softmax, P; and O = O * rescale + P V for columns 0 .. 255 (P from registers)
//   warps 4-7    columns 256 .. 511 (P through shared memory)
//   warps 8-11   gather: fetch the chosen rows, turn FP8 into BF16, and lay them out as K tiles
//
// With Q, shared memory has room for two tiles of K: one is filled while the other is in use.
//
// Fetching: two or three tiles ahead the indices, one or two (kLookAhead) the rows into L2, and the rows of the next tile
// into registers while one is converted. (cuda/NOTES.md says what else was tried, pairs of blocks too.)
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::sparse_decode {

constexpr int kHeads = 64;
constexpr int kTokens = 64;
constexpr int kLatent = 512;       // d_v
constexpr int kThreads = 384;
constexpr int kStages = 2;         // tiles of K in shared memory
constexpr int kGroupTokens = 16;   // four of them are each gather warp's
constexpr int kColumnTile = 64;    // columns of one swizzled tile, 128 bytes
constexpr int kQTileBytes = kHeads * kColumnTile * 2;
// A column tile of K holds the tokens of all stages, so that its tiles of tokens lie one after another.
constexpr int kStageRowBytes = kTokens * kColumnTile * 2;
constexpr int kKTileBytes = kStages * kStageRowBytes;

// Registers of a thread; 384 threads have 168 on average.
constexpr int kLeftRegisters = 208;
constexpr int kRightRegisters = 160;
constexpr int kGatherRegisters = 136;

// FP8 cache layouts: where the parts of a token's row lie, in bytes.
struct V32 {
    static constexpr int kHeadDim = 576;
    static constexpr int kFp8 = 512;       // elements of FP8, the first columns
    static constexpr int kRowBytes = 656;  // from one token of a page to the next
    static constexpr int kRopeAt = 528;
    static constexpr bool kScalesInRow = true;  // 4 x FP32 behind the FP8 elements
    static constexpr int kScaleLanes = 2, kScaleWords = 2;
    static constexpr int kLookAhead = 1;  // tiles; of two, the registers for it cost more than they save
};

struct V4 {
    static constexpr int kHeadDim = 512;
    static constexpr int kFp8 = 448;
    static constexpr int kRowBytes = 576;
    static constexpr int kRopeAt = 448;
    static constexpr bool kScalesInRow = false;  // 8 x E8M0 a token, behind the rows of the page
    static constexpr int kScaleLanes = 4, kScaleWords = 1;
    static constexpr int kLookAhead = 2;
};

// A tile's place in the ring of stages.
struct Ring {
    int stage = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void advance() {
        stage ^= 1;
        if (stage == 0) phase ^= 1;
    }
};
static_assert(kStages == 2);

}  // namespace flashmla::sm90::sparse_decode
