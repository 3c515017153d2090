// The pieces of work of a thread block: what the plan gives its partition.
#pragma once
#include "common/cluster.cuh"
#include "common/divide.cuh"
#include "common/lengths.cuh"
#include "common/mbarrier.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"
#include "sm90/sparse_decode/config.cuh"
#include <cstddef>
#include <type_traits>

namespace flashmla::sm90::sparse_decode {

// Which heads a thread block computes, and in which partition.
struct Place {
    int row_block, partition;

    __device__ __forceinline__ explicit Place(const SparseDecodeParams& p)
        : row_block(blockIdx.x % p.row_blocks), partition(blockIdx.x / p.row_blocks) {}
    __device__ __forceinline__ Place(int row_block, int partition) : row_block(row_block), partition(partition) {}
};

// A contiguous run of tiles of one unit. All tiles of `indices` come first, then those of `extra_indices`.
struct Piece {
    int request, token;
    int tile_begin, tile_end;
    int tokens, extra_tokens;
    bool whole;  // the unit is not split: the piece writes the output itself
    int slot;    // accumulator of a piece of a split unit; -1: there is none, the plan is for other lengths
};

// Which tokens a unit attends to, as a piece has it. Returns how many tiles those are.
__device__ __forceinline__ int look_up_unit(const SparseDecodeParams& p, int index, Piece& piece) {
    const Unit unit(index, p.tokens, p.tokens_magic, p.tokens_shift);
    piece.request = unit.request;
    piece.token = unit.token;
    piece.tokens = first_tokens(p, unit);
    piece.extra_tokens = extra_tokens(p, unit);
    return tiles_of(piece.tokens) + tiles_of(piece.extra_tokens);
}

// Of which tiles a piece is, and where its accumulator lies.
__device__ __forceinline__ void set_tiles(const SparseDecodeParams& p, Piece& piece, int tiles, int begin, int end,
                                          int slot) {
    piece.tile_begin = min(begin, tiles);
    piece.tile_end = max(end, piece.tile_begin);
    piece.whole = begin == 0 && piece.tile_end == tiles;
    piece.slot = piece.whole ? 0 : slot;
    if (piece.slot < 0 || piece.slot >= p.slots) piece.slot = -1;
}

// Walks the pieces of a partition of a default plan. Every role walks them alike. A plan that was never written
// cannot lead outside the tensors: all that is read from it is clamped. Nothing is kept, or read ahead, that can be read
// again: a register more, and those of the tiles that are on the way no longer stay in their places.
class Pieces {
  public:
    // They may be those of dense decode, which has lengths on the device.
    static constexpr bool kMayBeDense = true, kMayBeEmpty = true;

    Pieces() = default;
    __device__ __forceinline__ Pieces(const SparseDecodeParams& p, int partition) : partition_(partition) {
        const Border begin = borders(p)[0];
        unit_ = max(begin.request, 0);
        tile_ = max(begin.tile, 0);
    }

    __device__ __forceinline__ bool next(const SparseDecodeParams& p, Piece& piece) {
        const Border end = borders(p)[1];
        if (unit_ >= p.units || !(Border{unit_, tile_} < end)) return false;
        const int tiles = look_up_unit(p, unit_, piece);
        const int stop = unit_ == end.request ? min(end.tile, tiles) : tiles;
        set_tiles(p, piece, tiles, tile_, stop, slot_of(p.units, p.partitions, unit_, partition_, tile_));
        if (piece.tile_end >= tiles) {
            ++unit_;
            tile_ = 0;
        } else {
            // A damaged plan must not stand still.
            tile_ = max(piece.tile_end, tile_ + 1);
        }
        return true;
    }

  private:
    __device__ __forceinline__ const Border* borders(const SparseDecodeParams& p) const {
        return reinterpret_cast<const Border*>(p.borders) + partition_;
    }

    int partition_;
    int unit_, tile_;
};

// Those of a batch-invariant plan: a chain of pieces, of which the partition's start tells the first. As damaged as that may
// be, it leads on, and not outside.
class DealtPieces {
  public:
    static constexpr bool kMayBeDense = true, kMayBeEmpty = true;

