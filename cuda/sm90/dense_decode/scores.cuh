// The scores warps: S = Q K^T, softmax, and P to shared memory.
//
// Softmax runs in base 2 on S * scale * log2(e). A row's reference is a maximum that is raised only
// when it would be exceeded by more than kSlack: P then reaches 2^kSlack at most, keeps its relative
// precision, and most tiles leave the accumulator alone. Sums and output use the same reference, so
// nothing is approximate.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma.cuh"
#include "sm90/dense_decode/work.cuh"

namespace flashmla::sm90::dense_decode {

constexpr float kSlack = 8.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

template <class T, int kHeadDim>
class Scores {
  public:
    __device__ __forceinline__ Scores(const DenseDecodeParams& p, Shared& s)
        : p_(p), shared_(smem_base(&s)), lane_(kept(threadIdx.x % 32)), place_(p) {
        const uint32_t warp = threadIdx.x / 32 % 4, matrix = lane_ / 8;
        const uint32_t p_row = warp * 16 + (matrix & 1) * 8 + lane_ % 8;
        p_at_ = kept(FLASHMLA_SHARED(shared_, p) + swizzle_128b(p_row, matrix >> 1));
        rescale_at_ = kept(FLASHMLA_SHARED(shared_, rescale) + row(0) * 4);
    }

