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
// into registers while one is converted.
//
// Where the blocks of heads of a query token are an even number, neighbours work in pairs (clusters of two): each converts
// half of the tokens of a tile, and the copy engine hands them to the other. (cuda/NOTES.md says what else was tried.)
#pragma once
#include "common/matrix.cuh"
#include <cstdint>

namespace flashmla::sm90::sparse_decode {

constexpr int kHeads = 64;
constexpr int kTokens = 64;
constexpr int kLatent = 512;       // d_v
constexpr int kThreads = 384;
constexpr int kStages = 2;         // tiles of K in shared memory
constexpr int kColumnTile = 64;    // columns of one swizzled tile, 128 bytes
constexpr int kQTileBytes = kHeads * kColumnTile * 2;
// K is laid out by *octets* of tokens, and these by blocks of a column tile: an octet lies in one piece.
constexpr int kBlockBytes = 8 * kColumnTile * 2;
constexpr int kColumnTilesRight = 4;  // of the right half of the output

// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

// FP8 cache layouts: where the parts of a token's row lie, in bytes.
// `kByColumns`: how K is laid out, by column tiles that hold the tokens of both stages (and one gather loop, gather_ahead.cuh,
// goes with it), or by octets. `kKeepsLane`: whether a thread keeps its number, and what follows from it, in registers come
// what may, or the assembler may read it again; V4 alone has no register for it.
struct V32 {
    static constexpr int kHeadDim = 576;
    static constexpr int kFp8 = 512;       // elements of FP8, the first columns
    static constexpr int kRowBytes = 656;  // from one token of a page to the next
    static constexpr int kRopeAt = 528;
    static constexpr bool kScalesInRow = true;  // 4 x FP32 behind the FP8 elements
    static constexpr int kScaleLanes = 2, kScaleWords = 2;
    static constexpr int kLookAhead = 1;  // tiles; of two, the registers for it cost more than they save
    static constexpr bool kPair = false, kSplit = false, kWhole = false, kDealt = false, kQAfterRows = false;
    static constexpr bool kByColumns = false, kKeepsLane = true;
    static constexpr int kLeftRegisters = 208, kRightRegisters = 160, kGatherRegisters = 136;
};

struct V4 {
    static constexpr int kHeadDim = 512;
    static constexpr int kFp8 = 448;
    static constexpr int kRowBytes = 576;
    static constexpr int kRopeAt = 448;
    static constexpr bool kScalesInRow = false;  // 8 x E8M0 a token, behind the rows of the page
    static constexpr int kScaleLanes = 4, kScaleWords = 1;
    static constexpr int kLookAhead = 2;
    static constexpr bool kPair = false, kSplit = false, kWhole = false, kDealt = false, kQAfterRows = false;
    static constexpr bool kByColumns = true, kKeepsLane = false;
    static constexpr int kLeftRegisters = 208, kRightRegisters = 160, kGatherRegisters = 136;
};

// Clusters of two blocks, of neighbouring heads: each converts half of the tokens for both.
struct V32Pair : V32 {
    static constexpr bool kPair = true;
    static constexpr int kLeftRegisters = 232, kRightRegisters = 160, kGatherRegisters = 112;
};

struct V4Pair : V4 {
    static constexpr int kLookAhead = 1;
    static constexpr bool kPair = true;
    static constexpr bool kByColumns = false, kKeepsLane = true;
    static constexpr int kLeftRegisters = 240, kRightRegisters = 160, kGatherRegisters = 104;
};

// Clusters of two blocks for the same heads: each takes half of the tiles of a unit, and half of the output (split.cuh).
struct V32Split : V32 {
    static constexpr bool kSplit = true;
};

// Where the host knows that all units have as many tiles, one at least, and that none is split. No plan is asked, and there
// is no way for lengths, empty or split units and dense decode: a third of the code less, or more, which comes from memory
// when a block runs through it for the first time. `kQAfterRows`: the first Q is asked for after the rows of the first tile, since
// their indices would come behind it; V4, and pairs, gain nothing by it.
template <class Layout>
struct Whole : Layout {
    static constexpr bool kWhole = true;
    static constexpr bool kQAfterRows = !Layout::kPair && !Layout::kByColumns;
};
using V32Whole = Whole<V32>;
using V4Whole = Whole<V4>;
using V32PairWhole = Whole<V32Pair>;
using V4PairWhole = Whole<V4Pair>;

// By a batch-invariant plan, which has pieces in chains, not stretches.
template <class Layout>
struct Dealt : Layout {
    static constexpr bool kDealt = true;
};
using V32Dealt = Dealt<V32>;
using V4Dealt = Dealt<V4>;
using V32PairDealt = Dealt<V32Pair>;
using V4PairDealt = Dealt<V4Pair>;

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
