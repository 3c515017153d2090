// The output warps: O = O * rescale + P V for one half of the columns, and the store of O. Around the products
// they fill the ring (gather.cuh).
#pragma once
#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/named_barrier.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_prefill/gather.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// Q and O as (column of a tile, head, column tile, token), a box being one column tile of 64 and 16 heads.
struct Maps {
    const TensorMap *q, *out;
};

// `kSide` 0: columns 0 .. 255, 1: the others.
template <int kHeadDim, int kSide>
class Output {
  public:
    __device__ __forceinline__ Output(const SparsePrefillParams& p, const Maps& maps, Shared& s)
        : p_(p), maps_(maps), s_(s), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4),
          current_(s.walk[threadIdx.x / 32 - 4].current), gather_(p, maps.q, s, shared_) {
        if (lane_ == 0) current_.tiles = 0;
        __syncwarp();
    }

    __device__ __forceinline__ void run() {
        begin();
        // Before the first query there is none, but what comes after a query is done, as for every other one.
        bool any = false, more;
        do {
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] = 0.f;
            for (int tiles = current_.tiles; tiles > 0; --tiles) product(acc, tiles == 1);
            mbarrier_wait(full_at(shared_, ring_.stage), ring_.phase);
            const Query next = s_.query[kSide][ring_.stage];
            more = next.tiles >= 0;
            __syncwarp();
            leave(1);
            if (more) load_tail(next);
            const bool issue = more && !gather_.done();
            if (issue) gather_.advance();
            if (any) finish(acc);
            if (more) {
                if (issue) {
                    load_rope();
                    if (any) wait_stored();
                    refill();
                }
                ring_.advance();
                if (lane_ == 0) current_ = next;
                __syncwarp();
            }
            any = true;
        } while (more);
        // Shared memory must not go before.
        tma_store_wait_read();
    }

  private:
    static constexpr bool kRope = kHeadDim > kLatent;
    static constexpr int kColumns = kLatent / 2;

    __device__ __forceinline__ int row(int half) const { return warp_ * 16 + half * 8 + lane_ / 4; }

    // All stages are empty at first: the first query's Q and two more items.
    __device__ __forceinline__ void begin() {
#pragma unroll 1
        for (int stage = 0; stage < kStages; ++stage) {
            if (gather_.done()) return;
            gather_.advance();
            if (stage > 0) load_rope();
            gather_.issue(stage);
        }
    }

    // This warp reads the stage no more.
    __device__ __forceinline__ void leave(int arrivals) {
        mbarrier_arrive_warp(empty_at(shared_, ring_.stage, kSide), lane_, arrivals);
    }

    // The stage at hand is filled with the item to come when its readers are done.
    __device__ __forceinline__ void refill() {
        mbarrier_wait(empty_at(shared_, ring_.stage, kSide), ring_.phase);
        gather_.issue(ring_.stage);
    }

    // The rotary part of the item before the one to come, when that of the tile before it has been read.
    __device__ __forceinline__ void load_rope() {
        if (!kRope || !gather_.last_tile()) return;
        gather_.rope(rope_phase_ ^ 1);
        rope_phase_ ^= 1;
    }

    // What of Q does not go to registers, when the products of the query before are done.
    __device__ __forceinline__ void load_tail(const Query& query) {
        if constexpr (kSide == 0) {
            if (warp_ != 3 || query.tiles <= 0) return;
            if (tail_loaded_) {
                tail_loaded_ = false;
                return;
            }
            issue_tail(query);
        }
    }

    // The same ahead of time, while the last products of a query have yet to begin.
    __device__ __forceinline__ void load_tail_early() {
        if constexpr (kSide == 0) {
            if (warp_ != 3) return;
            Ring next = ring_;
            next.advance();
            mbarrier_wait(full_at(shared_, next.stage), next.phase);
            const Query query = s_.query[kSide][next.stage];
            if (query.tiles <= 0) return;
            issue_tail(query);
            tail_loaded_ = true;
        }
    }

    __device__ __forceinline__ void issue_tail(const Query& query) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_empty), tail_phase_ ^ 1);
        tail_phase_ ^= 1;
        if (elect_one()) {
            const uint32_t to = FLASHMLA_SHARED(shared_, q_tail), full = FLASHMLA_SHARED(shared_, q_tail_full);
            constexpr int kTiles = kHeadDim / kColumnTile - kRegisterTiles;
            mbarrier_arrive_expect_tx(full, kTiles * kTileBytes);
#pragma unroll 1
            for (int c = 0; c < kTiles; ++c) copy_q(maps_.q, query, kRegisterTiles + c, to + c * kTileBytes, full);
        }
        __syncwarp();
    }

    __device__ __forceinline__ void product(float (&acc)[128], bool last) {
        // Items are issued until one said that there is no further query.
        const bool more = !gather_.done();
        if (more) {
            gather_.advance();
            // Q K of the next tile begins with the rotary part, and makes room for that of the tile after.
            load_rope();
        }
        if (last) load_tail_early();
        // The rows of the tile are there, and ordered before what the matrix units read: the scores warps waited for them,
        // and P comes after that.
        uint64_t p = wgmma_descriptor(FLASHMLA_SHARED(shared_, p), 1024, 0);
        uint64_t v = wgmma_descriptor(stage_at(shared_, ring_.stage) + kSide * kSideBytes, 1024, kTileBytes);
        // Computed here, not after the wait.
        asm volatile("" : "+l"(p), "+l"(v));
        mbarrier_wait(FLASHMLA_SHARED(shared_, p_full), p_phase_);
        if (const uint32_t rescales = s_.rescales[warp_]) {
            const float r0 = rescales & 1 ? s_.rescale[p_phase_][row(0)] : 1.f;
            const float r1 = rescales & 2 ? s_.rescale[p_phase_][row(1)] : 1.f;
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] *= i / 2 % 2 ? r1 : r0;
        }
        p_phase_ ^= 1;
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kTokens / 16; ++i) {
            wgmma_m64n256k16_sv<Bf16>(acc, p + i * 2, v + i * (16 * 128 >> 4), 1);
            wgmma_commit();
        }
        // Rows whose step is done in all warps of this side give way to others of the tile to come. P is given back before the
        // last copies, which block the warp.
        const bool rows = more && gather_.at_tile();
        wgmma_wait<3>();
        named_barrier_sync(1 + kSide, 128);
        gather_.template issue_step<0>(ring_.stage, rows);
        wgmma_wait<2>();
        named_barrier_sync(1 + kSide, 128);
        gather_.template issue_step<1>(ring_.stage, rows);
        wgmma_wait<0>();
        pin(acc);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, p_empty), lane_);
        leave(2);
        __syncwarp();
        if (rows) {
            mbarrier_wait(empty_at(shared_, ring_.stage, kSide), ring_.phase);
            gather_.template issue_step<2>(ring_.stage, true);
            gather_.template issue_step<3>(ring_.stage, true);
            gather_.issue_end(ring_.stage);
        } else if (more) {
            refill();
        }
        ring_.advance();
    }

    // O passes through the stage through which the next query's Q passed, in the columns of this side; the item after
    // that fills it when it has been read.
    __device__ __forceinline__ void finish(float (&acc)[128]) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_full), final_phase_);
        final_phase_ ^= 1;
        const Final final[2] = {s_.final[row(0)], s_.final[row(1)]};
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, final_empty), lane_);
        const float f0 = factor(final[0], row(0)), f1 = factor(final[1], row(1));
        mbarrier_wait(empty_at(shared_, ring_.stage, kSide), ring_.phase);
        const uint32_t to = stage_at(shared_, ring_.stage) + kSide * kSideBytes + warp_ * (16 * 128);
        const uint32_t matrix = lane_ / 8, at = to + swizzle_128b((matrix & 1) * 8 + lane_ % 8, matrix >> 1);
