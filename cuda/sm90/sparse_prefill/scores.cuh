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
#include "sm90/sparse_prefill/work.cuh"
#include <type_traits>

namespace flashmla::sm90::sparse_prefill {

constexpr float kSlack = 8.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

template <int kHeadDim>
class Scores {
  public:
    __device__ __forceinline__ Scores(const SparsePrefillParams& p, Shared& s)
        : p_(p), s_(s), shared_(smem_base(&s)), lane_(kept(threadIdx.x % 32)) {
        const uint32_t warp = threadIdx.x / 32 % 4, matrix = lane_ / 8;
        const uint32_t p_row = warp * 16 + (matrix & 1) * 8 + lane_ % 8;
        p_at_ = kept(FLASHMLA_SHARED(shared_, p) + swizzle_128b(p_row, matrix >> 1));
        rescale_at_ = kept(FLASHMLA_SHARED(shared_, rescale) + row(0) * 4);
    }

    __device__ __forceinline__ void run() {
        for (;;) {
            mbarrier_wait(full_at(shared_, ring_.stage, 0), ring_.phase);
            const Query query = s_.query[0][ring_.stage];
            if (query.tiles < 0) break;
            load_q(query.tiles > 0);
            reference_[0] = reference_[1] = kNoReference;
            sum_[0] = sum_[1] = 0.f;
            top_[0] = top_[1] = -INFINITY;
            if (query.tiles > 0) attend(query.tiles);
            finish(query);
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

    // Q's latent part passes through a stage of the ring into registers.
    __device__ __forceinline__ void load_q(bool wanted) {
        mbarrier_wait(full_at(shared_, ring_.stage, 1), ring_.phase);
        if (wanted) {
            const uint32_t stage = side_at(shared_, ring_.stage, 0);
            const uint32_t matrix = lane_ / 8;
            const uint32_t q_row = threadIdx.x / 32 % 4 * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
            for (int c = 0; c < kRegisterTiles; ++c) {
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    ldmatrix_x4(q_[c][k], stage + c * kTileBytes + swizzle_128b(q_row, k * 2 + (matrix >> 1)));
            }
        }
        __syncwarp();
        if (lane_ == 0) {
            mbarrier_arrive(empty_at(shared_, ring_.stage, 0));
            mbarrier_arrive(empty_at(shared_, ring_.stage, 1));
        }
        ring_.advance();
    }

    __device__ __forceinline__ void attend(int tiles) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_full), q_tail_phase_);
        q_tail_phase_ ^= 1;
        wait_tile();
        wait_rope<0>();
        uint64_t seen = this->seen();
        products<0>(left_, None());
        wait_products(left_);
        for (;;) {
            wait_rope<1>();
            mask(left_, uint32_t(seen));
            Weights left(left_, packed_left_, reference_, p_.scale_log2);
            products<1>(right_, left);
            raised_ = raise(left, rescale_);
            if (!raised_) rescale_[0] = rescale_[1] = 1.f;
            const uint32_t seen_right = uint32_t(seen >> 32);
            ring_.advance();
            if (--tiles == 0) {
                wait_products(right_);
                mask(right_, seen_right);
                break;
            }
            wait_tile();
            wait_rope<0>();
            seen = this->seen();
            wait_products(right_);
            mask(right_, seen_right);
            Weights right(right_, packed_right_, reference_, p_.scale_log2);
            products<0>(left_, right);
            finish_tile(right);
            wait_products(left_);
        }
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, q_tail_empty));
        Weights right(right_, packed_right_, reference_, p_.scale_log2);
