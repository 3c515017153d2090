// The scores warps: S = Q K^T, softmax, and P to shared memory.
//
// Softmax runs in base 2 on S * scale * log2(e). A row's reference is a maximum that is raised only
// when the weights of a tile would become large: P keeps its relative precision, and most tiles leave the
// accumulator alone. Sums and output use the same reference, so nothing is approximate.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// What 16 weights of a thread may add up to before the reference is raised.
constexpr float kSumLimit = 32.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

template <int kHeadDim>
class Scores {
  public:
    __device__ __forceinline__ Scores(const SparsePrefillParams& p, Shared<kHeadDim>& s)
        : p_(p), s_(s), shared_(smem_base(&s)), lane_(kept(threadIdx.x % 32)) {
        const uint32_t warp = threadIdx.x / 32 % 4, matrix = lane_ / 8;
        const uint32_t p_row = warp * 16 + (matrix & 1) * 8 + lane_ % 8;
        p_at_ = kept(FLASHMLA_SHARED(shared_, p) + swizzle_128b(p_row, matrix >> 1));
    }

    __device__ __forceinline__ void run() {
        Query query = next_query();
        while (query.tiles >= 0) {
            reference_[0] = reference_[1] = kNoReference;
            sum_[0] = sum_[1] = 0.f;
            top_[0] = top_[1] = -INFINITY;
            if (query.tiles > 0) attend(query.tiles);
            // Q of the next query first: the stage through which it comes is where the output passes.
            const Query next = next_query();
            finish();
            query = next;
        }
    }

  private:
    static constexpr bool kRope = kRotary<kHeadDim>;

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

