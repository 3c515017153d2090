// The warpgroup that computes: S^T, softmax, O^T, and the store.
//
// In all fragments a thread has the same columns, which are query rows: 8j + 2 (lane % 4) + e for each j and e. So what
// belongs to a row (its reference and its sum) lies in the registers of those threads that need it. Softmax runs in base 2 on
// S * scale * log2(e), relative to a reference that all threads of a row share: the maximum of the piece's first tile, raised
// only where P relative to it becomes large, so that warps rarely have to agree. Whether one has to raise it is told by
// the barrier that P passes anyway. Sums are those of each thread's own tokens until the piece ends.
#pragma once
#include "common/matrix.cuh"
#include "common/mbarrier.cuh"
#include "common/named_barrier.cuh"
#include "common/shared.cuh"
#include "common/wgmma_narrow.cuh"
#include "sm90/dense_decode/copies.cuh"
#include "sm90/dense_decode/handover.cuh"
#include "sm90/dense_decode/store_lse.cuh"
#include "sm90/dense_decode_few/config.cuh"

namespace flashmla::sm90::dense_decode_few {

// Of what a thread adds up of a row in a tile: two numbers, so that it is never met where none is above 1.
constexpr float kSumLimit = 32.f;
// The reference of a row that has seen nothing yet: finite, so that P = exp2(-inf - reference) is 0.
constexpr float kNoReference = -1e30f;

// A barrier of the warpgroup, which also says whether any thread's answer is yes.
__device__ __forceinline__ bool group_any(int group, bool yes) {
    uint32_t any;
    asm volatile(
        "{\n"
        ".reg .pred p, q;\n"
        "setp.ne.u32 p, %1, 0;\n"
        "barrier.cta.red.or.pred q, %2, 128, p;\n"
        "selp.u32 %0, 1, 0, q;\n"
        "}\n"
        : "=r"(any)
        : "r"(uint32_t(yes)), "r"(group + 1)
        : "memory");
    return any;
}

// Copies bytes from shared memory, as part of this thread's open group of copies.
__device__ __forceinline__ void bulk_store(void* to, uint32_t from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
                 : "memory");
}