#pragma unroll
        for (int i = 0; i < Weights::kSteps; ++i) right.step(i);
        finish_tile(right);
    }

    // The weights of a half tile: steps without branches, to be put between products, since a warp does not get past
    // a product before the one eight earlier is done.
    struct Weights {
        static constexpr int kSteps = 16;

        __device__ __forceinline__ Weights(const float (&score)[16], uint32_t (&packed)[8], const float (&reference)[2],
                                           float scale_log2)
            : score_(score), packed_(packed), offset_{-reference[0], -reference[1]}, scale_log2_(scale_log2) {}

        __device__ __forceinline__ void step(int i) {
            const int h = i / 2 % 2;
            top[h] = fmaxf(top[h], score_[i]);
            const float weight = exp2_approx(fmaf(score_[i], scale_log2_, offset_[h]));
            // The sum is of P before rounding: lse is exact to FP32.
            sum[h] += weight;
            if (i % 2 == 1) packed_[i / 2] = Bf16::pack(last_, weight);
            last_ = weight;
        }

        // Anew, with other references.
        __device__ __forceinline__ void again(const float (&reference)[2]) {
            sum[0] = sum[1] = 0.f;
#pragma unroll
            for (int h = 0; h < 2; ++h) offset_[h] = -reference[h];
#pragma unroll
            for (int i = 0; i < kSteps; ++i) step(i);
        }

        float top[2] = {-INFINITY, -INFINITY};  // of the scores, not scaled, of this thread's part of each row
        float sum[2] = {};

      private:
        const float (&score_)[16];
        uint32_t (&packed_)[8];
        float offset_[2], scale_log2_, last_ = 0.f;
    };

    struct None {
        static constexpr int kSteps = 0;
        __device__ __forceinline__ void step(int) {}
    };

    // The rest of a tile, whose halves have their weights, the right one by references that may be too low.
    __device__ __forceinline__ void finish_tile(Weights& right) {
        float factor[2];
        if (raise(right, factor)) {
            raised_ = true;
            rescale_[0] *= factor[0];
            rescale_[1] *= factor[1];
            // The left half's weights had the references of before. They shrink to a 2^-kSlack-th where they change, so
            // that it does not matter that they are rounded twice.
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const float low = __uint_as_float(packed_left_[i] << 16);
                const float high = __uint_as_float(packed_left_[i] & 0xffff0000);
                packed_left_[i] = Bf16::pack(low * factor[i % 2], high * factor[i % 2]);
            }
        }
        mbarrier_wait(FLASHMLA_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
        store_p(0, packed_left_);
        store_p(1, packed_right_);
        if (raised_ && lane_ % 4 == 0) {
            store_shared(rescale_at_, rescale_[0]);
            store_shared(rescale_at_ + 8 * 4, rescale_[1]);
        }
        if (lane_ == 0) store_shared(FLASHMLA_SHARED(shared_, rescales) + threadIdx.x / 32 % 4 * 4, uint32_t(raised_));
        fence_proxy_async();
        __syncwarp();
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, p_full));
    }

    // Takes the weights of a half tile into the sums. If a row of the warp needs another reference, which is rare, it is
    // raised, the weights are made anew, and the factor told by which what was before must be multiplied.
    __device__ __forceinline__ bool raise(Weights& weights, float (&factor)[2]) {
        float top[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            top_[h] = fmaxf(top_[h], weights.top[h]);
            top[h] = weights.top[h] * p_.scale_log2;
        }
        const bool raised = __any_sync(~0u, top[0] > reference_[0] + kSlack || top[1] > reference_[1] + kSlack);
        if (raised) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
                top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
                const float reference = top[h] > reference_[h] + kSlack ? top[h] : reference_[h];
                factor[h] = exp2_approx(reference_[h] - reference);
                reference_[h] = reference;
                sum_[h] *= factor[h];
            }
            weights.again(reference_);
        }
        sum_[0] += weights.sum[0];
        sum_[1] += weights.sum[1];
        return raised;
    }

    // Starts S of a half tile, and takes the steps of other work on the way.
    template <int kHalf, class Work>
    __device__ __forceinline__ void products(float (&score)[16], Work&& work) {
        const uint64_t k = wgmma_descriptor(side_at(shared_, ring_.stage, 0) + kHalf * (kTileBytes / 2), 1024, 0);
        const uint64_t tail = wgmma_descriptor(FLASHMLA_SHARED(shared_, q_tail), 1024, 0);
        pin(score);
        wgmma_fence();
        if constexpr (kRope) {
            // First, so that their operand is done with early and its buffer filled anew in time.
            const uint64_t k_rope = wgmma_descriptor(FLASHMLA_SHARED(shared_, k_rope) + kHalf * (kTileBytes / 2), 1024, 0);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                wgmma_m64n32k16_ss<Bf16>(score, tail + (kTileBytes >> 4) + i * 2, k_rope + i * 2, i > 0);
            wgmma_commit();
        }
#pragma unroll
        for (int step = 0; step < kLatent / 16; ++step) {
            const int c = step / 4, i = step % 4;
            const uint64_t b = k + ((c * kTileBytes + i * 32) >> 4);
            if (c < kRegisterTiles) {
                wgmma_m64n32k16_rs<Bf16>(score, q_[c][i], b, kRope || step > 0);
            } else {
                wgmma_m64n32k16_ss<Bf16>(score, tail + i * 2, b, 1);
            }
            constexpr int kFirst = 4, kRopeDone = 12;
            if (step >= kFirst && step < kFirst + std::decay_t<Work>::kSteps) work.step(step - kFirst);
            if (kRope && step == kRopeDone) {
                // Only the rotary part is committed so far. A warp does not get here much before it is done.
                wgmma_wait<0>();
                if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, k_rope_empty) + kHalf * 8);
            }
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void wait_products(float (&score)[16]) {
        wgmma_wait<0>();
        pin(score);
    }

    // The latent part of a tile. Rows were written by ordinary copies and are read by the matrix units, here and, after P
    // has come from here, in the output warps.
    __device__ __forceinline__ void wait_tile() {
        mbarrier_wait(full_at(shared_, ring_.stage, 0), ring_.phase);
        mbarrier_wait(full_at(shared_, ring_.stage, 1), ring_.phase);
        if (!kRope) fence_proxy_async();
    }

    template <int kHalf>
    __device__ __forceinline__ void wait_rope() {
        if constexpr (kRope) {
            mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_full) + kHalf * 8, k_rope_phase_);
            if (kHalf == 1) k_rope_phase_ ^= 1;
            fence_proxy_async();
        }
    }

    // Which rows of the tile at hand count.
    __device__ __forceinline__ uint64_t seen() {
        uint64_t rows;
        asm volatile("ld.shared.u64 %0, [%1];"
                     : "=l"(rows)
                     : "r"(FLASHMLA_SHARED(shared_, seen) + ring_.stage * 8)
                     : "memory");
        return rows;
    }

    __device__ __forceinline__ void mask(float (&score)[16], uint32_t rows) {
        if (rows == ~0u) return;
        rows >>= lane_ % 4 * 2;
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            if (!(rows >> (i / 4 * 8 + i % 2) & 1)) score[i] = -INFINITY;
        }
    }

    __device__ __forceinline__ void store_p(int half, const uint32_t (&packed)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i += 4)
            stmatrix_x4(p_at_ ^ (half * 64 + i / 4 * 32), packed[i], packed[i + 1], packed[i + 2], packed[i + 3]);
    }

    __device__ __forceinline__ void finish(const Query& query) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = sum_[h], top = top_[h];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            if (lane_ % 4 == 0) store_row(query.token, query.head + row(h), row(h), sum, top, reference_[h]);
        }
        __syncwarp();
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, final_full));
    }

    __device__ __forceinline__ void store_row(int token, int head, int row, float sum, float top, float reference) {
        const bool exists = head < p_.h_q;
        // Whatever the row saw, its largest P is at least 2^-kSlack; NaN is not empty.
        const bool empty = sum == 0.f;
        float total = sum;
        if (exists && p_.attn_sink != 0) {
            const float sink = reinterpret_cast<const float*>(p_.attn_sink)[head * p_.attn_sink_stride];
            total += exp2_approx(sink * kLog2E - reference);
        }
        store_shared(FLASHMLA_SHARED(shared_, final_scale) + row * 4, empty ? 0.f : reciprocal_approx(total));
        if (!exists) return;
        if (p_.lse != 0) {
            const float none = p_.lse_empty_pos_inf ? INFINITY : -INFINITY;
            reinterpret_cast<float*>(p_.lse)[token * p_.lse_strides[0] + head * p_.lse_strides[1]] =
                empty ? none : (reference + log2_approx(sum)) * kLn2;
        }
        if (p_.max_logits != 0) {
            reinterpret_cast<float*>(p_.max_logits)[token * p_.max_logits_strides[0] + head * p_.max_logits_strides[1]] =
                top * p_.scale;
        }
    }

    const SparsePrefillParams& p_;
    Shared& s_;
    const uint32_t shared_, lane_;
    uint32_t p_at_, rescale_at_;  // where this thread stores the first of its matrices of P, and its factors
    Ring ring_;
    uint32_t p_phase_ = 0, k_rope_phase_ = 0, q_tail_phase_ = 0, final_phase_ = 0;
    uint32_t q_[kRegisterTiles][4][4];
    float left_[16], right_[16];
    uint32_t packed_left_[8], packed_right_[8];  // P
    float rescale_[2];
    bool raised_;
    float reference_[2], sum_[2];
    float top_[2];  // the largest score, not scaled
};

}  // namespace flashmla::sm90::sparse_prefill
