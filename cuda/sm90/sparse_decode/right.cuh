// The right warpgroup: O = O * rescale + P V for columns 256 .. 511, P as the left warpgroup stored it.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_decode/split.cuh"
#include "sm90/sparse_decode/store.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class Right {
  public:
    __device__ __forceinline__ Right(const SparseDecodeParams& p, Shared<Layout>& s)
        : p_(p), shared_(smem_base(&s)), lane_(lane_of_thread<Layout>()), place_(place_in_grid<Layout>(p)) {
        rescale_at_ = kept(FLASHMLA_SPARSE_SHARED(shared_, rescale) + row_of_thread(0) * 4);
        rescales_at_ = kept(FLASHMLA_SPARSE_SHARED(shared_, rescales) + threadIdx.x / 32 % 4 * 4);
        other_ = Layout::kPair ? way_to_other(shared_) : 0;
    }

    __device__ __forceinline__ void run() {
        PiecesOf<Layout> pieces(p_, place_.partition);
        Piece piece;
        while (pieces.next(p_, piece)) {
            // Not left to the first product: a dead accumulator frees its registers for the store.
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] = 0.f;
            for (int tile = piece.tile_begin; tile < piece.tile_end; ++tile) product(acc);
            if constexpr (Layout::kSplit) {
                finish_with_other<Layout, false>(p_, shared_, place_, piece, acc);
            } else {
                finish(acc, piece);
            }
        }
    }

  private:
    static constexpr int kBlockStride = Shared<Layout>::kBlockStride, kOctetBytes = Shared<Layout>::kOctetBytes;
    // Where the barriers of its columns lie among those of K.
    static constexpr int kHalf = Layout::kPair ? kStages * 8 : 0;

    __device__ __forceinline__ void product(float (&acc)[128]) {
        // The left warpgroup saw this barrier complete; so must who reads the tile. Here, not after P came: from
        // then on time counts.
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_full) + kHalf + ring_.stage * 8, ring_.phase);
        uint64_t p = wgmma_descriptor(FLASHMLA_SPARSE_SHARED(shared_, p), 1024, 0);
        uint64_t v = wgmma_descriptor(FLASHMLA_SPARSE_SHARED(shared_, k) + Shared<Layout>::kRightBlock * kBlockStride +
                                          ring_.stage * Shared<Layout>::kStageBytes,
                                      kOctetBytes, kBlockStride);
        // Computed here, not after the wait.
        asm volatile("" : "+l"(p), "+l"(v));
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, p_full), p_phase_);
        p_phase_ ^= 1;
        if (load_shared(rescales_at_)) {
            const float r0 = __uint_as_float(load_shared(rescale_at_));
            const float r1 = __uint_as_float(load_shared(rescale_at_ + 8 * 4));
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] *= i / 2 % 2 ? r1 : r0;
        }
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kTokens / 16; ++i)
            wgmma_m64n256k16_sv<Bf16>(acc, p + i * 2, v + i * (2 * kOctetBytes >> 4), 1);
        wgmma_commit();
        wgmma_wait<0>();
        pin(acc);
        if constexpr (Layout::kByColumns) {
            if (arrives_for_warp(lane_)) {
                mbarrier_arrive(FLASHMLA_SPARSE_SHARED(shared_, p_empty));
                mbarrier_arrive(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8);
            }
        } else {
            mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, p_empty), lane_);
            free_stage<Layout>(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + kHalf + ring_.stage * 8, lane_, other_);
        }
        __syncwarp();
        ring_.advance();
    }

    __device__ __forceinline__ void finish(float (&acc)[128], const Piece& piece) {
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, final_full), final_phase_);
        final_phase_ ^= 1;
        const uint32_t final_at = FLASHMLA_SPARSE_SHARED(shared_, final_scale) + row_of_thread(0) * 4;
        const float f0 = __uint_as_float(load_shared(final_at)), f1 = __uint_as_float(load_shared(final_at + 8 * 4));
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SPARSE_SHARED(shared_, final_empty), lane_);
        store<false>(p_, place_, piece, acc, f0, f1);
    }

    const SparseDecodeParams& p_;
    const uint32_t shared_, lane_;
    const Place place_;
    uint32_t other_;  // in a pair, from an address to the other block's
    uint32_t rescale_at_, rescales_at_;  // of this thread's rows, and of its warp
    Ring ring_;
    uint32_t p_phase_ = 0, final_phase_ = 0;
};

}  // namespace flashmla::sm90::sparse_decode
