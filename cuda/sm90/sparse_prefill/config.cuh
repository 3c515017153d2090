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
// As there, P(i) stays in registers until P(i - 1) V(i - 1) is done, is stored while Q K(i + 1) runs and given away just
// before its end, so that P V and softmax, not P V and Q K, share the time:
//
//   scores        | Q K(i + 1), P(i) stored | softmax(i + 1) | Q K(i + 2), P(i + 1) stored | softmax(i + 2)
//   output        | gathers tile i + 2      | P(i) V(i)      | gathers tile i + 3          | P(i + 1) V(i + 1)
//
// Shared memory has a ring of three stages of 64 rows x 512 columns. Query after query it carries Q's latent part,
// and with it what the query is, and then the query's tiles. The output passes through the stage of the next query's Q, when
// that is in registers. K's rotary part has one buffer, filled when the products with the one before have read it.
//
// The copy engine cannot gather rows into the layout of the matrix units on SM90, so threads do (cp.async): eight
// lanes copy the 128 bytes that a row has in a column tile. A half of the output warps is the only reader of its columns
// that is not done when it is, so that it fills them anew without asking the other half; the rows of the first steps of P V
// while its other steps run.
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::sparse_prefill {

constexpr int kRows = 64;        // heads
constexpr int kTokens = 64;      // rows of a tile
constexpr int kLatent = 512;     // d_v, and the part of d_qk that V shares
constexpr int kThreads = 384;
constexpr int kStages = 3;
constexpr int kColumnTile = 64;  // columns of one swizzled tile, 128 bytes
constexpr int kColumnTiles = kLatent / kColumnTile;
// Column tiles of Q that stay in registers; the rest, the rotary part too, stays in shared memory.
constexpr int kRegisterTiles = 7;
constexpr int kTileBytes = kTokens * kColumnTile * 2;
constexpr int kStageBytes = kColumnTiles * kTileBytes;
// Of the products with K(i + 1), each of 16 columns, as many are issued before P(i) is stored as the hardware queues:
// it holds seven, then it blocks the warp.
constexpr int kStepsBeforeP = 6;
// When P(i) is given away this many are still to be issued: what the output warps need to begin takes a while. With a rotary
// part less is better, as measured.
template <int kHeadDim>
constexpr int kStepsAfterP = kHeadDim > kLatent ? 4 : 12;
// Columns of a side of the output warps.
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