    DealtPieces() = default;
    __device__ __forceinline__ DealtPieces(const SparseDecodeParams& p, int partition) {
        const int first = reinterpret_cast<const Start*>(p.borders)[partition].piece;
        index_ = in_plan(p, first) ? first : -1;
    }

    __device__ __forceinline__ bool next(const SparseDecodeParams& p, Piece& piece) {
        if (index_ < 0) return false;
        const DealtPiece dealt = reinterpret_cast<const DealtPiece*>(p.pieces)[index_];
        const int tiles = look_up_unit(p, min(max(dealt.request, 0), p.units - 1), piece);
        set_tiles(p, piece, tiles, max(dealt.tile_begin, 0), min(dealt.tile_end, tiles), dealt.slot);
        index_ = dealt.next > index_ && in_plan(p, dealt.next) ? dealt.next : -1;
        return true;
    }

  private:
    static __device__ __forceinline__ bool in_plan(const SparseDecodeParams& p, int index) {
        return index < p.slots || index < p.units;
    }

    int index_;  // of the next piece; negative: there is none
};

// Half of a unit, of which a cluster of two blocks has one: no plan is asked.
class HalfUnit {
  public:
    static constexpr bool kMayBeDense = true, kMayBeEmpty = true;

    HalfUnit() = default;
    __device__ __forceinline__ HalfUnit(const SparseDecodeParams&, int unit) : unit_(unit) {}

    __device__ __forceinline__ bool next(const SparseDecodeParams& p, Piece& piece) {
        if (unit_ < 0) return false;
        const Unit unit(unit_, p.tokens, p.tokens_magic, p.tokens_shift);
        unit_ = -1;
        piece.request = unit.request;
        piece.token = unit.token;
        piece.tokens = first_tokens(p, unit);
        piece.extra_tokens = extra_tokens(p, unit);
        const int tiles = tiles_of(piece.tokens) + tiles_of(piece.extra_tokens);
        const int first = tiles / 2 + tiles % 2, rank = cluster_rank();
        piece.tile_begin = rank == 0 ? 0 : first;
        piece.tile_end = rank == 0 ? first : tiles;
        piece.whole = true;
        piece.slot = 0;
        return true;
    }

  private:
    int unit_;
};

// Whole units of the same length, as many for each partition: no plan is asked.
class WholeUnits {
  public:
    static constexpr bool kMayBeDense = false, kMayBeEmpty = false;

    WholeUnits() = default;
    __device__ __forceinline__ WholeUnits(const SparseDecodeParams& p, int partition)
        : unit_(partition * p.whole_units), end_(min(unit_ + p.whole_units, p.units)) {}

    __device__ __forceinline__ bool next(const SparseDecodeParams& p, Piece& piece) {
        if (unit_ >= end_) return false;
        const Unit unit(unit_++, p.tokens, p.tokens_magic, p.tokens_shift);
        piece.request = unit.request;
        piece.token = unit.token;
        piece.tokens = p.max_tokens;
        piece.extra_tokens = p.extra_max_tokens;
        piece.tile_begin = 0;
        piece.tile_end = tiles_of(piece.tokens) + tiles_of(piece.extra_tokens);
        piece.whole = true;
        piece.slot = 0;
        return true;
    }

  private:
    int unit_, end_;
};

template <class Layout>
using PiecesOf =
    std::conditional_t<Layout::kSplit, HalfUnit,
                       std::conditional_t<Layout::kWhole, WholeUnits,
                                          std::conditional_t<Layout::kDealt, DealtPieces, Pieces>>>;

template <class Layout>
__device__ __forceinline__ Place place_in_grid(const SparseDecodeParams& p) {
    if constexpr (Layout::kSplit) return Place(blockIdx.x / 2 % p.row_blocks, blockIdx.x / 2 / p.row_blocks);
    return Place(p);
}

template <class Layout>
struct Shared {
    static constexpr int kColumnTiles = Layout::kHeadDim / kColumnTile;

