// The scores warps: S = Q K^T, softmax, and P to shared memory.
//
// Softmax runs in base 2 on S * scale * log2(e). A row's reference is the maximum of the first tile; it is raised
// only when P relative to it becomes large, which shows in the sums that are made anyway: P then reaches kSumLimit
// at most, keeps its relative precision, and most tiles leave the accumulator alone and need no maxima. Sums and
// output use the same reference, so nothing is approximate.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma.cuh"
#include "sm90/dense_decode/handover.cuh"
#include "sm90/dense_decode/work.cuh"

namespace flashmla::sm90::dense_decode {

// Of what a thread adds up of a row in a tile: 16 numbers, so that it is never met where none is above 1.
constexpr float kSumLimit = 32.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

template <class T, int kHeadDim, class Pieces>
class Scores {
  public:
    __device__ __forceinline__ Scores(const DenseDecodeParams& p, Shared& s)
        : p_(p), shared_(smem_base(&s)), lane_(kept(threadIdx.x % 32)), place_(p) {
        const uint32_t warp = threadIdx.x / 32 % 4, matrix = lane_ / 8;
        const uint32_t p_row = warp * 16 + (matrix & 1) * 8 + lane_ % 8;
        p_at_ = kept(FLASHMLA_SHARED(shared_, p) + swizzle_128b(p_row, matrix >> 1));
    }

