// The output warps: O = O * rescale + P V for one half of the columns, and the store of O.
#pragma once
#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/sink.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_prefill/gather.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// Q and O as (column of a tile, head, column tile, token), a box being kBoxTiles of 64 heads of Q and kTilesPerSide of 16 heads
// of O.
struct Maps {
    const TensorMap *q, *out;
};

// `kSide` 0: columns 0 .. 255, 1: the others.
template <int kHeadDim, int kSide>
class Output {
  public:
    __device__ __forceinline__ Output(const SparsePrefillParams& p, const Maps& maps, Shared<kHeadDim>& s)
        : p_(p), maps_(maps), s_(s), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4),
          current_(s.current[threadIdx.x / 32 - 4]) {
        if (lane_ == 0) current_.tiles = 0;
        __syncwarp();
    }

    __device__ __forceinline__ void run() {
        // Before the first query there is none, but what comes after a query is done, as for every other one.
        bool any = false, more;
        do {
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] = 0.f;
            for (int tiles = current_.tiles; tiles > 0; --tiles) product(acc, tiles == 1);
            mbarrier_wait(full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
            const Query next = s_.query[ring_.stage];
            more = next.tiles >= 0;
            __syncwarp();
            if (more) load_tail(next);
            Final final[2];
            if (any) finish(acc, final);
            // The scores warps have read what came through the stage (and waited for it, so that no phase passes unseen).
            if (!any) wait_q_read();
            if (kHasLate && !any) wait_late();
            // O has left it (of the thread that issued the copies; others have nothing to wait for).
            tma_store_wait_read();
            __syncwarp();
#pragma unroll
            for (int step = 0; step < kSteps; ++step) leave(step);
            leave_late();
            ring_.advance();
            if (any) store_logs(final);
            __syncwarp();
            if (lane_ == 0) current_ = next;
            __syncwarp();
            any = true;
        } while (more);
    }

  private:
    static constexpr int kColumns = kLatent / 2;
    // The last column tile lies apart, in this side's half.
    static constexpr bool kHasLate = kRotary<kHeadDim> && kSide == 1;

    __device__ __forceinline__ int row(int half) const { return warp_ * 16 + half * 8 + lane_ / 4; }

    // This warp reads a step's rows of the stage no more.
    __device__ __forceinline__ void leave(int step) {
        mbarrier_arrive_warp(empty_at<kHeadDim>(shared_, ring_.stage, step), lane_);
    }

    // Nor its last columns.
    __device__ __forceinline__ void leave_late() {
        if constexpr (kHasLate) {
            mbarrier_arrive_warp(late_empty_at<kHeadDim>(shared_, late_.buffer()), lane_);
            late_.advance();
        }
    }
    __device__ __forceinline__ void wait_late() {
        mbarrier_wait(late_full_at<kHeadDim>(shared_, late_.buffer()), late_.phase());
    }

    // Phases of q_read count the queries that came through a stage.
    __device__ __forceinline__ void wait_q_read() {
        mbarrier_wait(q_read_at<kHeadDim>(shared_, ring_.stage), q_phases_ >> ring_.stage & 1);
        q_phases_ ^= 1u << ring_.stage;
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
            mbarrier_wait(full_at<kHeadDim>(shared_, next.stage), next.phase);
            const Query query = s_.query[next.stage];
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
            mbarrier_arrive_expect_tx(full, kBoxTiles<kHeadDim> * kTileBytes);
            copy_q(maps_.q, query.token, query.head, kRegisterTiles, to, full);
        }
        __syncwarp();
    }

    __device__ __forceinline__ void product(float (&acc)[128], bool last) {
        if (last) load_tail_early();
        // The rows of the tile are there, and ordered before what the matrix units read: the scores warps waited for them,
        // and P comes after that.
        uint64_t p = wgmma_descriptor(FLASHMLA_SHARED(shared_, p), 1024, 0);
        uint64_t v = wgmma_descriptor(stage_at<kHeadDim>(shared_, ring_.stage) + kSide * kSideBytes, 1024, kTileBytes);
        [[maybe_unused]] uint64_t late = 0;
        if constexpr (kHasLate) {
            late = wgmma_descriptor(late_at<kHeadDim>(shared_, late_.buffer()), 1024, kTileBytes);
            asm volatile("" : "+l"(late));
        }
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
        if constexpr (kHasLate) {
            // The last columns first: they have a buffer less.
#pragma unroll
            for (int i = 0; i < kSteps; ++i) wgmma_m64n64k16_sv(acc + 96, p + i * 2, late + i * (kStepBytes >> 4));
            wgmma_commit();
        }
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
            wgmma_m64n192k16_sv(acc, p + i * 2, v + i * (kStepBytes >> 4));
            if constexpr (!kHasLate) wgmma_m64n64k16_sv(acc + 96, p + i * 2, v + ((i * kStepBytes + 3 * kTileBytes) >> 4));
            wgmma_commit();
        }
        if constexpr (kHasLate) {
            wgmma_wait<4>();
            leave_late();
        }
        // Step by step the rows give way to others.
        wgmma_wait<3>();
        leave(0);
        wgmma_wait<2>();
        leave(1);
        wgmma_wait<1>();
        leave(2);
        wgmma_wait<0>();
        pin(acc);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, p_empty), lane_);
        leave(3);
        __syncwarp();
        ring_.advance();
    }

    // O passes through the stage through which the next query's Q passed, a warp's 16 rows of this side's columns through one
    // column tile of it; the item after that fills it when it has been read.
    __device__ __forceinline__ void finish(float (&acc)[128], Final (&final)[2]) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_full), final_phase_);
        final_phase_ ^= 1;
        final[0] = s_.final[row(0)];
        final[1] = s_.final[row(1)];
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, final_empty), lane_);
        const float f0 = factor(final[0], row(0)), f1 = factor(final[1], row(1));
        wait_q_read();
        if constexpr (kHasLate) wait_late();
        uint32_t to = stage_at<kHeadDim>(shared_, ring_.stage) + kSide * kSideBytes + warp_ * kTileBytes;
        if (kHasLate && warp_ == kTilesPerSide - 1) to = late_at<kHeadDim>(shared_, late_.buffer());
        const uint32_t matrix = lane_ / 8, at = to + swizzle_128b((matrix & 1) * 8 + lane_ % 8, matrix >> 1);
