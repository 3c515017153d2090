// The copies of Q and K, issued by the output warps between their products: they learn when a stage becomes
// free, and have time while the scores of the next tile are made.
//
// The ring carries, piece after piece, Q's latent part and then the latent part of every K tile. The right
// half of the warps issues the item that lies kStages further as soon as an item is done with, into its stage,
// over the end of a piece too. What does not fit the ring has one buffer each, filled by the left half when the
// products that read it are done: K's rotary part (warp 0; of small pages several) and Q's tail (warp 1).
#pragma once
#include "common/mbarrier.cuh"
#include "common/tma.cuh"
#include "sm90/dense_decode/copies.cuh"
#include "sm90/dense_decode/work.cuh"

namespace flashmla::sm90::dense_decode {

// The ring, as the right output warps fill it.
template <bool kRope, class Pieces>
class RingLoader {
  public:
    __device__ __forceinline__ RingLoader(const DenseDecodeParams& p, const Maps& maps, const Place& place,
                                          uint32_t shared)
        : p_(p), maps_(maps), place_(place), shared_(shared), pieces_(p, place.partition),
          once_(pieces_.reads_little(p)) {
        piece_.tile_end = tile_ = 0;
    }

    // The item at hand, into the stage of one that is done with: when every reader has arrived on its barrier,
    // in the phase in which it was read.
    __device__ __forceinline__ void issue(const Ring& ring) {
        if (tile_ >= piece_.tile_end) return;
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring.stage * kStageBytes;
        const uint32_t full = FLASHMLA_SHARED(shared_, stage_full) + ring.stage * (kBarriersPerStage * 8);
        const int warp = threadIdx.x / 32 % 4;
        const bool whole = tile_ >= piece_.tile_begin && p_.kv_box_tokens == kTokens;
        // One thread copies a whole tile; the other warps have nothing to wait for then.
        if (whole && warp != 0) return;
        mbarrier_wait(FLASHMLA_SHARED(shared_, stage_empty) + ring.stage * 8, ring.phase);
        if (warp == 0 && elect_one()) {
#pragma unroll
            for (int h = 0; h < kBarriersPerStage; ++h) mbarrier_arrive_expect_tx(full + h * 8, kHalfBytes);
            if (whole) copy_whole(stage, full);
        }
        __syncwarp();
        if (whole) return;
        if (tile_ >= piece_.tile_begin) {
            if (p_.kv_box_tokens >= kGroupTokens) {
                copy_groups(stage, full, warp);
            } else {
                copy_small_boxes(stage, full, warp);
            }
        } else if (elect_one()) {
#pragma unroll 1
            for (int c = warp * 2; c < warp * 2 + 2; ++c)
                copy_q(p_, maps_.q, place_, piece_.request, c, stage + c * kTileBytes, full + c / kTilesPerBarrier * 8);
        }
        __syncwarp();
    }

    // Goes on to the next item. Apart from issue(), so that it runs, and the block table is read, while a
    // product does.
    __device__ __forceinline__ void advance() {
        if (++tile_ >= piece_.tile_end) next_piece();
        next_ = following_;
        if (tile_ + 1 >= piece_.tile_begin && tile_ + 1 < piece_.tile_end)
            following_ = locate(p_, piece_, (tile_ + 1) * kTokens + threadIdx.x % 32 * p_.kv_box_tokens % kTokens);
    }

  private:
    // Column tiles of a KV head.
    static constexpr int kHeadTiles = kColumnTiles + kRope;

    // Groups of tokens from a place in the cache on: the columns of a barrier.
    __device__ __forceinline__ void copy_half(PagedRow at, int half, uint32_t to, uint32_t full) {
        const PagedRow group = {at.page, 0};
        copy_k(maps_.kv, group, at.offset / kGroupTokens, place_.kv_head * kHeadTiles + half * kTilesPerBarrier,
               to + half * kHalfBytes, full + half * 8, once_);
    }

    __device__ __forceinline__ void copy_whole(uint32_t stage, uint32_t full) {
#pragma unroll
        for (int h = 0; h < kBarriersPerStage; ++h) copy_half(next_, h, stage, full);
        if (kRope && prefetches_rope())
            tma_prefetch_5d(maps_.kv_rope, 0, next_.offset, 0, place_.kv_head, next_.page);
    }

    // Pages of fewer than 64 tokens, in groups: a lane for each box of a half. Two warps take the boxes of a half in turn.
    __device__ __forceinline__ void copy_groups(uint32_t stage, uint32_t full, int warp) {
        const int token = threadIdx.x % 32 * p_.kv_box_tokens;
        if (token >= kTokens) return;
        if ((threadIdx.x & 1) == warp / 2) copy_half(next_, warp % 2, stage + token_at(token), full);
        if (kRope && warp == 3 && prefetches_rope())
            tma_prefetch_5d(maps_.kv_rope, 0, next_.offset, 0, place_.kv_head, next_.page);
    }