// Stores 8x8 matrices, as many as there are words, transposed.
__device__ __forceinline__ void stmatrix_transposed(uint32_t address, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

template <class T, int kHeadDim, int kRowsHere, int kGroups, class Pieces>
class Attention {
  public:
    __device__ __forceinline__ Attention(const DenseDecodeParams& p, const TensorMap* q_map, uint32_t shared)
        : p_(p), q_map_(q_map), shared_(shared), lane_(threadIdx.x % 32),
          warp_(__shfl_sync(~0u, threadIdx.x / 32 % 4, 0)),
          group_(kGroups == 1 ? 0 : __shfl_sync(~0u, threadIdx.x / kGroupThreads, 0)),
          q_(FLASHMLA_SHARED(shared, q) + group_ * Layout::kQAligned),
          p_buffers_(FLASHMLA_SHARED(shared, p) + group_ * (2 * Layout::kPBytes)),
          of_warp_(FLASHMLA_SHARED(shared, of_warp) + group_ * (5 * kRowsHere * 4)), place_(p),
          first_row_((place_.row_block * kGroups + group_) * kRowsHere) {
        const uint32_t matrix = lane_ / 8;
        p_at_ = p_buffers_ + swizzle_128b((matrix / 2) * 8 + lane_ % 8, warp_ * 2 + matrix % 2);
    }

    __device__ __forceinline__ void run() {
        Piece piece;
        take(piece);
        load_q(piece);
#pragma unroll 1
        while (piece.request >= 0) {
            const Piece now = piece;
            begin(now);
#pragma unroll 1
            for (int tile = now.tile_begin; tile < now.tile_end; ++tile) attend(now, tile);
            finish(now);
            take(piece);
            load_q(piece);
        }
    }

  private:
    using Layout = Layout<kHeadDim, kRowsHere, kGroups>;
    using Shared = typename Layout::Shared;
    static constexpr int kFragment = kRowsHere / 2;  // registers of 64 x rows
    static constexpr int kMine = kRowsHere / 4;      // rows of a thread

    static_assert(kGroups == 1 || !Pieces::kHandsOver, "two would need two records");
    static_assert((kColumnTiles * kFragment + 2 * kMine) / 4 <= handover_vectors(kRowsHere), "they have room");
    __device__ __forceinline__ Handover handover() const { return Handover(p_, warp_, 0, threadIdx.x % kGroupThreads); }

    // The row that the i-th of a thread is.
    __device__ __forceinline__ int row(int i) const { return first_row_ + lane_ % 4 * 2 + below_first(i); }
    static __device__ __forceinline__ constexpr int below_first(int i) { return i / 2 * 8 + i % 2; }

    // The next piece, as the loading warp tells it.
    __device__ __forceinline__ void take(Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, piece_full) + told_.place * 8, told_.phase);
        const uint32_t at = FLASHMLA_SHARED(shared_, piece) + told_.place * sizeof(Piece);
        piece.request = load_shared(at + offsetof(Piece, request));
        piece.tokens = load_shared(at + offsetof(Piece, tokens));
        piece.tile_begin = load_shared(at + offsetof(Piece, tile_begin));
        piece.tile_end = load_shared(at + offsetof(Piece, tile_end));
        piece.flags = load_shared(at + offsetof(Piece, flags));
        piece.slot = load_shared(at + offsetof(Piece, slot));
        __syncwarp();
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, piece_empty) + told_.place * 8, lane_);
        told_.advance();
    }

    // By the first warp, when nobody reads the Q before.
    __device__ __forceinline__ void load_q(const Piece& piece) {
        if (warp_ != 0 || piece.request < 0 || piece.tile_begin == piece.tile_end) return;
        const uint32_t full = FLASHMLA_SHARED(shared_, q_full) + group_ * 8;
        if (lane_ == 0) mbarrier_arrive_expect_tx(full, Layout::kQTiles * Layout::kQBytes);
        __syncwarp();
        // A box has rows of one token; what lies past the last one arrives as zeros.
        if (lane_ < Layout::kQTiles) {
#pragma unroll 1
            for (int first = 0; first < kRowsHere; first += p_.q_box_rows) {
                const int row = first_row_ + first, token = divide(row, p_.group_magic, p_.group_shift);
                const int head = place_.kv_head * p_.group + row - token * p_.group;
                tma_load_5d(q_ + lane_ * Layout::kQBytes + first * 128, q_map_, full, 0, head,
                            lane_, token, piece.request);
            }
        }
        __syncwarp();
    }

    __device__ __forceinline__ void begin(const Piece& piece) {
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            reference_[i] = kNoReference;
            sum_[i] = 0.f;
        }
        all_visible_ = visible_tokens(p_, piece.tokens, first_row_);
        if (piece.tile_begin == piece.tile_end) {
#pragma unroll
            for (int s = 0; s < kSlices; ++s) {
#pragma unroll
                for (int i = 0; i < kFragment; ++i) acc_[s][i] = 0.f;
            }
            return;
        }
        // Anything: the first product overwrites it. But what the piece before left is dead.
