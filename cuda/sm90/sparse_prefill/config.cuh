// Sparse prefill on SM90: O = softmax(scale Q K^T) V for every query token over the rows of a latent KV that
// its indices name, V being the first 512 columns of K.
//
// A thread block computes 64 heads of a query token against tiles of 64 gathered rows, then those of another
// token. As in dense decode the accumulator of 64 x 512 FP32 fills half the register file and most of Q the rest:
//
//   warps 0-3   scores: hold most of Q in registers; S = Q K^T, softmax, P to shared memory
//   warps 4-7   output, columns 0 .. 255:   O = O * rescale + P V; and they gather those columns of the rows
//   warps 8-11  output, columns 256 .. 511: the same of the others
//
// The scores warps work on half tiles of 32 rows, each with a buffer of its own, so that the products of one
// run under the softmax of the other: the matrix units always have work, be it Q K or P V.
//
//   scores        | Q K(i, right) under softmax(i, left) | Q K(i + 1, left) under softmax(i, right); P(i) stored |
//   output        | P(i - 1) V(i - 1), gathers of tile i + 2 ...
//
// Shared memory has a ring of three stages of 64 rows x 512 columns. Query after query it carries Q's latent part,
// and with it what the query is, and then the query's tiles. A half of the output warps is the only reader of
// its columns that is not done when it is, so that it fills them anew without asking the other half. K's
// rotary part has a buffer for each half tile, filled when the products with the one before are done.
//
// The copy engine cannot gather rows into the layout of the matrix units on SM90, so threads do (cp.async): eight
// lanes copy the 128 bytes that a row has in a column tile.
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::sparse_prefill {

constexpr int kRows = 64;        // heads
constexpr int kTokens = 64;      // rows of a tile
constexpr int kHalfTokens = 32;
constexpr int kLatent = 512;     // d_v, and the part of d_qk that V shares
constexpr int kThreads = 384;
constexpr int kStages = 3;
constexpr int kColumnTile = 64;  // columns of one swizzled tile, 128 bytes
constexpr int kColumnTiles = kLatent / kColumnTile;
// Column tiles of Q that stay in registers; the rest, the rotary part too, stays in shared memory.
constexpr int kRegisterTiles = 7;
constexpr int kTileBytes = kTokens * kColumnTile * 2;
constexpr int kStageBytes = kColumnTiles * kTileBytes;
// The two halves of a stage's columns, filled and read by a half of the output warps each.
constexpr int kTilesPerSide = kColumnTiles / 2;
constexpr int kSideBytes = kTilesPerSide * kTileBytes;

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

}  // namespace flashmla::sm90::sparse_prefill
