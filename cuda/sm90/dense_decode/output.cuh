// The output warps: O = O * rescale + P V for one half of the columns, and the store of O. Between
// the products these warps issue the copies (load.cuh).
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma.cuh"
#include "sm90/dense_decode/handover.cuh"
#include "sm90/dense_decode/load.cuh"
#include "sm90/dense_decode/store_lse.cuh"
#include "sm90/dense_decode/work.cuh"
#include <type_traits>

namespace flashmla::sm90::dense_decode {

// `kLeft`: columns 0 .. 255, or the others.
template <class T, int kHeadDim, class Pieces, bool kLeft>
class Output {
  public:
    __device__ __forceinline__ Output(const DenseDecodeParams& p, const Maps& maps, Shared& s)
        : p_(p), s_(s), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4), place_(p),
          loader_(p, maps, place_, shared_) {}

    __device__ __forceinline__ void run() {
        Pieces pieces(p_, place_.partition);
        Piece piece;
        bool more = pieces.next(p_, piece);
        if (more) load_tail(piece);
        while (more) {
            Piece next;
            more = pieces.next(p_, next);
            if (!more) next.tile_begin = next.tile_end = 0;
            // Not left to the first product: a dead accumulator frees its registers for the store.
            float acc[128];
            if constexpr (Pieces::kHandsOver) {
                handover().begin(acc, 0, piece.resumes());
            } else {
#pragma unroll
                for (int i = 0; i < 128; ++i) acc[i] = 0.f;
            }
            if (piece.tile_begin < piece.tile_end) {
                fill_ring();
                load_k_rope(piece, piece.tile_begin + 1);
                ring_.advance();
                for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) product(acc, piece, tile, next);
            } else {
                load_tail(next);
            }
            if (Pieces::kHandsOver && piece.suspends()) {
                const Handover handover = this->handover();
                handover.give(acc, 0);
                handover.given();
            } else {
                finish(acc, piece);
            }
            piece = next;
        }
    }

  private:
    static constexpr bool kRope = kHeadDim > kLatent;
    static constexpr int kColumns = kLatent / 2;

    __device__ __forceinline__ int row(int half) const { return warp_ * 16 + half * 8 + lane_ / 4; }

    // Accumulators after those of the other half.
    __device__ __forceinline__ Handover handover() const {
        return Handover(p_, !kLeft * 4 + warp_, !kLeft * 32, threadIdx.x % 128);
    }

    // At the start of a piece: into the stage through which Q passed; and at the very start into all of them
    // before that.
    __device__ __forceinline__ void fill_ring() {
        if constexpr (!kLeft) {
#pragma unroll 1
            for (; empty_stages_ >= 0; --empty_stages_) {
                loader_.advance();
                loader_.issue(empty_stages_ == 0 ? ring_ : Ring{kStages - empty_stages_, 1});
            }
            empty_stages_ = 0;
        }
    }

    // What a piece needs besides the ring, as soon as the scores of the piece before are done.
    __device__ __forceinline__ void load_tail(const Piece& piece) {
        if constexpr (kLeft) {
            if (warp_ == 1 && piece.tile_begin < piece.tile_end) loader_.q_tail(piece);
        }
        load_k_rope(piece, piece.tile_begin);
    }

    __device__ __forceinline__ void load_k_rope(const Piece& piece, int tile) {
        if constexpr (kRope && kLeft) {
            if (loader_.copies_rope(warp_) && tile < piece.tile_end) {
                loader_.fetch_k_rope(piece, tile);
                loader_.k_rope(piece, tile);
            }
        }
    }

    __device__ __forceinline__ void product(float (&acc)[128], const Piece& piece, int tile, const Piece& next) {
        // The scores of the next tile are done when P of this one comes; the rotary part of the one after may follow.
        bool rope = kRope && kLeft && tile + 2 < piece.tile_end;
        if constexpr (kLeft) rope = rope && loader_.copies_rope(warp_);
        if constexpr (kLeft) {
            if (rope) loader_.fetch_k_rope(piece, tile + 2);
        }
        // The scores warps saw this barrier complete; so must who reads the tile. Here, not after P came: from
        // then on time counts.
        static_assert(kBarriersPerStage == 2, "a half of the columns is a group");
        mbarrier_wait(FLASHMLA_SHARED(shared_, stage_full) + (ring_.stage * 2 + !kLeft) * 8, ring_.phase);
        uint64_t p = wgmma_descriptor(FLASHMLA_SHARED(shared_, p), 1024, 0);
        uint64_t v = wgmma_descriptor(
            FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes + !kLeft * kHalfBytes, kGroupBytes, kGroupTileBytes);
        if constexpr (kLeft) {
            if (rope) loader_.k_rope(piece, tile + 2);
            if (tile + 1 == piece.tile_end) load_tail(next);
        }
        if ((tile + 1) * kTokens > piece.tokens) clear_padding(piece.tokens - tile * kTokens);
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
        for (int i = 0; i < kTokens / 16; ++i) wgmma_m64n256k16_sv<T>(acc, p + i * 2, v + i * (token_at(16) >> 4), 1);
        wgmma_commit();
        if constexpr (!kLeft) loader_.advance();
        wgmma_wait<0>();
        pin(acc);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, p_empty), lane_);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, stage_empty) + ring_.stage * 8, lane_);
        __syncwarp();
        if constexpr (!kLeft) loader_.issue(ring_);
        ring_.advance();
    }

    // Rows of V past the length may hold anything, NaN too, and P = 0 does not silence that. (That the scores warps may
    // still read them as K is as well: what comes of that is masked.)
    __device__ __forceinline__ void clear_padding(int valid) {
        const uint32_t half = FLASHMLA_SHARED(shared_, stage) + ring_.stage * kStageBytes + !kLeft * kHalfBytes;
#pragma unroll 1
        for (int at = valid * 128 + threadIdx.x % 128 * 16; at < kTileBytes; at += 128 * 16) {
#pragma unroll
            for (int c = 0; c < kTilesPerBarrier; ++c)
                clear_shared_16(half + c * kGroupTileBytes + token_at(at / 128) + at % 128);
        }
        fence_proxy_async();
        // Each warp's products read what all of the half cleared.
        asm volatile("bar.sync %0, 128;" ::"n"(kLeft ? 1 : 2) : "memory");
    }

    __device__ __forceinline__ void finish(float (&acc)[128], const Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_full), final_phase_);
        final_phase_ ^= 1;
        const float sums[2] = {s_.final_sum[row(0)], s_.final_sum[row(1)]};
        const float references[2] = {s_.final_reference[row(0)], s_.final_reference[row(1)]};
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, final_empty), lane_);
        // A row that saw anything has a P of about 1; NaN is not empty.
        const float f0 = sums[0] == 0.f ? 0.f : reciprocal_approx(sums[0]);
        const float f1 = sums[1] == 0.f ? 0.f : reciprocal_approx(sums[1]);
        if (piece.whole()) {
            store_row<0>(acc, piece, f0);
            store_row<1>(acc, piece, f1);
        } else {
            store_split_row<0>(acc, piece, f0);
            store_split_row<1>(acc, piece, f1);
        }
        // Each half for half of the rows.
        if (lane_ % 4 == 0) {
            const float sum = kLeft ? sums[0] : sums[1], reference = kLeft ? references[0] : references[1];
            const float lse2 = sum == 0.f ? -INFINITY : reference + log2_approx(sum);
            store_row_lse(p_, place_, piece, place_.row_block * kRows + row(!kLeft), lse2);
        }
    }

    // Of code that runs once a piece every line comes from far away: short is fast. Neighbouring threads exchange
    // pairs of columns, so that each stores 8 bytes, and the four threads of a row 32 in one piece.
    template <int kHalfRow>
    __device__ __forceinline__ void store_row(float (&acc)[128], const Piece& piece, float scale) {
        const int row = place_.row_block * kRows + this->row(kHalfRow);
        const int token = divide(row, p_.group_magic, p_.group_shift);
        const int head = place_.kv_head * p_.group + row - token * p_.group;
        const bool odd = lane_ & 1;
        uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + piece.request * p_.out_strides[0] +
                        token * p_.out_strides[1] + head * p_.out_strides[2] + !kLeft * kColumns + odd * 8 +
                        (lane_ & 2) * 2;
#pragma unroll
        for (int j = 0; j < kColumns / 8; j += 2) {
            const int at = j * 4 + kHalfRow * 2;
            const uint32_t x = T::pack(acc[at] * scale, acc[at + 1] * scale);
            const uint32_t y = T::pack(acc[at + 4] * scale, acc[at + 5] * scale);
            const uint32_t other = __shfl_xor_sync(~0u, odd ? x : y, 1);
            if (row < p_.rows) *reinterpret_cast<uint2*>(out + j * 8) = make_uint2(odd ? other : x, odd ? y : other);
        }
    }

    template <int kHalfRow>
    __device__ __forceinline__ void store_split_row(float (&acc)[128], const Piece& piece, float scale) {
        const int row = place_.row_block * kRows + this->row(kHalfRow);
        if (row >= p_.rows || piece.slot < 0) return;
        const int64_t at = (int64_t(piece.slot) * p_.h_kv + place_.kv_head) * p_.rows + row;
        float* out = reinterpret_cast<float*>(p_.split_out) + at * kLatent + !kLeft * kColumns + lane_ % 4 * 2;
#pragma unroll
        for (int j = 0; j < kColumns / 8; ++j) {
            const float2 pair = {acc[j * 4 + kHalfRow * 2] * scale, acc[j * 4 + kHalfRow * 2 + 1] * scale};
            *reinterpret_cast<float2*>(out + j * 8) = pair;
        }
    }

    const DenseDecodeParams& p_;
    Shared& s_;
    const uint32_t shared_;
    const int lane_, warp_;
    const Place place_;
    std::conditional_t<kLeft, TailLoader, RingLoader<kRope, Pieces>> loader_;
    Ring ring_;
    int empty_stages_ = kStages;
    uint32_t p_phase_ = 0, final_phase_ = 0;
};

}  // namespace flashmla::sm90::dense_decode