#pragma unroll
        for (int s = 0; s < kSlices; ++s) {
#pragma unroll
            for (int i = 0; i < kFragment; ++i) asm volatile("" : "=f"(acc_[s][i]));
        }
        mbarrier_wait(FLASHMLA_SHARED(shared_, q_full) + group_ * 8, q_phase_);
        q_phase_ ^= 1;
        if (Pieces::kHandsOver && piece.resumes()) {
            const Handover handover = this->handover();
            handover.wait();
#pragma unroll
            for (int s = 0; s < kSlices; ++s) handover.take(acc_[s], s * (kFragment / 4));
            handover.take(reference_, kSlices * (kFragment / 4));
            handover.take(sum_, kSlices * (kFragment / 4) + kMine / 4);
        }
    }

    __device__ __forceinline__ void attend(const Piece& piece, int tile) {
        const bool first = tile == piece.tile_begin && !(Pieces::kHandsOver && piece.resumes());
        Turn<Layout::kHalves> second = half_;
        second.advance();
        const uint32_t halves[2] = {half_at(half_), half_at(second)};
        products_of_scores(halves, second);
        const int base = tile * kTokens;
        if (base + kTokens > all_visible_) mask(piece, base);
        if (base + kTokens > piece.tokens) clear_padding(halves, piece.tokens - base);
        softmax(first);
        products_of_output(halves, first);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, half_empty) + half_.place * 8, lane_);
        mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, half_empty) + second.place * 8, lane_);
        half_ = second;
        half_.advance();
        p_number_ ^= 1;
    }

    __device__ __forceinline__ uint32_t half_at(const Turn<Layout::kHalves>& half) const {
        return FLASHMLA_SHARED(shared_, half) + half.place * kHalfBytes;
    }

    // Waits, by vote: between products the compiler must see that the warp stays together.
    static __device__ __forceinline__ void wait_together(uint32_t barrier, uint32_t phase) {
        while (!__all_sync(~0u, mbarrier_try(barrier, phase))) {}
    }

    // S^T of a tile.
    __device__ __forceinline__ void products_of_scores(const uint32_t (&halves)[2], const Turn<Layout::kHalves>& second) {
        uint64_t q = wgmma_descriptor(q_, 1024, 0);
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
            wait_together(FLASHMLA_SHARED(shared_, half_full) + (i ? second : half_).place * 8, (i ? second : half_).phase);
            uint64_t k = wgmma_descriptor(i ? halves[1] : halves[0], 1024, 0);
            wgmma_fence();
#pragma unroll 1
            for (int c = 0; c < kHalfTiles; ++c) {
                score_products(k, q, i + c > 0);
                k += kTileBytes >> 4;
                q += Layout::kQBytes >> 4;
            }
        }
        // In the order in which they come.
        if constexpr (Layout::kRope) {
            wait_together(FLASHMLA_SHARED(shared_, rope_full) + rope_.place * 8, rope_.phase);
            const uint64_t k = wgmma_descriptor(FLASHMLA_SHARED(shared_, rope) + rope_.place * kTileBytes, 1024, 0);
            wgmma_fence();
            score_products(k, q, true);
        }
        wgmma_commit();
        wgmma_wait<0>();
        pin(score_);
        if constexpr (Layout::kRope) {
            mbarrier_arrive_warp(FLASHMLA_SHARED(shared_, rope_empty) + rope_.place * 8, lane_);
            rope_.advance();
        }
    }

    // With a column tile.
    __device__ __forceinline__ void score_products(uint64_t k, uint64_t q, bool accumulate) {
#pragma unroll
        for (int step = 0; step < 4; ++step)
            wgmma_narrow<T, false>(score_, k + step * 2, q + step * 2, accumulate || step > 0);
    }

    // What a row does not see.
    __device__ __forceinline__ void mask(const Piece& piece, int base) {
        const int token = base + warp_ * 16 + lane_ / 4;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            const int visible = visible_tokens(p_, piece.tokens, row(i)) - token;
            if (visible <= 0) score_[i / 2 * 4 + i % 2] = -INFINITY;
            if (visible <= 8) score_[i / 2 * 4 + 2 + i % 2] = -INFINITY;
        }
    }

    // Rows of V past the length may hold anything, NaN too, and P = 0 does not silence that. Products of other warps may still
    // read these rows as K: what comes of them is masked. Of two warpgroups each clears a half.
    __device__ __forceinline__ void clear_padding(const uint32_t (&halves)[2], int valid) {
        const int bytes = (kTokens - valid) * 128;
#pragma unroll 1
        for (int c = group_ * kHalfTiles; c < (kGroups == 1 ? kColumnTiles : (group_ + 1) * kHalfTiles); ++c) {
            const uint32_t at = (c < kHalfTiles ? halves[0] : halves[1]) + c % kHalfTiles * kTileBytes + valid * 128;
#pragma unroll 1
            for (int i = threadIdx.x % kGroupThreads * 16; i < bytes; i += kGroupThreads * 16) clear_shared_16(at + i);
        }
        if constexpr (kGroups > 1) {
            fence_proxy_async();
            named_barrier_sync(kGroups + 1, kGroups * kGroupThreads);
        }
    }

    // P of a tile, in shared memory for all to read.
    __device__ __forceinline__ void softmax(bool first) {
        float sum[kMine];
        bool raise = first;
#pragma unroll 1
        while (true) {
            if (raise) raise_references(first);
            bool large = false;
            uint32_t packed[kFragment / 2];
#pragma unroll
            for (int i = 0; i < kMine; i += 2) {
                const float low0 = weight(i * 2, i), high0 = weight(i * 2 + 1, i + 1);
                const float low8 = weight(i * 2 + 2, i), high8 = weight(i * 2 + 3, i + 1);
                packed[i] = T::pack(low0, high0);
                packed[i + 1] = T::pack(low8, high8);
                // The sum is of P before rounding: lse is exact to FP32.
                sum[i] = low0 + low8;
                sum[i + 1] = high0 + high8;
                large |= sum[i] > kSumLimit || sum[i + 1] > kSumLimit;
            }
#pragma unroll
            for (int i = 0; i < kFragment / 2; i += 4) {
                const uint32_t four[4] = {packed[i], packed[i + 1], packed[i + 2], packed[i + 3]};
                stmatrix_transposed(p_at_ + p_number_ * Layout::kPBytes + i / 4 * (16 * 128), four);
            }
            fence_proxy_async();
            raise = group_any(group_, large);
            if (!raise) break;
        }
#pragma unroll
        for (int i = 0; i < kMine; ++i) sum_[i] += sum[i];
    }

    __device__ __forceinline__ float weight(int at, int i) const {
        return exp2_approx(fmaf(score_[at], p_.scale_log2, -reference_[i]));
    }

    // The maxima of the tile become references, where they are larger.
    __device__ __forceinline__ void raise_references(bool first) {
        float rescale[kMine];
        const uint32_t mine = of_warp_ + lane_ % 4 * 8;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            float top = fmaxf(score_[i / 2 * 4 + i % 2], score_[i / 2 * 4 + 2 + i % 2]);
#pragma unroll
            for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
            if (lane_ < 4) store_shared(mine + (warp_ * kRowsHere + below_first(i)) * 4, top);
        }
        group_sync();
        // Until the next barrier nobody writes what is read here, and there is one before the next tile.
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            float top = -INFINITY;
#pragma unroll
            for (int w = 0; w < 4; ++w)
                top = fmaxf(top, __uint_as_float(load_shared(mine + (w * kRowsHere + below_first(i)) * 4)));
            const float reference = fmaxf(top * p_.scale_log2, reference_[i]);
            rescale[i] = exp2_approx(reference_[i] - reference);
            reference_[i] = reference;
        }
        // There is nothing yet.
        if (first) return;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            sum_[i] *= rescale[i];