    // What comes next, and if it has tiles, its Q: the latent part passes through a stage of the ring into registers.
    __device__ __forceinline__ Query next_query() {
        mbarrier_wait(full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
        if constexpr (kRope) mbarrier_wait(rest_full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
        const Query query = s_.query[ring_.stage];
        if (query.tiles > 0) {
            const uint32_t stage = stage_at<kHeadDim>(shared_, ring_.stage), matrix = lane_ / 8;
            const uint32_t q_row = threadIdx.x / 32 % 4 * 16 + (matrix & 1) * 8 + lane_ % 8;
#pragma unroll
            for (int c = 0; c < kRegisterTiles; ++c) {
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    ldmatrix_x4(q_[c][k], stage + c * kTileBytes + swizzle_128b(q_row, k * 2 + (matrix >> 1)));
            }
        }
        __syncwarp();
        mbarrier_arrive_warp(q_read_at<kHeadDim>(shared_, ring_.stage), lane_);
        ring_.advance();
        if (kRope) late_.advance();
        return query;
    }

    __device__ __forceinline__ void attend(int tiles) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_full), q_tail_phase_);
        q_tail_phase_ ^= 1;
        bool first = true, ready = operands_ready();
        for (;;) {
            products(ready, !first);
            const bool last = --tiles == 0;
            if (last) mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, q_tail_empty), lane_);
            mask();
            ring_.advance();
            ready = softmax(first);
            if (last) break;
            first = false;
        }
        wait_p();
        store_p();
        fence_proxy_async();
        __syncwarp();
        release_p();
    }

    // S of a tile. While its products run, P of the tile before is stored, if there is one (`pending`). It is given away
    // before their end, so that P V begins when they end.
    //
    // Between the products nothing may look to the compiler as if threads of a warp diverged: it serialises them all then.
    __device__ __forceinline__ void products(bool ready, bool pending) {
        // Through a shuffle, by which ptxas sees that it is the warp's: else each product's descriptor may cost eight
        // instructions, not one. (The shuffle itself goes away.)
        const uint64_t k = wgmma_descriptor(__shfl_sync(~0u, stage_at<kHeadDim>(shared_, ring_.stage), 0), 1024, 0);
        const uint64_t k_rope = wgmma_descriptor(FLASHMLA_SHARED(shared_, k_rope), 1024, 0);
        const uint64_t tail = wgmma_descriptor(FLASHMLA_SHARED(shared_, q_tail), 1024, 0);
        uint64_t last = k + ((kColumnTiles - 1) * kTileBytes >> 4);
        if constexpr (kRope)
            last = wgmma_descriptor(__shfl_sync(~0u, late_at<kHeadDim>(shared_, late_.buffer()), 0), 1024, 0);
        if (!ready) wait_operands();
        k_rope_phase_ ^= 1;
        // Rows are written by ordinary copies and are read by the matrix units: here and, after P has come from here, in the
        // output warps.
        fence_proxy_async();
        pin(score_);
        wgmma_fence();
        if constexpr (kRope) {
            // First, so that their operand is done with early and its buffer filled anew in time.
#pragma unroll
            for (int i = 0; i < 4; ++i)
                wgmma_m64n64k16_ss<Bf16>(score_, tail + ((kColumnTiles - kRegisterTiles) * kTileBytes >> 4) + i * 2,
                                         k_rope + i * 2, i > 0);
            wgmma_commit();
        }
        latent_products<0, kProductsBeforeP<kHeadDim>>(k, tail, last);
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
        constexpr int kBeforeFence = kLatent / 16 - kProductsAfterP<kHeadDim>;
        if constexpr (kRope) {
            latent_products<kProductsBeforeP<kHeadDim>, kFirstProducts>(k, tail, last);
            // The other columns, if they were not there at the beginning.
            if (!__all_sync(~0u, whole_)) {
                wait_voting(rest_full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
                fence_proxy_async();
            }
            wgmma_fence();
            latent_products<kFirstProducts, kBeforeFence>(k, tail, last);
            // And the last of them.
            wait_voting(late_full_at<kHeadDim>(shared_, late_.buffer()), late_.phase());
            late_.advance();
        } else {
            latent_products<kProductsBeforeP<kHeadDim>, kBeforeFence>(k, tail, last);
        }
        // A fence takes its time: it comes when the hardware has as many products as it holds, and serves for P, too.
        if (kRope || pending) {
            fence_proxy_async();
            __syncwarp();
        }
        if (pending) release_p();
        wgmma_fence();
        latent_products<kLatent / 16 - kProductsAfterP<kHeadDim>, kLatent / 16>(k, tail, last);
        wgmma_commit();
        wgmma_wait<0>();
        pin(score_);
    }

    template <int kFrom, int kTo>
    __device__ __forceinline__ void latent_products(uint64_t k, uint64_t tail, uint64_t last) {
#pragma unroll
        for (int step = kFrom; step < kTo; ++step) {
            const int c = step / 4, i = step % 4;
            const uint64_t b = c == kColumnTiles - 1 ? last + i * 2 : k + ((c * kTileBytes + i * 32) >> 4);
            if (c < kRegisterTiles) {
                wgmma_m64n64k16_rs<Bf16>(score_, q_[c][i], b, kRope || step > 0);
            } else {
                wgmma_m64n64k16_ss<Bf16>(score_, tail + ((c - kRegisterTiles) * kTileBytes >> 4) + i * 2, b, 1);
            }
        }
    }

    // Until the output warps are done with the P before.
    __device__ __forceinline__ void wait_p() {
        wait_voting(FLASHMLA_SHARED(shared_, p_empty), p_phase_ ^ 1);
        p_phase_ ^= 1;
    }

    // Between products, by vote: the compiler must see that the warp stays together.
    static __device__ __forceinline__ void wait_voting(uint32_t barrier, uint32_t phase) {
        while (!__all_sync(~0u, mbarrier_try(barrier, phase))) {}
    }

    // P of the last tile.
    __device__ __forceinline__ void store_p() {
        if (lane_ == 0) store_shared(FLASHMLA_SHARED(shared_, rescales) + thread_now() / 32 * 4, raised_);
        const uint32_t at = kept(p_at_);
#pragma unroll
        for (int i = 0; i < 16; i += 4)
            stmatrix_x4(at ^ (i / 2 * 16), packed_[i], packed_[i + 1], packed_[i + 2], packed_[i + 3]);
    }

    // The P stored last goes to the output warps.
    __device__ __forceinline__ void release_p() {
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, p_full), lane_);
    }

    // Whether what is read first of a tile has arrived. All is asked before the first product if it can: where other code comes
    // between products they must be fenced anew.
    __device__ __forceinline__ bool operands_ready() {
        bool ready = mbarrier_test(full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
        if (kRope) {
            ready &= mbarrier_test(FLASHMLA_SHARED(shared_, k_rope_full), k_rope_phase_);
            whole_ = mbarrier_test(rest_full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
        }
        return ready;
    }

    __device__ __forceinline__ void wait_operands() const {
        mbarrier_wait(full_at<kHeadDim>(shared_, ring_.stage), ring_.phase);
        if (kRope) mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_full), k_rope_phase_);
    }

    // What of a tile does not count.
    __device__ __forceinline__ void mask() {
        const uint64_t seen = s_.seen[ring_.stage];
        if (seen == ~uint64_t(0)) return;
        // A warp's 16 rows are four of each 16 of the tile: bit 16w + 4j + r is of row 16j + 4w + r.
        const uint32_t t = thread_now() % 4, at = t / 2 * 16 + t % 2 * 2;
        const uint32_t rows[2] = {uint32_t(seen) >> at, uint32_t(seen >> 32) >> at};
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            if (!(rows[i / 4 % 2] >> (i / 8 * 4 + i % 2) & 1)) score_[i] = -INFINITY;
        }
    }

    // P of a tile, and its sums. Scores that would exceed a reference by much show in the sums, so that no tile but
    // the first of a query needs its maxima. A row's scores are kept until its sum is known, for which there are not
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
        float sum[2] = {}, top[2] = {score_[kFrom * 4 + kHalfRow * 2], top_[kHalfRow]};
