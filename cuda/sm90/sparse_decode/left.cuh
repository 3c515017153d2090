// The left warpgroup: S = Q K^T, softmax, P; and O = O * rescale + P V for columns 0 .. 255. It also asks for
// the Q of the next piece as soon as it is done with that of this one.
//
// Softmax runs in base 2 on S * scale * log2(e). A row's reference is a maximum that is raised only
// when it would be exceeded by more than kSlack: P then reaches 2^kSlack at most, keeps its relative
// precision, and most tiles leave the accumulator alone. Sums and output use the same reference, so
// nothing is approximate.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/sink.cuh"
#include "common/tma.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_decode/split.cuh"
#include "sm90/sparse_decode/store.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr float kSlack = 8.f;

template <class Layout>
class Left {
  public:
    __device__ __forceinline__ Left(const SparseDecodeParams& p, const TensorMap* q, Shared<Layout>& s)
        : p_(p), q_map_(q), shared_(smem_base(&s)), lane_(lane_of_thread<Layout>()), place_(place_in_grid<Layout>(p)) {
        const uint32_t warp = threadIdx.x / 32 % 4, matrix = lane_ / 8;
        const uint32_t p_row = warp * 16 + (matrix & 1) * 8 + lane_ % 8;
        p_at_ = kept(FLASHMLA_SPARSE_SHARED(shared_, p) + swizzle_128b(p_row, matrix >> 1));
        rescale_at_ = kept(FLASHMLA_SPARSE_SHARED(shared_, rescale) + row_of_thread(0) * 4);
        rescales_at_ = kept(FLASHMLA_SPARSE_SHARED(shared_, rescales) + warp * 4);
        other_ = Layout::kPair ? way_to_other(shared_) : 0;
    }

