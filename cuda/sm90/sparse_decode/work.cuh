// The pieces of work of a thread block: what the plan gives its partition.
#pragma once
#include "common/divide.cuh"
#include "common/lengths.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"
#include "sm90/sparse_decode/config.cuh"
#include <cstddef>

namespace flashmla::sm90::sparse_decode {

// Which heads a thread block computes, and in which partition.
struct Place {
    int row_block, partition;

    __device__ __forceinline__ explicit Place(const SparseDecodeParams& p)
        : row_block(blockIdx.x % p.row_blocks), partition(blockIdx.x / p.row_blocks) {}
};

// A contiguous run of tiles of one unit. All tiles of `indices` come first, then those of `extra_indices`.
struct Piece {
    int request, token;
    int tile_begin, tile_end;
    int tokens, extra_tokens;
    bool whole;  // the unit is not split: the piece writes the output itself
    int slot;    // accumulator of a piece of a split unit; -1: there is none, the plan is for other lengths
};

// Walks the pieces of a partition. Every role walks them alike. A plan that was never written
// cannot lead outside the tensors: all that is read from it is clamped.
class Pieces {
  public:
    Pieces() = default;
    __device__ __forceinline__ Pieces(const SparseDecodeParams& p, int partition) : partition_(partition) {
        const Border* borders = reinterpret_cast<const Border*>(p.borders);
        Border begin = borders[partition_];
        end_ = borders[partition_ + 1];
        unit_ = max(begin.request, 0);
        tile_ = max(begin.tile, 0);
        end_.request = min(end_.request, p.units);
        load_lengths(p);
    }

    __device__ __forceinline__ bool next(const SparseDecodeParams& p, Piece& piece) {
        if (!active(p)) return false;
        const int tiles = tiles_of(tokens_) + tiles_of(extra_tokens_);
        // Only a batch-invariant plan has something to say here; otherwise there is nothing to fetch.
        RequestPlan plan = {};
        if (p.requests != 0) plan = reinterpret_cast<const RequestPlan*>(p.requests)[unit_];
        int stop = unit_ == end_.request ? min(end_.tile, tiles) : tiles;
        if (plan.piece_tiles > 0) stop = min(stop, (tile_ / plan.piece_tiles + 1) * plan.piece_tiles);
        stop = max(stop, min(tile_, tiles));
        piece.request = divide(unit_, p.tokens_magic, p.tokens_shift);
        piece.token = unit_ - piece.request * p.tokens;
        piece.tokens = tokens_;
        piece.extra_tokens = extra_tokens_;
        piece.tile_begin = min(tile_, tiles);
        piece.tile_end = stop;
        piece.whole = tile_ == 0 && stop == tiles;
        piece.slot = piece.whole ? 0 : slot_of(plan, p.units, p.partitions, unit_, partition_, tile_);
        if (piece.slot < 0 || piece.slot >= p.slots) piece.slot = -1;
        if (stop >= tiles) {
            ++unit_;
            tile_ = 0;
            load_lengths(p);
        } else {
            // A damaged plan must not stand still.
            tile_ = max(stop, tile_ + 1);
        }
        return true;
    }

  private:
    __device__ __forceinline__ bool active(const SparseDecodeParams& p) const {
        return unit_ < p.units && Border{unit_, tile_} < end_;
    }
    __device__ __forceinline__ void load_lengths(const SparseDecodeParams& p) {
        if (!active(p)) return;
        const Unit unit(unit_, p.tokens);
        tokens_ = first_tokens(p, unit);
        extra_tokens_ = extra_tokens(p, unit);
    }

    int partition_;
    int unit_, tile_;
    int tokens_, extra_tokens_;  // fetched a piece ahead
    Border end_;
};

template <class Layout>
struct Shared {
    static constexpr int kColumnTiles = Layout::kHeadDim / kColumnTile;

    alignas(1024) uint8_t k[kColumnTiles][kKTileBytes];
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
    // Which tokens of a tile exist: bit 4 g + j of warp w's word is token 16 g + 4 w + j.
    alignas(8) uint16_t valid[kStages][4];
    uint64_t k_full[kStages], k_empty[kStages];
    uint64_t q_full, q_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
};

static_assert(sizeof(Shared<V32>) <= 232448 && sizeof(Shared<V4>) <= 232448, "more than a thread block can have");

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SPARSE_SHARED(base, member) ((base) + uint32_t(offsetof(Shared<Layout>, member)))

}  // namespace flashmla::sm90::sparse_decode