#pragma unroll
        for (int j = 0; j < kColumns / 8; j += 2) {
            const float* d = acc + j * 4;
            stmatrix_x4((at + j / 8 * kStepBytes) ^ (j % 8 * 16), Bf16::pack(d[0] * f0, d[1] * f0),
                        Bf16::pack(d[2] * f1, d[3] * f1), Bf16::pack(d[4] * f0, d[5] * f0), Bf16::pack(d[6] * f1, d[7] * f1));
        }
        fence_proxy_async();
        __syncwarp();
        if (elect_one()) {
            // Nobody reads it soon; L2 should rather keep rows of KV.
            tma_store_5d(maps_.out, to, 0, current_.head + warp_ * 16, kSide * kTilesPerSide, current_.token, 0, kEvictFirst);
            tma_store_commit();
        }
        __syncwarp();
    }

    // What a row of O is multiplied by.
    __device__ __forceinline__ float factor(const Final& final, int row) {
        float sum = final.sum;
        // NaN is not empty.
        if (sum == 0.f) return 0.f;
        if (p_.attn_sink != 0) {
            const int head = min(current_.head + row, p_.h_q - 1);
            sum += exp2_approx(sink_log2(p_, head, final.reference));
        }
        return reciprocal_approx(sum);
    }

    __device__ __forceinline__ void store_logs(const Final (&finals)[2]) {
        // Thread t of a row's four writes what is of row t, if that is one of the two.
        if (kSide != 0 || lane_ % 4 >= 2) return;
        const bool second = lane_ % 4;
        const Final& final = second ? finals[1] : finals[0];
        const int token = current_.token, head = current_.head + row(second);
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

    const SparsePrefillParams& p_;
    const Maps maps_;
    Shared<kHeadDim>& s_;
    const uint32_t shared_;
    const int lane_, warp_;
    Query& current_;  // as this warp knows it
    Ring ring_;
    Late late_;
    bool tail_loaded_ = false;
    uint32_t p_phase_ = 0, final_phase_ = 0, tail_phase_ = 0;
    uint32_t q_phases_ = 0;  // a bit a stage
};

}  // namespace flashmla::sm90::sparse_prefill
