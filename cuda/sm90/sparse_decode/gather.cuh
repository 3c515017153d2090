// The gather warps of a thread block that works alone: from indices to K tiles in shared memory.
//
// Of each group of 16 tokens of a tile a warp takes four, a quad (rows.cuh). All loads in flight are waited for together
// when a turn of the loop begins, since in a loop the compiler counts them all by one scoreboard. Each quad of the next
// tile is asked for as soon as the registers of this one's are converted, in V32 after the fence, which waits for loads,
// too; before that, where a layout says so a tile before, the rows are looked up, and on their way to L2.
//
// V4 alone has gather_ahead.cuh, and so no layout takes the branches of kTwoAhead here and in rows.cuh today. Without them
// V32's registers are allocated otherwise: to be timed before they go.
#pragma once
#include "sm90/sparse_decode/rows.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class Gather : Rows<Layout> {
    using typename Rows<Layout>::Row;
    using typename Rows<Layout>::Quad;
    using typename Rows<Layout>::LaneScales;
    using typename Rows<Layout>::Addresses;
    using Rows<Layout>::p_;
    using Rows<Layout>::shared_;
    using Rows<Layout>::lane_;
    using Rows<Layout>::warp_;
    using Rows<Layout>::kV32;
    using Rows<Layout>::kTwoAhead;
    using Rows<Layout>::kQuads;
    using Rows<Layout>::kOctetBytes;
    using Rows<Layout>::kStageBytes;
    static constexpr int kGroupTokens = 16;

  public:
    __device__ __forceinline__ Gather(const SparseDecodeParams& p, Shared<Layout>& s)
        : Rows<Layout>(p, s, threadIdx.x / 32 % 4 * (kGroupTokens / 4)) {}

    __device__ __forceinline__ void run() {
        Tiles tiles(p_, Place(p_));
        const int token = lane_ / 4 % 4 * kGroupTokens + warp_ * 4 + lane_ % 4;
        if (!tiles.next(p_)) return;
        // Whether there is a tile after the one to convert and, where rows are looked up two tiles ahead, after that.
        // `entry` is of the tile that is looked up next.
        bool more, more_after = false;
        Entry entry = {};
        Row row, next = {};
        if constexpr (kTwoAhead) {
            const Entry first = tiles.list().entry(p_, token), none = {-1, -1, false};
            more = tiles.next(p_);
            const Entry second = more ? tiles.list().entry(p_, token) : none;
            row = this->look_up(first, 0);
            next = this->look_up(second, 1);
            more_after = more && tiles.next(p_);
            if (more_after) entry = tiles.list().entry(p_, token);
        } else {
            row = this->look_up(tiles.list().entry(p_, token));
            more = tiles.next(p_);
            if (more) entry = tiles.list().entry(p_, token);
        }
        Quad quads[kQuads];
#pragma unroll
        for (int i = 0; i < kQuads; ++i) this->load(quads[i], this->addresses(i));
        this->load_scales(row);
        while (true) {
            const bool exact = this->leave_scales(row);
            const uint32_t valid = row.valid;
            const bool last = !more;
            if constexpr (kTwoAhead) {
                row = next;
                this->load_scales(row);
                more = more_after;
                if (more) {
                    next = this->look_up(entry, ring_.stage);
                    more_after = tiles.next(p_);
                    if (more_after) entry = tiles.list().entry(p_, token);
                }
            } else if (more) {
                row = this->look_up(entry);
                this->load_scales(row);
                more = tiles.next(p_);
                if (more) entry = tiles.list().entry(p_, token);
            }
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8, ring_.phase ^ 1);
            __syncwarp();
            const LaneScales scales = this->lane_scales();
            if (exact) {
                convert_and_load<true>(quads, scales);
            } else {
                convert_and_load<false>(quads, scales);
            }
            finish_tile(valid);
            if (last) break;
            if constexpr (kLoadLate) {
#pragma unroll
                for (int i = 0; i < kQuads; ++i) this->load(quads[i], this->addresses(i, next_table()));
            }
            ring_.advance();
        }
    }

  private:
    static constexpr bool kLoadLate = kV32;

    // The table that says where the rows of the next tile lie.
    __device__ __forceinline__ int next_table() const { return kTwoAhead ? ring_.stage ^ 1 : 0; }

    // Converts a tile and, if that is not left for later, loads the next one; after the last one, some rows in vain.
    template <bool kExact>
    __device__ __forceinline__ void convert_and_load(Quad (&quads)[kQuads], const LaneScales& scales) const {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
            Addresses a;
            if (!kLoadLate) a = this->addresses(i, next_table());
            const uint32_t to = ring_.stage * kStageBytes + i * (kGroupTokens / 8) * kOctetBytes;
            this->template convert<kExact, 0, 1>(quads[i], scales, i, to, 0);
            if (!kLoadLate) this->load(quads[i], a);
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
