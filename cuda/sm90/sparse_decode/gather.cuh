// The gather warps of a thread block that works alone: from indices to K tiles in shared memory.
//
// Of each group of 16 tokens of a tile a warp takes four, a quad (rows.cuh). All loads in flight are waited for together
// when a turn of the loop begins, since in a loop the compiler counts them all by one scoreboard. The rows of the next tile
// are asked for after the fence, which waits for loads, too; before that they are looked up, and on their way to L2.
// (gather_ahead.cuh is that of V4.)
#pragma once
#include "sm90/sparse_decode/rows.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class Gather : Rows<Layout> {
    using typename Rows<Layout>::Row;
    using typename Rows<Layout>::Quad;
    using typename Rows<Layout>::LaneScales;
    using Rows<Layout>::p_;
    using Rows<Layout>::shared_;
    using Rows<Layout>::lane_;
    using Rows<Layout>::warp_;
    using Rows<Layout>::kQuads;
    using Rows<Layout>::kOctetBytes;
    using Rows<Layout>::kStageBytes;
    static constexpr int kGroupTokens = 16;

  public:
    __device__ __forceinline__ Gather(const SparseDecodeParams& p, Shared<Layout>& s)
        : Rows<Layout>(p, s, threadIdx.x / 32 % 4 * (kGroupTokens / 4)) {}

    __device__ __forceinline__ void run() {
        TilesOf<PiecesOf<Layout>> tiles(p_, place_in_grid<Layout>(p_));
        const int token = lane_ / 4 % 4 * kGroupTokens + warp_ * 4 + lane_ % 4;
        if (!tiles.next(p_)) return;
        // `entry` is of the tile that is looked up next, if there is one.
        Entry entry = {};
        Row row = this->look_up(tiles.list().entry(p_, token));
        if constexpr (Layout::kQAfterRows) mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, q_empty), lane_);
        bool more = tiles.next(p_);
        if (more) entry = tiles.list().entry(p_, token);
        Quad quads[kQuads];
#pragma unroll
        for (int i = 0; i < kQuads; ++i) this->load(quads[i], this->addresses(i));
        this->load_scales(row);
        while (true) {
            const bool exact = this->leave_scales(row);
            const uint32_t valid = row.valid;
            const bool last = !more;
            if (more) {
                row = this->look_up(entry);
                this->load_scales(row);
                more = tiles.next(p_);
                if (more) entry = tiles.list().entry(p_, token);
            }
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8, ring_.phase ^ 1);
            __syncwarp();
            const LaneScales scales = this->lane_scales();
            if (exact) {
                convert_tile<true>(quads, scales);
            } else {
                convert_tile<false>(quads, scales);
            }
            finish_tile(valid);
            if (last) break;
#pragma unroll
            for (int i = 0; i < kQuads; ++i) this->load(quads[i], this->addresses(i));
            ring_.advance();
        }
    }

  private:
    template <bool kExact>
    __device__ __forceinline__ void convert_tile(const Quad (&quads)[kQuads], const LaneScales& scales) const {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
            const uint32_t to = ring_.stage * kStageBytes + i * (kGroupTokens / 8) * kOctetBytes;
            this->template convert<kExact, 0, 1>(quads[i], scales, i, to, 0);
        }
    }

    __device__ __forceinline__ void finish_tile(uint32_t valid) {
        fence_proxy_async();
        __syncwarp();
        if (arrives_for_warp(lane_)) {
            const uint32_t valid_at = FLASHMLA_SPARSE_SHARED(shared_, valid) + ring_.stage * Shared<Layout>::kValidBytes;
            if (lane_ == 0) store_shared_u16(valid_at + warp_ * 2, valid);
            mbarrier_arrive(FLASHMLA_SPARSE_SHARED(shared_, k_full) + ring_.stage * 8);
        }
        __syncwarp();
    }

    Ring ring_;
};

}  // namespace flashmla::sm90::sparse_decode
