// The scores warps: S = Q K^T, softmax, and P to shared memory.
//
// Softmax runs in base 2 on S * scale * log2(e). A row's reference is a maximum that is raised only
// when it would be exceeded by more than kSlack: P then reaches 2^kSlack at most, keeps its relative
// precision, and most tiles leave the accumulator alone. Sums and output use the same reference, so
// nothing is approximate.
#pragma once
#include "common/cluster.cuh"
#include "common/mbarrier.cuh"
#include "common/wgmma.cuh"
#include "sm90/dense_decode/work.cuh"

namespace flashmla::sm90::dense_decode {

constexpr float kSlack = 8.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

template <class T, int kHeadDim, int kCluster>
class Scores {
  public:
    __device__ __forceinline__ Scores(const DenseDecodeParams& p, Shared& s)
        : p_(p), s_(s), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4), place_(p) {}

    __device__ __forceinline__ void run() {
        Pieces pieces(p_, place_.partition);
        Piece piece;
        while (pieces.next(p_, piece)) {
            begin_rows(piece);
            if (piece.tile_begin < piece.tile_end) {
                load_q();
                for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) {
                    // P of the tile before is given away when these products are nearly done.
                    products(tile > piece.tile_begin);
                    softmax(piece, tile);
                    if ((tile + 1) * kTokens > piece.tokens) clear_padding(piece.tokens - tile * kTokens);
                    fence_proxy_async();
                    __syncwarp();
                    ring_.advance();
                }
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
    __device__ __forceinline__ int row(int half) const { return warp_ * 16 + half * 8 + lane_ / 4; }

    __device__ __forceinline__ void begin_rows(const Piece& piece) {
        const int first = place_.row_block * kRows;
        reference_[0] = reference_[1] = kNoReference;
        sum_[0] = sum_[1] = 0.f;
        visible_[0] = visible_tokens(p_, piece.tokens, first + row(0));
        visible_[1] = visible_tokens(p_, piece.tokens, first + row(1));
        all_visible_ = visible_tokens(p_, piece.tokens, first);
    }

    // Q's latent part passes through a stage of the ring into registers.
    __device__ __forceinline__ void load_q() {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes;
        const uint32_t matrix = lane_ / 8;
        const uint32_t q_row = warp_ * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
        for (int c = 0; c < kRegisterTiles; ++c) {
            if (c % kTilesPerBarrier == 0) wait_stage(c / kTilesPerBarrier);
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ldmatrix_x4(q_[c][k], stage + c * kTileBytes + swizzle_128b(q_row, k * 2 + (matrix >> 1)));
        }
        __syncwarp();
        // In the place of both halves of the output warps, who skip this stage.
        if (lane_ == 0) {
            const uint32_t barrier = FLASHMLA_SHARED(shared_, stage_empty) + ring_.stage * 8;
#pragma unroll
            for (int rank = 0; rank < kCluster; ++rank) arrive(barrier, rank, 2);
        }
        ring_.advance();
    }

    __device__ __forceinline__ void products(bool give_p) {
        const uint64_t k = wgmma_descriptor(FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes, 1024, 0);
        const uint64_t tail = wgmma_descriptor(FLASHMLA_SHARED(shared_, q_tail), 1024, 0);
        wait_stage(0);
        pin(score_);
        wgmma_fence();
#pragma unroll
        for (int c = 0; c < kColumnTiles; ++c) {
            // Each stretch of products is fenced by itself: the compiler would do so, less well, where
            // other code comes between them.
            if (c > 0 && c % kTilesPerBarrier == 0) {
                wait_stage(c / kTilesPerBarrier);
                wgmma_fence();
            }
            if (c == kReleaseTile) wgmma_commit();
            if (c == kRegisterTiles) {
                mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_full), q_tail_phase_);
                wgmma_fence();
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint64_t b = k + ((c * kTileBytes + i * 32) >> 4);
                if (c < kRegisterTiles) {
                    wgmma_m64n64k16_rs<T>(score_, q_[c][i], b, c + i > 0);
                } else {
                    wgmma_m64n64k16_ss<T>(score_, tail + i * 2, b, 1);
                }
            }
        }
        if constexpr (kRope) {
            mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_full), k_rope_phase_);
            k_rope_phase_ ^= 1;
            wgmma_fence();
            const uint64_t b = wgmma_descriptor(FLASHMLA_SHARED(shared_, k_rope), 1024, 0);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                wgmma_m64n64k16_ss<T>(score_, tail + (kTileBytes >> 4) + i * 2, b + i * 2, 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (give_p) release_p();
        wgmma_wait<0>();
        pin(score_);
        if constexpr (kRope) {
            if (lane_ == 0) {
                const uint32_t barrier = FLASHMLA_SHARED(shared_, k_rope_empty);
#pragma unroll
                for (int rank = 0; rank < kCluster; ++rank) arrive(barrier, rank, 1);
            }
        }
    }