    __device__ __forceinline__ void run() {
        PiecesOf<Layout> pieces(p_, place_.partition);
        Piece piece, next;
        bool more = pieces.next(p_, piece);
        if (more) load_q(piece);
        while (more) {
            more = pieces.next(p_, next);
            reference_[0] = reference_[1] = kNoReference;
            sum_[0] = sum_[1] = 0.f;
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] = 0.f;
            if (!PiecesOf<Layout>::kMayBeEmpty || piece.tile_begin < piece.tile_end) {
                mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, q_full), q_phase_);
                q_phase_ ^= 1;
                if constexpr (Layout::kPair) {
                    attend_in_pair(acc, piece, next, more);
                } else {
                    attend_alone(acc, piece, next, more);
                }
            } else if (more) {
                load_q(next);
            }
            if constexpr (Layout::kSplit) {
                leave_rows<Layout>(shared_, lane_, reference_, sum_);
                finish_with_other<Layout, true>(p_, shared_, place_, piece, acc);
            } else {
                finish(acc, piece);
            }
            piece = next;
        }
    }

  private:
    static constexpr int kColumnTiles = Shared<Layout>::kColumnTiles;
    static constexpr int kSteps = Layout::kHeadDim / 16;
    static constexpr int kBlockStride = Shared<Layout>::kBlockStride;
    static constexpr int kOctetBytes = Shared<Layout>::kOctetBytes, kStageBytes = Shared<Layout>::kStageBytes;

    // Q of a piece, when all warps are done with the one before (kQAfterRows: the first one, when the gather warps have
    // asked for rows). Heads past the last one arrive as zeros.
    __device__ __forceinline__ void load_q(const Piece& piece) {
        if (PiecesOf<Layout>::kMayBeEmpty && piece.tile_begin == piece.tile_end) return;
        if (threadIdx.x / 32 == 0) {
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, q_empty), q_issued_ ^ !Layout::kQAfterRows);
            const uint32_t barrier = FLASHMLA_SPARSE_SHARED(shared_, q_full);
            if (elect_one()) {
                mbarrier_arrive_expect_tx(barrier, kColumnTiles * kQTileBytes);
                tma_load_5d(FLASHMLA_SPARSE_SHARED(shared_, q), q_map_, barrier, 0, place_.row_block * kHeads, 0,
                            piece.token, piece.request);
            }
            __syncwarp();
        }
        q_issued_ ^= 1;
    }

    // A descriptor of a stage of K, which the compiler is to see as one value of the warp.
    template <bool kOfOutput>
    __device__ __forceinline__ uint64_t k_descriptor() const {
        const uint32_t at = __shfl_sync(~0u, shared_, 0) + __shfl_sync(~0u, ring_.stage, 0) * kStageBytes;
        return wgmma_descriptor(FLASHMLA_SPARSE_SHARED(at, k), kOctetBytes, kOfOutput ? kBlockStride : 0);
    }

    // The barriers of a stage of K.
    __device__ __forceinline__ uint32_t k_full(int half) const {
        return FLASHMLA_SPARSE_SHARED(shared_, k_full) + (half * kStages + ring_.stage) * 8;
    }

    // Products of the scores, the columns in the order in which K has them.
    template <int kFrom, int kTo>
    __device__ __forceinline__ void scores(uint64_t q, uint64_t k) {
#pragma unroll
        for (int step = kFrom; step < kTo; ++step) {
            const int block = step / 4, at = step % 4 * 32;
            wgmma_m64n64k16_ss<Bf16>(score_, q + ((Shared<Layout>::column_tile(block) * kQTileBytes + at) >> 4),
                                     k + ((block * kBlockStride + at) >> 4), step > 0);
        }
    }

    // Waits where products are in flight: the compiler must see that no thread goes another way.
    __device__ __forceinline__ void wait_together(uint32_t barrier) const {
        while (!__all_sync(~0u, mbarrier_try(barrier, ring_.phase))) {}
    }

    // Issues the products of a tile's scores. `between` is called when the first of them are.
    template <class Between>
    __device__ __forceinline__ void issue_scores(Between between) {
        // Left to itself the compiler keeps the descriptors of all products in registers from one tile to the next.
        const uint64_t q = wgmma_descriptor(FLASHMLA_SPARSE_SHARED(__shfl_sync(~0u, shared_, 0), q), 1024, 0);
        const uint64_t k = k_descriptor<false>();
        constexpr int kFirst = 8, kRight = Shared<Layout>::kRightBlock * 4;
        wait_together(k_full(0));
        pin(score_);
        wgmma_fence();
        scores<0, kFirst>(q, k);
        wgmma_commit();
        between();
        scores<kFirst, kRight>(q, k);
        wait_together(k_full(1));
        wgmma_fence();
        scores<kRight, kSteps>(q, k);
        wgmma_commit();
        wgmma_wait<0>();
        pin(score_);
    }

    // P V of the left columns.
    __device__ __forceinline__ void issue_product(float (&acc)[128]) { issue_product(acc, k_descriptor<true>()); }
    __device__ __forceinline__ void issue_product(float (&acc)[128], uint64_t v) {
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kTokens / 16; ++i)
            wgmma_m64n256k16_rv_bf16(acc, packed_[i], v + i * (2 * kOctetBytes >> 4), 1);
        wgmma_commit();
    }

    // The tile is done with.
    __device__ __forceinline__ void finish_product(float (&acc)[128]) {
        wgmma_wait<0>();
        pin(acc);
        free_stage<Layout>(k_empty(), lane_, other_);
        __syncwarp();
        ring_.advance();
    }

    // The tiles of a piece, in a pair: the scores of a tile follow P V of the one before without a pause in the matrix
    // units, and half of its columns may come while the others are multiplied.
    __device__ __forceinline__ void attend_in_pair(float (&acc)[128], const Piece& piece, const Piece& next, bool more) {
        issue_scores([] {});
        for (int left = piece.tile_end - piece.tile_begin;; --left) {
            softmax();
            rescale(acc);
            if (left == 1) break;
            issue_product(acc);
            store_p();
            const uint32_t done = k_empty();
            ring_.advance();
            issue_scores([&] {
                wgmma_wait<1>();
                pin(acc);
                free_stage<Layout>(done, lane_, other_);
            });
        }
        mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, q_empty), lane_);
        issue_product(acc);
        store_p();
        if (more) load_q(next);
        finish_product(acc);
    }

    // Alone: here tiles come late, and a stage is free sooner if P V is not waited for behind the scores.
    __device__ __forceinline__ void attend_alone(float (&acc)[128], const Piece& piece, const Piece& next, bool more) {
        for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) {
            const uint64_t k =
                wgmma_descriptor(FLASHMLA_SPARSE_SHARED(shared_, k) + ring_.stage * kStageBytes, kOctetBytes, 0);
            const uint64_t q = wgmma_descriptor(FLASHMLA_SPARSE_SHARED(shared_, q), 1024, 0);
            mbarrier_wait(k_full(0), ring_.phase);
            pin(score_);
            wgmma_fence();
            scores<0, kSteps>(q, k);
            wgmma_commit();
            wgmma_wait<0>();
            pin(score_);
            if (tile + 1 == piece.tile_end) {
                mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, q_empty), lane_);
                if (more) load_q(next);
            }
            softmax();
            rescale(acc);
            const uint64_t v = wgmma_descriptor(FLASHMLA_SPARSE_SHARED(shared_, k) + ring_.stage * kStageBytes,
                                                kOctetBytes, kBlockStride);
            issue_product(acc, v);
            // Meanwhile P goes to the right warpgroup: the next scores wait for these products.
            store_p();
            finish_product(acc);
        }
    }

    __device__ __forceinline__ void softmax() {
        mask();
        raise_references();
        weights();
    }

    __device__ __forceinline__ void rescale(float (&acc)[128]) const {
        if (!raised_) return;
#pragma unroll
        for (int i = 0; i < 128; ++i) acc[i] *= rescale_[i / 2 % 2];
    }

    __device__ __forceinline__ uint32_t k_empty() const {
        return FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8;
    }

    // P to the right warpgroup, when it is done with the one before.
    __device__ __forceinline__ void store_p() {
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
        if (raised_ && lane_ % 4 == 0) {
            store_shared(rescale_at_, rescale_[0]);
            store_shared(rescale_at_ + 8 * 4, rescale_[1]);
        }
        if (lane_ == 0) store_shared(rescales_at_, uint32_t(raised_));
#pragma unroll
        for (int i = 0; i < 4; ++i) stmatrix_x4(p_at_ ^ (i * 32), packed_[i][0], packed_[i][1], packed_[i][2], packed_[i][3]);
        fence_proxy_async();
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, p_full), lane_);
    }

    // Tokens that do not exist.
    __device__ __forceinline__ void mask() {
        if constexpr (Layout::kPair) {
            mask_pair();
            return;
        }
        uint32_t words[2];
        load_shared_8(words, FLASHMLA_SPARSE_SHARED(shared_, valid) + ring_.stage * Shared<Layout>::kValidBytes);
        if ((words[0] & words[1]) == ~0u) return;
        // This thread's columns are 8 k + 2 t and the next, t = lane % 4: of gather warps t / 2 (even k) and
        // 2 + t / 2, and therein tokens 2 (t % 2) and the next of quad k / 2.
        const uint32_t t = lane_ % 4;
        const uint32_t even = words[0] >> (t / 2 * 16 + t % 2 * 2), odd = words[1] >> (t / 2 * 16 + t % 2 * 2);
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const int k = i / 4;
            if (!((k % 2 ? odd : even) >> (k / 2 * 4 + i % 2) & 1)) score_[i] = -INFINITY;
        }
    }

    __device__ __forceinline__ void mask_pair() {
        uint32_t octets[2][4];
        const uint32_t at = FLASHMLA_SPARSE_SHARED(shared_, valid) + ring_.stage * Shared<Layout>::kValidBytes;
        load_shared_16(octets[0], at);
        load_shared_16(octets[1], at + 16);
        uint32_t all = octets[0][0] & octets[1][0];
#pragma unroll
        for (int i = 1; i < 4; ++i) all &= octets[0][i] & octets[1][i];
        if (all == 0xff) return;
        // This thread's columns are 8 k + 2 t and the next, t = lane % 4.
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const int k = i / 4;
            if (!(octets[k / 4][k % 4] >> (lane_ % 4 * 2 + i % 2) & 1)) score_[i] = -INFINITY;
        }
    }

    __device__ __forceinline__ void raise_references() {
        // Several chains for each row, to hide latency.
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
            packed_[i / 8][i / 2 % 4] = Bf16::pack(score_[i], score_[i + 1]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) sum_[h] += sum[h] + sum[h + 2];
    }

    __device__ __forceinline__ void finish(float (&acc)[128], const Piece& piece) {
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
        float scale[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float sum = sum_[h];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            // Whatever the row saw, its largest P is at least 2^-kSlack; NaN is not empty.
            const bool empty = sum == 0.f;
            const int head = place_.row_block * kHeads + row_of_thread(h);
            // The sink is one more weight in the denominator. lse does not see it, and neither does a split unit:
            // its pieces are combined first.
            float denominator = sum;
            if (piece.whole && p_.attn_sink != 0 && head < p_.h_q)
                denominator += exp2f(sink_log2(p_, head, reference_[h]));
            scale[h] = empty ? 0.f : 1.f / denominator;
            if (lane_ % 4 == 0) {
                store_shared(FLASHMLA_SPARSE_SHARED(shared_, final_scale) + row_of_thread(h) * 4, scale[h]);
                store_lse(piece, head, empty ? -INFINITY : reference_[h] + log2f(sum));
            }
        }
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, final_full), lane_);
        store<true>(p_, place_, piece, acc, scale[0], scale[1]);
    }

    __device__ __forceinline__ void store_lse(const Piece& piece, int head, float lse2) {
        if (head >= p_.h_q) return;
        if (piece.whole) {
            if (p_.lse == 0) return;
            float lse = lse2 * kLn2;
            if (lse2 == -INFINITY && p_.lse_empty_pos_inf) lse = INFINITY;
            reinterpret_cast<float*>(p_.lse)[piece.request * p_.lse_strides[0] + head * p_.lse_strides[1] +
                                             piece.token * p_.lse_strides[2]] = lse;
        } else if (piece.slot >= 0) {
            reinterpret_cast<float*>(p_.split_lse)[int64_t(piece.slot) * p_.h_q + head] = lse2;
        }
    }

    const SparseDecodeParams& p_;
    const TensorMap* q_map_;
    const uint32_t shared_, lane_;
    const Place place_;
    // Where this thread stores the first of its matrices of P, its factors, and whether its warp has any.
    uint32_t p_at_, rescale_at_, rescales_at_;
    uint32_t other_;  // in a pair, from an address to the other block's
    Ring ring_;
    uint32_t p_phase_ = 0, q_phase_ = 0, q_issued_ = 0, final_phase_ = 0;
    float score_[32];
    uint32_t packed_[4][4];  // P
    float rescale_[2];
    bool raised_;
    float reference_[2], sum_[2];
};

}  // namespace flashmla::sm90::sparse_decode
