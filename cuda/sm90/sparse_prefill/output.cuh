// The output warps: O = O * rescale + P V for one half of the columns, and the store of O. Around the products
// they fill the ring (gather.cuh).
#pragma once
#include "common/global.cuh"
#include "common/mbarrier.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_prefill/gather.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// `kSide` 0: columns 0 .. 255, 1: the others.
template <int kHeadDim, int kSide>
class Output {
  public:
    __device__ __forceinline__ Output(const SparsePrefillParams& p, const TensorMap* q, Shared& s)
        : p_(p), q_(q), s_(s), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4),
          current_(s.warp_queries[threadIdx.x / 32 - 4].current), gather_(p, q, s, shared_) {
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
            mbarrier_wait(full_at(shared_, ring_.stage, kSide), ring_.phase);
            const Query next = s_.query[kSide][ring_.stage];
            more = next.tiles >= 0;
            if (more) {
                __syncwarp();
                if (lane_ == 0) mbarrier_arrive(empty_at(shared_, ring_.stage, kSide));
                load_tail(next);
            }
            if (any) finish(acc);
            if (more) {
                const bool rope = gather_.issued_tile();
                const int rope_index = gather_.issued_index();
                refill();
                if (kRope && rope) load_rope(rope_index);
                ring_.advance();
                if (lane_ == 0) current_ = next;
                __syncwarp();
            }
            any = true;
        } while (more);
    }

  private:
    static constexpr bool kRope = kHeadDim > kLatent;
    static constexpr int kColumns = kLatent / 2;

    static constexpr uint32_t kPPhase = 0, kFinalPhase = 1, kTailPhase = 2, kRopePhase = 3;

    // The phase to wait for, the other one next time.
    __device__ __forceinline__ uint32_t flip(uint32_t bit) {
        const uint32_t phase = phases_ >> bit & 1;
        phases_ ^= 1u << bit;
        return phase;
    }

    __device__ __forceinline__ int row(int half) const { return warp_ * 16 + half * 8 + lane_ / 4; }

    // All stages are empty at first: the first query's Q and two more items.
    __device__ __forceinline__ void begin() {
#pragma unroll 1
        for (int stage = 0; stage < kStages; ++stage) {
            if (gather_.done()) return;
            gather_.advance();
            if (kRope && stage == 2 && gather_.issued_tile()) load_rope(gather_.issued_index());
            gather_.issue(stage);
        }
    }

    // The next item into the stage at hand, when its readers are done.
    __device__ __forceinline__ void refill() {
        if (gather_.done()) return;
        gather_.advance();
        mbarrier_wait(empty_at(shared_, ring_.stage, kSide), ring_.phase);
        gather_.issue(ring_.stage);
    }

    __device__ __forceinline__ void load_rope(int index) {
        gather_.rope(index, flip(kRopePhase) ^ 1);
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
            mbarrier_wait(full_at(shared_, next.stage, kSide), next.phase);
            const Query query = s_.query[kSide][next.stage];
            if (query.tiles <= 0) return;
            issue_tail(query);
            tail_loaded_ = true;
        }
    }

    __device__ __forceinline__ void issue_tail(const Query& query) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_tail_empty), flip(kTailPhase) ^ 1);
        if (elect_one()) {
            const uint32_t to = FLASHMLA_SHARED(shared_, q_tail), full = FLASHMLA_SHARED(shared_, q_tail_full);
            constexpr int kTiles = kHeadDim / kColumnTile - kRegisterTiles;
            mbarrier_arrive_expect_tx(full, kTiles * kTileBytes);
#pragma unroll 1
            for (int c = 0; c < kTiles; ++c) copy_q(q_, query, kRegisterTiles + c, to + c * kTileBytes, full);
        }
        __syncwarp();
    }

    __device__ __forceinline__ void product(float (&acc)[128], bool last) {
        const bool ended = gather_.done(), rope = kRope && gather_.issued_tile();
        const int rope_index = gather_.issued_index();
        // The scores warps order the ordinary writes of rows before the reads of the matrix units, for who waits for P.
        mbarrier_wait(full_at(shared_, ring_.stage, kSide), ring_.phase);
        if (last) load_tail_early();
        // The products with the left half of the next tile have begun, and its rotary part makes room for that of the
        // tile after.
        if (kSide == 0 && rope) load_rope(rope_index);
        uint64_t p = wgmma_descriptor(FLASHMLA_SHARED(shared_, p), 1024, 0);
        uint64_t v = wgmma_descriptor(side_at(shared_, ring_.stage, kSide), 1024, kTileBytes);
        // Computed here, not after the wait.
        asm volatile("" : "+l"(p), "+l"(v));
        mbarrier_wait(FLASHMLA_SHARED(shared_, p_full), flip(kPPhase));
        if (s_.rescales[warp_]) {
            const float r0 = s_.rescale[row(0)], r1 = s_.rescale[row(1)];
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] *= i / 2 % 2 ? r1 : r0;
        }
        pin(acc);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < kTokens / 16; ++i) wgmma_m64n256k16_sv<Bf16>(acc, p + i * 2, v + i * (16 * 128 >> 4), 1);
        wgmma_commit();
        // The same of the right half.
        if (kSide == 1 && rope) load_rope(rope_index);
        if (!ended) gather_.advance();
        wgmma_wait<0>();
        pin(acc);
        if (lane_ == 0) {
            mbarrier_arrive(FLASHMLA_SHARED(shared_, p_empty));
            mbarrier_arrive(empty_at(shared_, ring_.stage, kSide), 2);
        }
        __syncwarp();
        if (!ended) {
            mbarrier_wait(empty_at(shared_, ring_.stage, kSide), ring_.phase);
            gather_.issue(ring_.stage);
        }
        ring_.advance();
    }

    __device__ __forceinline__ void finish(float (&acc)[128]) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, final_full), flip(kFinalPhase));
        const Query query = current_;
        const float f0 = s_.final_scale[row(0)], f1 = s_.final_scale[row(1)];
        __syncwarp();
        if (lane_ == 0) mbarrier_arrive(FLASHMLA_SHARED(shared_, final_empty));
        store_row<0>(acc, query, f0);
        store_row<1>(acc, query, f1);
    }

    // The four threads of a row exchange their pairs of columns, so that each stores 16 bytes.
    template <int kHalfRow>
    __device__ __forceinline__ void store_row(float (&acc)[128], const Query& query, float scale) {
        const int head = query.head + row(kHalfRow);
        uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + query.token * p_.out_strides[0] +
                        head * p_.out_strides[1] + kSide * kColumns + lane_ % 4 * 8;
#pragma unroll
        for (int j = 0; j < kColumns / 8; j += 4) {
            uint32_t x[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = (j + i) * 4 + kHalfRow * 2;
                x[i] = Bf16::pack(acc[at] * scale, acc[at + 1] * scale);
            }
            transpose_4x4(x, lane_);
            // Nobody reads it soon; L2 should rather keep rows of KV.
            store_streaming_16(out + j * 8, x, head < p_.h_q);
        }
    }

    const SparsePrefillParams& p_;
    const TensorMap* q_;
    Shared& s_;
    const uint32_t shared_;
    const int lane_, warp_;
    Query& current_;  // as this warp knows it
    Gather<kHeadDim, kSide> gather_;
    Ring ring_;
    bool tail_loaded_ = false;
    uint32_t phases_ = 0;  // of barriers other than the ring's, a bit each
};

}  // namespace flashmla::sm90::sparse_prefill