    // The P written last goes to the output warps.
    __device__ __forceinline__ void release_p() {
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, p_full));
    }

    __device__ __forceinline__ void softmax(const Piece& piece, int tile) {
        const int base = tile * kTokens;
        if (base + kTokens > all_visible_) {
            const int column = base + lane_ % 4 * 2;
#pragma unroll
            for (int i = 0; i < 32; ++i) {
                if (column + i / 4 * 8 + i % 2 >= visible_[i / 2 % 2]) score_[i] = -INFINITY;
            }
        }
        // Several chains for each row: one warp has a scheduler to itself here, nothing else hides latency.
        float highest[4] = {score_[0], score_[2], score_[4], score_[6]};
#pragma unroll
        for (int i = 0; i < 32; ++i) highest[i / 2 % 4] = fmaxf(highest[i / 2 % 4], score_[i]);
        float rescale[2], offset[2], sum[4] = {};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = fmaxf(highest[h], highest[h + 2]);
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2)) * p_.scale_log2;
            offset[h] = -(top > reference_[h] + kSlack ? top : reference_[h]);
        }
        // Both rows' references before the exponentials of either: the shuffles then hide one another.
        asm volatile("" : "+f"(offset[0]), "+f"(offset[1]));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            rescale[h] = exp2_approx(reference_[h] + offset[h]);
            reference_[h] = -offset[h];
        }
        // The sum is of P before rounding: lse is exact to FP32.
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            score_[i] = exp2_approx(fmaf(score_[i], p_.scale_log2, offset[i / 2 % 2]));
            sum[i / 2 % 4] += score_[i];
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) sum_[h] = sum_[h] * rescale[h] + (sum[h] + sum[h + 2]);
        mbarrier_wait(FLASHMLA_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
        if (lane_ % 4 == 0) {
            s_.rescale[row(0)] = rescale[0];
            s_.rescale[row(1)] = rescale[1];
        }
        const uint32_t p = FLASHMLA_SHARED(shared_, p);
        const uint32_t matrix = lane_ / 8;
        const uint32_t p_row = warp_ * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
        for (int i = 0; i < 32; i += 8) {
            stmatrix_x4(p + swizzle_128b(p_row, i / 4 + (matrix >> 1)), T::pack(score_[i], score_[i + 1]),
                        T::pack(score_[i + 2], score_[i + 3]), T::pack(score_[i + 4], score_[i + 5]),
                        T::pack(score_[i + 6], score_[i + 7]));
        }
    }

    // Rows past the length may hold anything, NaN too, and P = 0 does not silence that.
    __device__ __forceinline__ void clear_padding(int valid) {
        const uint32_t stage = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes;
        const int bytes = (kTokens - valid) * 128;
#pragma unroll 1
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll 1
            for (int at = threadIdx.x % 128 * 16; at < bytes; at += 128 * 16) {
                asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(stage + c * kTileBytes + valid * 128 + at),
                             "r"(0)
                             : "memory");
            }
        }
    }

    __device__ __forceinline__ void finish(const Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = sum_[h];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            // Whatever the row saw, its largest P is at least 2^-kSlack; NaN is not empty.
            const bool empty = sum == 0.f;
            if (lane_ % 4 == 0) {
                s_.final_scale[row(h)] = empty ? 0.f : 1.f / sum;
                store_lse(piece, place_.row_block * kRows + row(h), empty ? -INFINITY : reference_[h] + log2f(sum));
            }
        }
        __syncwarp();
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, final_full));
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

    static __device__ __forceinline__ void arrive(uint32_t barrier, int rank, uint32_t count) {
        if constexpr (kCluster == 1) {
            mbarrier_arrive(barrier, count);
        } else {
            mbarrier_arrive_cluster(map_to_rank(barrier, rank), count);
        }
    }

    const DenseDecodeParams& p_;
    Shared& s_;
    const uint32_t shared_;
    const int lane_, warp_;
    const Place place_;
    Ring ring_;
    uint32_t p_phase_ = 0, k_rope_phase_ = 0, q_tail_phase_ = 0, final_phase_ = 0;
    uint32_t q_[kRegisterTiles][4][4];
    float score_[32];
    float reference_[2], sum_[2];
    int visible_[2], all_visible_;
};

}  // namespace flashmla::sm90::dense_decode