#pragma unroll
        for (int j = 0; j < kColumns / 8; j += 2) {
            const float* d = acc + j * 4;
            stmatrix_x4((at + j / 8 * kTileBytes) ^ (j % 8 * 16), Bf16::pack(d[0] * f0, d[1] * f0),
                        Bf16::pack(d[2] * f1, d[3] * f1), Bf16::pack(d[4] * f0, d[5] * f0), Bf16::pack(d[6] * f1, d[7] * f1));
        }
        fence_proxy_async();
        __syncwarp();
        if (elect_one()) {
            const int head = current_.head + warp_ * 16, token = current_.token;
#pragma unroll 1
            for (int c = 0; c < kTilesPerSide; ++c)
                // Nobody reads it soon; L2 should rather keep rows of KV.
                tma_store_5d(maps_.out, to + c * kTileBytes, 0, head, kSide * kTilesPerSide + c, token, 0, kEvictFirst);
            tma_store_commit();
        }
        __syncwarp();
        // Thread t of a row's four writes what is of row t, if that is one of the two.
        if (kSide == 0 && lane_ % 4 < 2) {
            const bool second = lane_ % 4;
            store_logs(second ? final[1] : final[0], row(second));
        }
    }

    // What a row of O is multiplied by.
    __device__ __forceinline__ float factor(const Final& final, int row) {
        float sum = final.sum;
        // NaN is not empty.
        if (sum == 0.f) return 0.f;
        if (p_.attn_sink != 0) {
            const int head = min(current_.head + row, p_.h_q - 1);
            const float sink = reinterpret_cast<const float*>(p_.attn_sink)[head * p_.attn_sink_stride];
            sum += exp2_approx(fmaf(sink, kLog2E, -final.reference));
        }
        return reciprocal_approx(sum);
    }

    __device__ __forceinline__ void store_logs(const Final& final, int row) {
        const int token = current_.token, head = current_.head + row;
        if (head >= p_.h_q) return;
        if (p_.lse != 0) {
            const float none = p_.lse_empty_pos_inf ? INFINITY : -INFINITY;
            reinterpret_cast<float*>(p_.lse)[token * p_.lse_strides[0] + head * p_.lse_strides[1]] =
                final.sum == 0.f ? none : (final.reference + log2_approx(final.sum)) * kLn2;
        }
        if (p_.max_logits != 0) {
            reinterpret_cast<float*>(p_.max_logits)[token * p_.max_logits_strides[0] + head * p_.max_logits_strides[1]] =
                final.top * p_.scale;
        }
    }

    // Until O has left the stage. What a warp of this side fills there is not what it stored.
    __device__ __forceinline__ void wait_stored() {
        // Of the thread that issued the copies; others have nothing to wait for.
        tma_store_wait_read();
        named_barrier_sync(1 + kSide, 128);
    }

    const SparsePrefillParams& p_;
    const Maps maps_;
    Shared& s_;
    const uint32_t shared_;
    const int lane_, warp_;
    Query& current_;  // as this warp knows it
    Gather<kHeadDim, kSide> gather_;
    Ring ring_;
    bool tail_loaded_ = false;
    uint32_t p_phase_ = 0, final_phase_ = 0, tail_phase_ = 0, rope_phase_ = 0;
};

}  // namespace flashmla::sm90::sparse_prefill