    __device__ __forceinline__ void run() {
        Pieces pieces(p_, place_.partition);
        Piece piece;
        while (pieces.next(p_, piece)) {
            begin_rows(piece);
            if (piece.tile_begin < piece.tile_end) {
                load_q();
                mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_full), q_tail_phase_);
                products<true>();
                for (int tile = piece.tile_begin;; ++tile) {
                    mask(piece, tile);
                    raise_references();
                    ring_.advance();
                    weights();
                    if (tile + 1 == piece.tile_end) break;
                    products<false>();
                }
                store_p();
                release_p();
                if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, q_tail_empty));
                q_tail_phase_ ^= 1;
            }
            finish(piece);
        }
    }

  private:
    static constexpr bool kRope = kHeadDim > kLatent;

    // The rows of this thread.
    static __device__ __forceinline__ int row(int half) {
        return threadIdx.x / 32 % 4 * 16 + half * 8 + threadIdx.x % 32 / 4;
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
    }

    // Q's latent part passes through a stage of the ring into registers.
    __device__ __forceinline__ void load_q() {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes;
        const uint32_t matrix = lane_ / 8;
        const uint32_t q_row = threadIdx.x / 32 % 4 * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
        for (int c = 0; c < kRegisterTiles; ++c) {
            if (c % kTilesPerBarrier == 0) wait_stage(c / kTilesPerBarrier);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ldmatrix_x4(q_[c][k], stage + c * kTileBytes + swizzle_128b(q_row, k * 2 + (matrix >> 1)));
        }
        __syncwarp();
        // In the place of both halves of the output warps, who skip this stage.
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, stage_empty) + ring_.stage * 8, 2);
        ring_.advance();
    }

    // S of a tile. While its products run, P of the tile before is stored, if there is one. It is given away at
    // their end, so that P V and softmax, not P V and these products, compete for nothing.
    template <bool kFirst>
    __device__ __forceinline__ void products() {
        const uint64_t k = wgmma_descriptor(FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes, 1024, 0);
        const uint64_t k_rope = wgmma_descriptor(FLASHMLA_SHARED(shared_, k_rope), 1024, 0);
        const uint64_t tail = wgmma_descriptor(FLASHMLA_SHARED(shared_, q_tail), 1024, 0);
        wait_operands();
        pin(score_);
        wgmma_fence();
        if constexpr (kRope) {
            // First, so that their operand is done with early and its buffer filled anew in time.
#pragma unroll
            for (int i = 0; i < 4; ++i)
                wgmma_m64n64k16_ss<T>(score_, tail + (kTileBytes >> 4) + i * 2, k_rope + i * 2, i > 0);
            wgmma_commit();
        }
#pragma unroll
        for (int step = 0; step < kLatent / 16; ++step) {
            if (step == kLatent / 16 - kStepsAfterP) wgmma_commit();
            const int c = step / 4, i = step % 4;
            const uint64_t b = k + ((c * kTileBytes + i * 32) >> 4);
            if (c < kRegisterTiles) {
                wgmma_m64n64k16_rs<T>(score_, q_[c][i], b, kRope || step > 0);
            } else {
                wgmma_m64n64k16_ss<T>(score_, tail + i * 2, b, 1);
            }
        }
        wgmma_commit();
        if constexpr (kRope) {
            wgmma_wait<2>();
            if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, k_rope_empty));
        }
        if constexpr (!kFirst) {
            store_p();
            wgmma_wait<1>();
            release_p();
        }
        wgmma_wait<0>();
        pin(score_);
    }

    // P of the last tile, when the output warps are done with the one before.
    __device__ __forceinline__ void store_p() {
        mbarrier_wait(FLASHMLA_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
        if (raised_ && lane_ % 4 == 0) {
            store_shared(rescale_at_, rescale_[0]);
            store_shared(rescale_at_ + 8 * 4, rescale_[1]);
        }
        if (lane_ == 0) store_shared(FLASHMLA_SHARED(shared_, rescales) + threadIdx.x / 32 % 4 * 4, uint32_t(raised_));
#pragma unroll
        for (int i = 0; i < 16; i += 4)
            stmatrix_x4(p_at_ ^ (i / 2 * 16), packed_[i], packed_[i + 1], packed_[i + 2], packed_[i + 3]);
        fence_proxy_async();
        __syncwarp();
    }

    // The P stored last goes to the output warps.
    __device__ __forceinline__ void release_p() {
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, p_full));
    }

    // All before the first product, and in one question if they are there: where other code comes between products
    // they must be fenced anew, for which the hardware waits until all before are done.
    __device__ __forceinline__ void wait_operands() {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage_full) + ring_.stage * (kBarriersPerStage * 8);
        const uint32_t rope = FLASHMLA_SHARED(shared_, k_rope_full);
        static_assert(kBarriersPerStage == 2);
        bool ready = mbarrier_test(stage, ring_.phase) & mbarrier_test(stage + 8, ring_.phase);
        if (kRope) ready &= mbarrier_test(rope, k_rope_phase_);
        if (!ready) {
            mbarrier_wait(stage, ring_.phase);
            mbarrier_wait(stage + 8, ring_.phase);
            if (kRope) mbarrier_wait(rope, k_rope_phase_);
        }
        k_rope_phase_ ^= 1;
    }

    // What a row does not see, and the rows of K and V past the length.
    __device__ __forceinline__ void mask(const Piece& piece, int tile) {
        const int base = tile * kTokens;
        if (base + kTokens > all_visible_) {
            const int first = place_.row_block * kRows, column = base + lane_ % 4 * 2;
            const int visible[2] = {visible_tokens(p_, piece.tokens, first + row(0)),
                                    visible_tokens(p_, piece.tokens, first + row(1))};
#pragma unroll
            for (int i = 0; i < 32; ++i) {
                if (column + i / 4 * 8 + i % 2 >= visible[i / 2 % 2]) score_[i] = -INFINITY;
            }
            if (base + kTokens > piece.tokens) clear_padding(piece.tokens - base);
        }
    }

    __device__ __forceinline__ void raise_references() {
        // Several chains for each row: one warp has a scheduler to itself here, nothing else hides latency.
        float highest[4] = {score_[0], score_[2], score_[4], score_[6]};
#pragma unroll
        for (int i = 0; i < 32; ++i) highest[i / 2 % 4] = fmaxf(highest[i / 2 % 4], score_[i]);
        float top[2] = {fmaxf(highest[0], highest[2]) * p_.scale_log2, fmaxf(highest[1], highest[3]) * p_.scale_log2};
        // Mostly no row of the warp needs another reference, and then none needs to know its maximum.
        raised_ = __any_sync(~0u, top[0] > reference_[0] + kSlack || top[1] > reference_[1] + kSlack);
        if (!raised_) return;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
            top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
            const float reference = top[h] > reference_[h] + kSlack ? top[h] : reference_[h];
            rescale_[h] = exp2_approx(reference_[h] - reference);
            reference_[h] = reference;
            sum_[h] *= rescale_[h];
        }
    }

    __device__ __forceinline__ void weights() {
        // The sum is of P before rounding: lse is exact to FP32.
        float sum[4] = {};
#pragma unroll
        for (int i = 0; i < 32; i += 2) {
            const float offset = -reference_[i / 2 % 2];
            score_[i] = exp2_approx(fmaf(score_[i], p_.scale_log2, offset));
            score_[i + 1] = exp2_approx(fmaf(score_[i + 1], p_.scale_log2, offset));
            sum[i / 2 % 4] += score_[i];
            sum[i / 2 % 4] += score_[i + 1];
            packed_[i / 2] = T::pack(score_[i], score_[i + 1]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) sum_[h] += sum[h] + sum[h + 2];
    }

    // Rows past the length may hold anything, NaN too, and P = 0 does not silence that.
    __device__ __forceinline__ void clear_padding(int valid) {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes;
        const int bytes = (kTokens - valid) * 128;
#pragma unroll 1
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll 1
            for (int at = threadIdx.x % 128 * 16; at < bytes; at += 128 * 16)
                clear_shared_16(stage + c * kTileBytes + valid * 128 + at);
        }
    }

    __device__ __forceinline__ void finish(const Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            sum_[h] += __shfl_xor_sync(~0u, sum_[h], 1);
            sum_[h] += __shfl_xor_sync(~0u, sum_[h], 2);
            // Whatever the row saw, its largest P is at least 2^-kSlack; NaN is not empty.
            if (lane_ % 4 == 0)
                store_shared(FLASHMLA_SHARED(shared_, final_scale) + row(h) * 4, sum_[h] == 0.f ? 0.f : 1.f / sum_[h]);
        }
        __syncwarp();
        // The output warps wait for this, nobody for lse.
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, final_full));
        if (lane_ % 4 == 0) {
#pragma unroll
            for (int h = 0; h < 2; ++h)
                store_lse(piece, place_.row_block * kRows + row(h), sum_[h] == 0.f ? -INFINITY : reference_[h] + log2f(sum_[h]));
        }
    }

    __device__ __forceinline__ void store_lse(const Piece& piece, int row, float lse2) {
        if (row >= p_.rows) return;
        if (piece.whole) {
            if (p_.lse == 0) return;
            const int token = divide(row, p_.group_magic, p_.group_shift);
            const int head = place_.kv_head * p_.group + row - token * p_.group;
            float lse = lse2 * kLn2;
            if (lse2 == -INFINITY && p_.lse_empty_pos_inf) lse = INFINITY;
            reinterpret_cast<float*>(p_.lse)[piece.request * p_.lse_strides[0] + head * p_.lse_strides[1] +
                                             token * p_.lse_strides[2]] = lse;
        } else if (piece.slot >= 0) {
            const int64_t at = (int64_t(piece.slot) * p_.h_kv + place_.kv_head) * p_.rows + row;
            reinterpret_cast<float*>(p_.split_lse)[at] = lse2;
        }
    }

    __device__ __forceinline__ void wait_stage(int group) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, stage_full) + (ring_.stage * kBarriersPerStage + group) * 8, ring_.phase);
    }

    const DenseDecodeParams& p_;
    const uint32_t shared_, lane_;
    const Place place_;
    uint32_t p_at_, rescale_at_;  // where this thread stores the first of its matrices of P, and its factors
    Ring ring_;
    uint32_t p_phase_ = 0, k_rope_phase_ = 0, q_tail_phase_ = 0, final_phase_ = 0;
    uint32_t q_[kRegisterTiles][4][4];
    float score_[32];
    uint32_t packed_[16];  // P
    float rescale_[2];
    bool raised_;
    float reference_[2], sum_[2];
    int all_visible_;
};

}  // namespace flashmla::sm90::dense_decode