#pragma unroll
        for (int j = kFrom; j < kTo; ++j) {
            const float s0 = score_[j * 4 + kHalfRow * 2], s1 = score_[j * 4 + kHalfRow * 2 + 1];
            top[0] = fmaxf(top[0], s0);
            top[1] = fmaxf(top[1], s1);
            const float low = exp2_approx(fmaf(s0, p_.scale_log2, -reference_[kHalfRow]));
            const float high = exp2_approx(fmaf(s1, p_.scale_log2, -reference_[kHalfRow]));
            sum[j % 2] += low;
            sum[j % 2] += high;
            packed_[j * 2 + kHalfRow] = Bf16::pack(low, high);
        }
        top_[kHalfRow] = fmaxf(top[0], top[1]);
        return sum[0] + sum[1];
    }

    // To the output warps, who have time for the rest.
    __device__ __forceinline__ void finish() {
        float sum[2] = {sum_[0], sum_[1]}, top[2] = {top_[0], top_[1]};
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                sum[h] += __shfl_xor_sync(~0u, sum[h], lanes);
                top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], lanes));
            }
        }
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_empty), final_phase_ ^ 1);
        final_phase_ ^= 1;
        // Thread t of a row's four writes what is of row t, if that is one of the two.
        const uint32_t thread = thread_now(), t = thread % 4;
        if (t < 2) s_.final[row(t, thread)] = {t ? sum[1] : sum[0], t ? reference_[1] : reference_[0], t ? top[1] : top[0], 0.f};
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, final_full), lane_);
    }

    const SparsePrefillParams& p_;
    Shared<kHeadDim>& s_;
    const uint32_t shared_, lane_;
    uint32_t p_at_;  // where this thread stores the first of its matrices of P
    Ring ring_;
    Late late_;
    uint32_t p_phase_ = 0, k_rope_phase_ = 0, q_tail_phase_ = 0, final_phase_ = 0;
    uint32_t q_[kRegisterTiles][4][4];
    float score_[32];
    uint32_t packed_[16];  // P
    bool whole_;  // the tile to come is there with all columns but the last
    uint32_t raised_;  // a bit for each row of the thread
    float reference_[2], sum_[2];
    float top_[2];  // the largest score, not scaled
};

}  // namespace flashmla::sm90::sparse_prefill