    __device__ __forceinline__ void run() {
        Pieces pieces(p_, place_.partition);
        Piece piece;
        while (pieces.next(p_, piece)) {
            begin_rows(piece);
            const bool tiles = piece.tile_begin < piece.tile_end;
            if (tiles) {
                load_q();
                mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_full), q_tail_phase_);
                q_tail_phase_ ^= 1;
                bool first = true, ready = operands_ready();
                for (int tile = piece.tile_begin;; ++tile) {
                    products(ready, !first);
                    const bool last = tile + 1 == piece.tile_end;
                    if (last) mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, q_tail_empty), lane_);
                    mask(piece, tile);
                    ring_.advance();
                    ready = softmax(first && !resumes(piece));
                    if (last) break;
                    first = false;
                }
            }
            // Before the last P, which the output warps have to wait for anyway.
            if (Pieces::kHandsOver && piece.suspends()) {
                const Handover handover = this->handover();
                handover.give({reference_[0], reference_[1], sum_[0], sum_[1]}, 0);
                handover.given();
            } else {
                finish();
            }
            if (tiles) {
                wait_p();
                store_p();
                release_p();
            }
        }
    }

  private:
    static constexpr bool kRope = kHeadDim > kLatent;

    static __device__ __forceinline__ bool resumes(const Piece& piece) { return Pieces::kHandsOver && piece.resumes(); }

    // The thread of the warpgroup, asked anew: of what the loop over tiles needs rarely, or has time for, nothing shall
    // wait in registers.
    static __device__ __forceinline__ uint32_t thread_now() {
        uint32_t thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        return thread % 128;
    }

    // The rows of a thread.
    static __device__ __forceinline__ int row(int half, uint32_t thread) {
        return thread / 32 * 16 + half * 8 + thread % 32 / 4;
    }

    // What the loop over tiles needs is kept in a register; left to itself the compiler computes it anew from
    // special registers each time, which costs more.
    static __device__ __forceinline__ uint32_t kept(uint32_t value) {
        asm volatile("" : "+r"(value));
        return value;
    }

    __device__ __forceinline__ void begin_rows(const Piece& piece) {
        const int first = place_.row_block * kRows;
        reference_[0] = reference_[1] = kNoReference;
        sum_[0] = sum_[1] = 0.f;
        all_visible_ = visible_tokens(p_, piece.tokens, first);
        if (resumes(piece)) {
            float numbers[4];
            const Handover handover = this->handover();
            handover.wait();
            handover.take(numbers, 0);
#pragma unroll
            for (int h = 0; h < 2; ++h) reference_[h] = numbers[h], sum_[h] = numbers[2 + h];
        }
    }

    // After the accumulators of both halves.
    static_assert(64 < handover_vectors(kRows), "they have room");
    __device__ __forceinline__ Handover handover() const {
        const uint32_t thread = thread_now();
        return Handover(p_, 8 + thread / 32, 64, thread);
    }

    // Q's latent part passes through a stage of the ring into registers.
    __device__ __forceinline__ void load_q() {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes;
        const uint32_t matrix = lane_ / 8;
        const uint32_t q_row = threadIdx.x / 32 % 4 * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
        for (int c = 0; c < kRegisterTiles; ++c) {
            if (c % kTilesPerBarrier == 0) mbarrier_wait(stage_full(c / kTilesPerBarrier), ring_.phase);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ldmatrix_x4(q_[c][k], stage + c * kTileBytes + swizzle_128b(q_row, k * 2 + (matrix >> 1)));
        }
        __syncwarp();
        // In the place of both halves of the output warps, who skip this stage.
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, stage_empty) + ring_.stage * 8, lane_, 2);
        ring_.advance();
    }

    // S of a tile. While its products run, P of the tile before is stored, if there is one (`pending`). It is given
    // away before their end, so that P V begins when they end.
    //
    // Between the products nothing may look to the compiler as if threads of a warp diverged: it serialises them all
    // then.
    __device__ __forceinline__ void products(bool ready, bool pending) {
        uint64_t k = wgmma_descriptor(FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes, kGroupBytes, 0);
        // As one 64-bit value: taken apart, each product's descriptor would cost four instructions, not one.
        asm volatile("" : "+l"(k));
        const uint64_t k_rope = wgmma_descriptor(FLASHMLA_SHARED(shared_, k_rope), 1024, 0);
        const uint64_t tail = wgmma_descriptor(FLASHMLA_SHARED(shared_, q_tail), 1024, 0);
        if (!ready) wait_operands();
        k_rope_phase_ ^= 1;
        pin(score_);
        wgmma_fence();
        if constexpr (kRope) {
            // First, so that their operand is done with early and its buffer filled anew in time.
#pragma unroll
            for (int i = 0; i < 4; ++i)
                wgmma_m64n64k16_ss<T>(score_, tail + (kTileBytes >> 4) + i * 2, k_rope + i * 2, i > 0);
            wgmma_commit();
        }
        latent_products<0, kStepsBeforeP>(k, tail);
        wgmma_commit();
        pending = __any_sync(~0u, pending);
        if (pending) {
            wait_p();
            store_p();
        }
        if constexpr (kRope) {
            wgmma_wait<1>();
            mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, k_rope_empty), lane_);
        }
        wgmma_fence();
        latent_products<kStepsBeforeP, kLatent / 32>(k, tail);
        wait_together(stage_full(1), ring_.phase);
        wgmma_fence();
        latent_products<kLatent / 32, kLatent / 16 - kStepsAfterP>(k, tail);
        if (pending) release_p();
        latent_products<kLatent / 16 - kStepsAfterP, kLatent / 16>(k, tail);
        wgmma_commit();
        wgmma_wait<0>();
        pin(score_);
    }

    template <int kFrom, int kTo>
    __device__ __forceinline__ void latent_products(uint64_t k, uint64_t tail) {
#pragma unroll
        for (int step = kFrom; step < kTo; ++step) {
            const int c = step / 4, i = step % 4;
            const uint64_t b = k + ((column_tile_at(c) + i * 32) >> 4);
            if (c < kRegisterTiles) {
                wgmma_m64n64k16_rs<T>(score_, q_[c][i], b, kRope || step > 0);
            } else {
                wgmma_m64n64k16_ss<T>(score_, tail + i * 2, b, 1);
            }
        }
    }

    // Waits, by vote: between products the compiler must see that the warp stays together.
    static __device__ __forceinline__ void wait_together(uint32_t barrier, uint32_t phase) {
        while (!__all_sync(~0u, mbarrier_try(barrier, phase))) {}
    }

    // Until the output warps are done with the P before.
    __device__ __forceinline__ void wait_p() {
        wait_together(FLASHMLA_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
    }

    // P of the last tile, and whether it has other references.
    __device__ __forceinline__ void store_p() {
        if (lane_ == 0) store_shared(FLASHMLA_SHARED(shared_, rescales) + thread_now() / 32 * 4, raised_);
        const uint32_t at = kept(p_at_);
#pragma unroll
        for (int i = 0; i < 16; i += 4)
            stmatrix_x4(at ^ (i / 2 * 16), packed_[i], packed_[i + 1], packed_[i + 2], packed_[i + 3]);
        fence_proxy_async();
        __syncwarp();
    }

    // The P stored last goes to the output warps.
    __device__ __forceinline__ void release_p() {
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, p_full), lane_);
    }

    // Whether that part of the tile is there which products begin with: the rotary one and half of the latent one.
    __device__ __forceinline__ bool operands_ready() const {
        bool ready = mbarrier_test(stage_full(0), ring_.phase);
        if (kRope) ready &= mbarrier_test(FLASHMLA_SHARED(shared_, k_rope_full), k_rope_phase_);
        return ready;
    }

    __device__ __forceinline__ void wait_operands() const {
        mbarrier_wait(stage_full(0), ring_.phase);
        if (kRope) mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_full), k_rope_phase_);
    }

    __device__ __forceinline__ uint32_t stage_full(int half) const {
        return FLASHMLA_SHARED(shared_, stage_full) + (ring_.stage * kBarriersPerStage + half) * 8;
    }

    // What a row does not see.
    __device__ __forceinline__ void mask(const Piece& piece, int tile) {
        const int base = tile * kTokens;
        if (base + kTokens <= all_visible_) return;
        const uint32_t thread = thread_now();
        const int first = place_.row_block * kRows, column = base + thread % 4 * 2;
        const int visible[2] = {visible_tokens(p_, piece.tokens, first + row(0, thread)) - column,
                                visible_tokens(p_, piece.tokens, first + row(1, thread)) - column};
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            if (visible[i / 2 % 2] <= i / 4 * 8 + i % 2) score_[i] = -INFINITY;
        }
    }

    // P of a tile, and its sums. Scores that would exceed a reference by much show in the sums, so that no tile but
    // the first of a piece needs its maxima. A row's scores are kept until its sum is known, for which there are not
    // registers enough for both rows; but the second is begun before the first is judged, to hide latency.
    // Returns whether the next tile's products can begin.
    __device__ __forceinline__ bool softmax(bool first) {
        raised_ = 0;
        if (first) {
            raise_reference<0>();
            raise_reference<1>();
        }
        float sum[2] = {weights<0, 0, 8>(), weights<1, 0, 4>()};
        if (__any_sync(~0u, sum[0] > kSumLimit)) {
            raise_reference<0>();
            sum[0] = weights<0, 0, 8>();
            raised_ = 1;
        }
        sum[1] += weights<1, 4, 8>();
        // Asked as late as the answer has time to come.
        const bool ready = operands_ready();
        if (__any_sync(~0u, sum[1] > kSumLimit)) {
            raise_reference<1>();
            sum[1] = weights<1, 0, 8>();
            raised_ |= 2;
        }
        sum_[0] += sum[0];
        sum_[1] += sum[1];
        return ready;
    }

    template <int kHalfRow>
    __device__ __forceinline__ void raise_reference() {
        float top = score_[kHalfRow * 2];
#pragma unroll
        for (int i = 0; i < 16; ++i) top = fmaxf(top, score_[i / 2 * 4 + kHalfRow * 2 + i % 2]);
        top *= p_.scale_log2;
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        const float reference = fmaxf(top, reference_[kHalfRow]);
        const float rescale = exp2_approx(reference_[kHalfRow] - reference);
        reference_[kHalfRow] = reference;
        sum_[kHalfRow] *= rescale;
        const uint32_t thread = thread_now();
        if (thread % 4 == 0)
            store_shared(FLASHMLA_SHARED(shared_, rescale) + (p_phase_ * kRows + row(kHalfRow, thread)) * 4, rescale);
    }

    template <int kHalfRow, int kFrom, int kTo>
    __device__ __forceinline__ float weights() {
        // The sum is of P before rounding: lse is exact to FP32.
        float sum[2] = {};
        const float offset = -reference_[kHalfRow];
#pragma unroll
        for (int j = kFrom; j < kTo; ++j) {
            const int at = j * 4 + kHalfRow * 2;
            const float low = exp2_approx(fmaf(score_[at], p_.scale_log2, offset));
            const float high = exp2_approx(fmaf(score_[at + 1], p_.scale_log2, offset));
            sum[j % 2] += low;
            sum[j % 2] += high;
            packed_[j * 2 + kHalfRow] = T::pack(low, high);
        }
        return sum[0] + sum[1];
    }

    // Sums and references go to the output warps, who have time for the rest.
    __device__ __forceinline__ void finish() {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
        const uint32_t thread = thread_now();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = sum_[h];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (thread % 4 == 0) {
                store_shared(FLASHMLA_SHARED(shared_, final_sum) + row(h, thread) * 4, sum);
                store_shared(FLASHMLA_SHARED(shared_, final_reference) + row(h, thread) * 4, reference_[h]);
            }
        }
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, final_full), lane_);
    }

    const DenseDecodeParams& p_;
    const uint32_t shared_, lane_;
    const Place place_;
    uint32_t p_at_;  // where this thread stores the first of its matrices of P
    Ring ring_;
    uint32_t p_phase_ = 0, k_rope_phase_ = 0, q_tail_phase_ = 0, final_phase_ = 0;
    uint32_t q_[kRegisterTiles][4][4];
    float score_[32];
    uint32_t packed_[16];  // P
    uint32_t raised_;  // a bit for each row of the thread
    float reference_[2], sum_[2];
    int all_visible_;
};

}  // namespace flashmla::sm90::dense_decode