    // From a block of an octet to the next, from octet to octet, and from stage to stage.
    static constexpr int kBlockStride = Layout::kByColumns ? kStages * kTokens / 8 * kBlockBytes : kBlockBytes;
    static constexpr int kOctetBytes = Layout::kByColumns ? kBlockBytes : kColumnTiles * kBlockBytes;
    static constexpr int kStageBytes = kTokens / 8 * kOctetBytes;
    // The blocks of an octet: of the columns of the left half of the output, of those that only the scores need, and from
    // here on of the right half.
    static constexpr int kRightBlock = kColumnTiles - kColumnTilesRight;
    static constexpr int kRopeBlock = kColumnTiles == 9 ? 4 : 7;
    static __host__ __device__ constexpr int column_tile(int block) {
        return block < 4 ? block : block < kRightBlock ? block + 4 : block + 4 - kRightBlock;
    }

    alignas(1024) uint8_t k[kStages * kTokens / 8 * kColumnTiles * kBlockBytes];
    alignas(1024) uint8_t q[kColumnTiles][kQTileBytes];
    alignas(1024) uint8_t p[kQTileBytes];
    // What the output rows are multiplied by before P V is added, and at the end of a piece.
    float rescale[kHeads];
    uint32_t rescales[4];  // whether there is anything to multiply in the rows of a warp
    float final_scale[kHeads];
    // For the gather warps among themselves: of a warp's 16 tokens, by parity and pair, where the row lies, of
    // the tiles that are looked up ahead; and the scales, by parity, pair and what a lane needs of them together.
    alignas(16) uint64_t rows[Layout::kLookAhead][4][2][8];
    alignas(16) uint32_t scales[4][2][Layout::kScaleLanes][8][Layout::kScaleWords];
    // Which tokens of a tile exist: bit 4 g + j of warp w's word is token 16 g + 4 w + j; in a pair, bit j of the word
    // of warp w of block r is token 32 r + 8 w + j.
    using Valid = std::conditional_t<Layout::kPair, uint32_t, uint16_t>;
    static constexpr int kValidBytes = (Layout::kPair ? 8 : 4) * sizeof(Valid);
    alignas(16) Valid valid[kStages][kValidBytes / sizeof(Valid)];
    // In a pair: of the columns that the left warpgroup reads, and of the right one's. Alone: of all, in the first.
    // (V32 alone has the second ones, too, and leaves them.)
    static constexpr int kHalves = Layout::kByColumns ? 1 : 2;
    uint64_t k_full[kHalves][kStages], k_empty[kHalves][kStages];
    uint64_t q_full, q_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
    // Of two blocks that share a unit: what the rows of the other one's accumulators are relative to, and their sums; and
    // whether these are there.
    alignas(8) float2 other_rows[Layout::kSplit ? kHeads : 1];
    uint64_t other_full;
};

static_assert(sizeof(Shared<V32>) <= 232448 && sizeof(Shared<V4>) <= 232448 && sizeof(Shared<V32Pair>) <= 232448 &&
                  sizeof(Shared<V4Pair>) <= 232448 && sizeof(Shared<V32Split>) <= 232448,
              "more than a thread block can have");

// What the loop over tiles needs is kept in a register; left to itself the compiler computes it anew from special
// registers each time, and to read one takes hundreds of clocks beside warps that load and store.
__device__ __forceinline__ uint32_t kept(uint32_t value) {
    asm volatile("" : "+r"(value));
    return value;
}

// The number of the lane. The assembler, too, would rather read a special register again; it does not see through a
// shuffle.
__device__ __forceinline__ uint32_t kept_lane() { return __shfl_sync(~0u, threadIdx.x % 32, threadIdx.x); }

template <class Layout>
__device__ __forceinline__ uint32_t lane_of_thread() {
    return Layout::kKeepsLane ? kept_lane() : kept(threadIdx.x % 32);
}

// From an address of this block to the same one of the other block of the pair.
__device__ __forceinline__ uint32_t way_to_other(uint32_t shared) {
    return kept(cluster_address(shared, cluster_rank() ^ 1) - shared);
}

// A reader of K is done with a stage, or its half of one: it tells who fills it, in a pair both blocks.
template <class Layout>
__device__ __forceinline__ void free_stage(uint32_t barrier, uint32_t lane, uint32_t other) {
    if (arrives_for_warp(lane)) {
        mbarrier_arrive(barrier);
        if (Layout::kPair) mbarrier_arrive_cluster(barrier + other);
    }
}

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SPARSE_SHARED(base, member) ((base) + uint32_t(offsetof(Shared<Layout>, member)))

}  // namespace flashmla::sm90::sparse_decode