    // Pages that have no whole groups: a lane for each box, the warps take column tiles in turn.
    __device__ __forceinline__ void copy_small_boxes(uint32_t stage, uint32_t full, int warp) {
        const int size = p_.kv_box_tokens, lane = threadIdx.x % 32;
        PagedRow at = next_;
#pragma unroll 1
        for (int token = lane * size; token < kTokens; token += 32 * size) {
            // Pages of a single token are more than the lanes.
            if (token >= 32 * size) at = locate(p_, piece_, tile_ * kTokens + token);
#pragma unroll 1
            for (int c = warp; c < kColumnTiles; c += 4)
                copy_k(maps_.kv, at, place_.kv_head, c, stage + column_tile_at(c) + token_at(token),
                       full + c / kTilesPerBarrier * 8, once_);
            if (kRope && warp == 3 && prefetches_rope())
                tma_prefetch_5d(maps_.kv_rope, 0, at.offset, 0, place_.kv_head, at.page);
        }
    }

    // The rotary part gets its buffer later than the latent part and is needed as soon: it should be in L2
    // then. (Of the latent part a prefetch costs more than it gives: L2 is asked by each block apart, where loads
    // of blocks that run side by side are merged.) Blocks of one request ask in turn, each for every other tile.
    __device__ __forceinline__ bool prefetches_rope() const {
        return p_.row_blocks == 1 || ((tile_ ^ place_.row_block) & 1) == 0;
    }

    // Finds the next piece that has tiles. Its first item is Q, numbered one before its first tile; at the
    // end of the work a piece remains whose items are all behind.
    __device__ __forceinline__ void next_piece() {
        do {
            if (!pieces_.next(p_, piece_)) {
                piece_.tile_begin = piece_.tile_end = tile_ = 0;
                return;
            }
        } while (piece_.tile_begin == piece_.tile_end);
        tile_ = piece_.tile_begin - 1;
    }

    const DenseDecodeParams& p_;
    const Maps maps_;
    const Place place_;
    const uint32_t shared_;
    Pieces pieces_;
    const bool once_;
    Piece piece_;                // of the item at hand
    int tile_;                   // of the item at hand; tile_begin - 1 stands for Q
    PagedRow next_, following_;  // where its tile begins, and the one after it
};

// What does not pass through the ring, as the left output warps fill it.
class TailLoader {
  public:
    __device__ __forceinline__ TailLoader(const DenseDecodeParams& p, const Maps& maps, const Place& place,
                                          uint32_t shared)
        : p_(p), maps_(maps), place_(place), shared_(shared) {}

    // Q's column tiles for which there are no registers, for a piece that begins.
    __device__ __forceinline__ void q_tail(const Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_empty), phase_ ^ 1);
        phase_ ^= 1;
        const uint32_t barrier = FLASHMLA_SHARED(shared_, q_tail_full);
        if (elect_one()) {
            mbarrier_arrive_expect_tx(barrier, 2 * kTileBytes);
#pragma unroll 1
            for (int i = 0; i < 2; ++i)
                copy_q(p_, maps_.q, place_, piece.request, kRegisterTiles + i,
                       FLASHMLA_SHARED(shared_, q_tail) + i * kTileBytes, barrier);
        }
        __syncwarp();
    }

    // Whether a warp copies of rotary parts: the boxes of a tile are shared out, since box after box by one warp adds to the
    // tile: the one buffer is filled anew between two tiles' products. A warp that has none must not wait for the buffer
    // either: it might miss a phase.
    __device__ __forceinline__ bool copies_rope(int warp) const { return warp == 0 || warp * p_.kv_box_tokens < kTokens; }

    // Looks up the rotary part of a tile ahead of its use: the warp's first box.
    __device__ __forceinline__ void fetch_k_rope(const Piece& piece, int tile) {
        next_ = locate(p_, piece, tile * kTokens + threadIdx.x / 32 % 4 * p_.kv_box_tokens);
    }

    // The rotary part that was looked up.
    __device__ __forceinline__ void k_rope(const Piece& piece, int tile) {
        const int warp = threadIdx.x / 32 % 4, size = p_.kv_box_tokens;
        mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_empty), rope_phase_ ^ 1);
        rope_phase_ ^= 1;
        const uint32_t barrier = FLASHMLA_SHARED(shared_, k_rope_full);
        if (elect_one()) {
            if (warp == 0) mbarrier_arrive_expect_tx(barrier, kTileBytes);
            const uint32_t to = FLASHMLA_SHARED(shared_, k_rope);
            PagedRow at = next_;
#pragma unroll 1
            for (int token = warp * size; token < kTokens; token += 4 * size) {
                if (token >= 4 * size) at = locate(p_, piece, tile * kTokens + token);
                copy_k(maps_.kv_rope, at, place_.kv_head, 0, to + token * 128, barrier, false);
            }
        }
        __syncwarp();
    }

  private:
    const DenseDecodeParams& p_;
    const Maps maps_;
    const Place place_;
    const uint32_t shared_;
    PagedRow next_;
    uint32_t phase_ = 0, rope_phase_ = 0;
};

}  // namespace flashmla::sm90::dense_decode
