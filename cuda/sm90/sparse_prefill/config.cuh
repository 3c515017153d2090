// Sparse prefill on SM90: O = softmax(scale Q K^T) V for every query token over the rows of a latent KV that
// its indices name, V being the first 512 columns of K.
//
// A thread block computes 64 heads of a query token against tiles of 64 gathered rows, then those of another
// token. As in dense decode the accumulator of 64 x 512 FP32 fills half the register file, and most of Q the rest:
//
//   warps 0-3    scores: hold most of Q in registers; S = Q K^T, softmax, P to shared memory
//   warps 4-7    output, columns 0 .. 255:   O = O * rescale + P V
//   warps 8-11   output, columns 256 .. 511
//   warps 12-15  gather: fill the ring of stages
//
// As there, P(i) stays in registers until P(i - 1) V(i - 1) is done, is stored while Q K(i + 1) runs and given away just
// before its end, so that P V and softmax, not P V and Q K, share the time:
//
//   scores        | Q K(i + 1), P(i) stored | softmax(i + 1) | Q K(i + 2), P(i + 1) stored | softmax(i + 2)
//   output        |                         | P(i) V(i)      |                             | P(i + 1) V(i + 1)
//   gather        | ... tile i + 2          | tile i + 3 into the rows that P(i) V(i) leaves, step by step ...
//
// Shared memory has a ring of three stages of 64 rows x 512 columns. Query after query it carries Q's latent part,
// and with it what the query is, and then the query's tiles. The output passes through the stage of the next query's Q, when
// that is in registers. K's rotary part has one buffer, filled when the products with the one before have read it; with it
// there is no room for three whole stages, so that then the last column tile has but two buffers: P V leaves it first and
// Q K reads it last.
//
// The copy engine cannot gather rows into the layout of the matrix units on SM90, so threads do (cp.async): eight
// lanes copy the 128 bytes that a row has in a column tile.
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::sparse_prefill {

constexpr int kRows = 64;        // heads
constexpr int kTokens = 64;      // rows of a tile
constexpr int kLatent = 512;     // d_v, and the part of d_qk that V shares
constexpr int kThreads = 512;
constexpr int kStages = 3;
constexpr int kColumnTile = 64;  // columns of one swizzled tile, 128 bytes
constexpr int kColumnTiles = kLatent / kColumnTile;
// Column tiles of Q that stay in registers; the rest, the rotary part too, stays in shared memory.
constexpr int kRegisterTiles = 6;
constexpr int kTileBytes = kTokens * kColumnTile * 2;
// Q comes in boxes of as many column tiles as are not kept in registers.
template <int kHeadDim>
constexpr int kBoxTiles = kHeadDim / kColumnTile - kRegisterTiles;
// Column tiles of a side of the output warps.
constexpr int kTilesPerSide = 4;
static_assert(2 * kTilesPerSide == kColumnTiles);
constexpr int kSideBytes = kTilesPerSide * kTileBytes;
// Steps of P V, of 16 rows: a stage is given back by them.
constexpr int kSteps = kTokens / 16;
constexpr int kStepBytes = 16 * 128;  // of a column tile

template <int kHeadDim>
constexpr bool kRotary = kHeadDim > kLatent;
// With a rotary part the last column tile of an item lies apart, in one of two buffers.
template <int kHeadDim>
constexpr int kStageTiles = kColumnTiles - kRotary<kHeadDim>;
constexpr int kLateBuffers = 2;

// Of the products with K(i + 1), each of 16 columns, these are issued before P(i) is stored (beside four with the rotary part).
// The hardware holds seven or eight, then it blocks the warp.
template <int kHeadDim>
constexpr int kProductsBeforeP = kRotary<kHeadDim> ? 6 : 12;
// With a rotary part, those with the columns that are copied first.
constexpr int kFirstProducts = kTilesPerSide * kColumnTile / 16;
// When P(i) is given away this many are still to be issued: what the output warps need to begin takes a while. With a rotary
// part they are those with the last column tile.
template <int kHeadDim>
constexpr int kProductsAfterP = kRotary<kHeadDim> ? kColumnTile / 16 : 8;

// Registers of a thread; 512 threads have 128 on average.
constexpr int kScoresRegisters = 168;
constexpr int kOutputRegisters = 160;
constexpr int kGatherRegisters = 24;

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

// Among the buffers of last column tiles: an item's is that of the item before the one before.
struct Late {
    uint32_t item = 0;

    __device__ __forceinline__ uint32_t buffer() const { return item & 1; }
    __device__ __forceinline__ uint32_t phase() const { return item >> 1; }
    __device__ __forceinline__ void advance() { item = (item + 1) & 3; }
};

}  // namespace flashmla::sm90::sparse_prefill