#pragma unroll
            for (int s = 0; s < kSlices; ++s) {
                acc_[s][i / 2 * 4 + i % 2] *= rescale[i];
                acc_[s][i / 2 * 4 + 2 + i % 2] *= rescale[i];
            }
        }
    }

    __device__ __forceinline__ void products_of_output(const uint32_t (&halves)[2], bool first) {
        uint64_t v[2] = {wgmma_descriptor(halves[0], 1024, 0), wgmma_descriptor(halves[1], 1024, 0)};
        uint64_t p = wgmma_descriptor(p_buffers_ + p_number_ * Layout::kPBytes, 1024, 0);
#pragma unroll
        for (int s = 0; s < kSlices; ++s) pin(acc_[s]);
        wgmma_fence();
#pragma unroll 1
        for (int step = 0; step < 4; ++step) {
#pragma unroll
            for (int s = 0; s < kSlices; ++s)
                wgmma_narrow<T, true>(acc_[s], v[s / kHalfTiles] + s % kHalfTiles * (kTileBytes >> 4), p,
                                      !first || step > 0);
            v[0] += 16 * 128 >> 4;
            v[1] += 16 * 128 >> 4;
            p += 2;
        }
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int s = 0; s < kSlices; ++s) pin(acc_[s]);
    }

    __device__ __forceinline__ void finish(const Piece& piece) {
        if (Pieces::kHandsOver && piece.suspends()) {
            const Handover handover = this->handover();
#pragma unroll
            for (int s = 0; s < kSlices; ++s) handover.give(acc_[s], s * (kFragment / 4));
            handover.give(reference_, kSlices * (kFragment / 4));
            handover.give(sum_, kSlices * (kFragment / 4) + kMine / 4);
            handover.given();
            // Nobody reads Q any more.
            group_sync();
            return;
        }
        // All warps are behind what they read there before: softmax's barrier, or that of the piece before, stands between.
        const uint32_t mine = of_warp_ + lane_ % 4 * 8;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
#pragma unroll
            for (int step = 4; step < 32; step *= 2) sum_[i] += __shfl_xor_sync(~0u, sum_[i], step);
        }
        if (lane_ < 4) {
#pragma unroll
            for (int i = 0; i < kMine; ++i) {
                store_shared(mine + (warp_ * kRowsHere + below_first(i)) * 4, sum_[i]);
                // All warps have the same.
                if (warp_ == 0) store_shared(mine + (4 * kRowsHere + below_first(i)) * 4, reference_[i]);
            }
        }
        group_sync();
        float factor[kMine];
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < 4; ++w)
                sum += __uint_as_float(load_shared(mine + (w * kRowsHere + below_first(i)) * 4));
            // A row that saw anything has a P of about 1; NaN is not empty.
            factor[i] = sum == 0.f ? 0.f : reciprocal_approx(sum);
        }
        if (piece.whole()) {
            store_output(piece, factor);
        } else if (piece.slot >= 0) {
            store_split(piece, factor);
        }
        if (threadIdx.x % kGroupThreads < kRowsHere) store_lse(piece, threadIdx.x % kGroupThreads);
        // What is read above is written again soon.
        group_sync();
    }

    __device__ __forceinline__ void store_lse(const Piece& piece, int mine) {
        const uint32_t at = of_warp_ + mine * 4;
        const int row = first_row_ + mine;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += __uint_as_float(load_shared(at + w * kRowsHere * 4));
        const float reference = __uint_as_float(load_shared(at + 4 * kRowsHere * 4));
        const float lse2 = sum == 0.f ? -INFINITY : reference + log2_approx(sum);
        store_row_lse(p_, place_, piece, row, lse2);
    }

    // Transposed into Q's place, whose last reader has come to a barrier; from there a row is one copy.
    __device__ __forceinline__ void store_output(const Piece& piece, const float (&factor)[kMine]) {
        const uint32_t matrix = lane_ / 8;
        const uint32_t at = q_ + ((matrix / 2) * 8 + lane_ % 8) * kOutputPitch + warp_ * 32 +
                            matrix % 2 * 16;
#pragma unroll
        for (int s = 0; s < kSlices; ++s) {
#pragma unroll
            for (int i = 0; i < kMine; i += 4) {
                uint32_t four[4];
#pragma unroll
                for (int m = 0; m < 4; ++m) {
                    const int j = i / 2 + m / 2, from = j * 4 + m % 2 * 2;
                    four[m] = T::pack(acc_[s][from] * factor[j * 2], acc_[s][from + 1] * factor[j * 2 + 1]);
                }
                stmatrix_transposed(at + i / 4 * (16 * kOutputPitch) + s * 128, four);
            }
        }
        fence_proxy_async();
        group_sync();
        if (warp_ != 0) return;
        const int row = first_row_ + lane_;
        if (lane_ < kRowsHere && row < p_.rows) {
            const int token = divide(row, p_.group_magic, p_.group_shift);
            const int head = place_.kv_head * p_.group + row - token * p_.group;
            uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + piece.request * p_.out_strides[0] +
                            token * p_.out_strides[1] + head * p_.out_strides[2];
            bulk_store(out, q_ + lane_ * kOutputPitch, kLatent * 2);
        }
        tma_store_commit();
        // Q comes there next.
        tma_store_wait_read();
        __syncwarp();
    }

    // Eight lanes fill a sector.
    __device__ __forceinline__ void store_split(const Piece& piece, const float (&factor)[kMine]) {
        const int64_t first = (int64_t(piece.slot) * p_.h_kv + place_.kv_head) * p_.rows + row(0);
        float* out = reinterpret_cast<float*>(p_.split_out) + first * kLatent + warp_ * 16 + lane_ / 4;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
            if (row(i) >= p_.rows) continue;
#pragma unroll
            for (int s = 0; s < kSlices; ++s) {
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    out[below_first(i) * kLatent + s * 64 + h * 8] = acc_[s][i / 2 * 4 + h * 2 + i % 2] * factor[i];
            }
        }
    }

    __device__ __forceinline__ void group_sync() const { named_barrier_sync(group_ + 1, kGroupThreads); }

    static constexpr int kSlices = kColumnTiles;  // of 64 columns of O

    const DenseDecodeParams& p_;
    const TensorMap* q_map_;
    const uint32_t shared_;
    const int lane_, warp_, group_;
    const uint32_t q_, p_buffers_, of_warp_;  // of the warpgroup
    const Place place_;
    const int first_row_;
    uint32_t p_at_;  // where this lane stores a row of P^T
    int p_number_ = 0;
    Turn<Layout::kHalves> half_;
    Turn<Layout::kRopes> rope_;
    Turn<kPieces> told_;
    uint32_t q_phase_ = 0;
    float acc_[kSlices][kFragment];
    float score_[kFragment];
    float reference_[kMine], sum_[kMine];
    int all_visible_;
};

}  // namespace flashmla::sm90::dense_decode_few
