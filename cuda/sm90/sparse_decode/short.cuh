// Short pieces: the thread block. short_config.cuh says who does what.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/matrix.cuh"
#include "common/numeric.cuh"
#include "common/sink.cuh"
#include "common/wgmma.cuh"
#include "sm90/sparse_decode/short_combine.cuh"
#include "sm90/sparse_decode/short_gather.cuh"
#include "sm90/sparse_decode/short_store.cuh"

namespace flashmla::sm90::sparse_decode {

// A piece at a time.
template <class Layout>
class ShortPiece {
  protected:
    static constexpr int kColumnTiles = ShortShared<Layout>::kColumnTiles;

    __device__ __forceinline__ ShortPiece(const SparseDecodeParams& p, const TensorMap* q, ShortShared<Layout>& s,
                                          const Place& place)
        : p_(p), q_map_(q), s_(s), shared_(smem_base(&s)), half_(__shfl_sync(~0u, threadIdx.x / 128, 0)), place_(place) {}

    // Of a piece that has tiles. `last_scores` is called by all threads when Q is done with.
    template <class LastScores>
    __device__ __forceinline__ void attend(float (&acc)[128], const Piece& piece, LastScores last_scores) {
        const ShortGather<Layout> gather(p_, shared_);
        begin(piece);
        auto asked = gather.begin(piece, piece.tile_begin, gather.entry(piece, piece.tile_begin));
        // Of the next step.
        int entry = gather.entry(piece, piece.tile_begin + kStepTiles);
#pragma unroll 1
        for (int tile = piece.tile_begin; tile < piece.tile_end; tile += kStepTiles) {
            gather.finish(asked);
            const bool last = tile + kStepTiles >= piece.tile_end, more = tile > piece.tile_begin;
            if (!last) {
                asked = gather.begin(piece, tile + kStepTiles, entry);
                entry = gather.entry(piece, tile + 2 * kStepTiles);
            }
            const int tiles = min(piece.tile_end - tile, kStepTiles);
            float rescale[2];
            weigh_tokens(rescale, more, tiles, [&] {
                if (last) last_scores();
            });
            products(acc, rescale, more, tiles);
            // Before the next rows and the next Q come.
            __syncthreads();
        }
    }

    __device__ __forceinline__ void begin(const Piece& piece) {
        reference_[0] = reference_[1] = kNoReference;
        sum_[0] = sum_[1] = 0.f;
        load_q(piece);
    }

    // Heads past the last one arrive as zeros.
    __device__ __forceinline__ void load_q(const Piece& piece) {
        if (threadIdx.x == 0) {
            const uint32_t barrier = FLASHMLA_SHORT_SHARED(shared_, q_full);
            mbarrier_arrive_expect_tx(barrier, kColumnTiles * kQTileBytes);
            tma_load_5d(FLASHMLA_SHORT_SHARED(shared_, q), q_map_, barrier, 0, place_.row_block * kHeads, 0, piece.token,
                        piece.request);
        }
    }

    __device__ __forceinline__ uint32_t k() const { return FLASHMLA_SHORT_SHARED(shared_, k); }
    __device__ __forceinline__ uint32_t p_at() const { return k() + ShortShared<Layout>::kPTile * kKTileBytes; }

    // P of a step. `more`: than the first of a piece; then earlier products are to be multiplied by `rescale`.
    // `scores_done` is called when nobody reads Q any more.
    template <class ScoresDone>
    __device__ __forceinline__ void weigh_tokens(float (&rescale)[2], bool more, int tiles, ScoresDone scores_done) {
        const uint32_t thread = thread_now();
        const int lane = thread % 32, warp = thread / 32 % 4;
        const auto row = [=](int half_row) { return warp * 16 + half_row * 8 + lane / 4; };
        float score[32];
        if (!more) {
            mbarrier_wait(FLASHMLA_SHORT_SHARED(shared_, q_full), q_phase_);
            q_phase_ ^= 1;
        }
        __syncthreads();
        if (__all_sync(~0u, half_ < tiles)) {
            scores(score);
            mask(score, lane % 4);
        } else {
#pragma unroll
            for (int i = 0; i < 32; ++i) score[i] = -INFINITY;
        }
        float top[2] = {score[0], score[2]};
#pragma unroll
        for (int i = 4; i < 32; ++i) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], score[i]);
        top[0] = fmaxf(top[0], score[1]);
        top[1] = fmaxf(top[1], score[3]);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
            top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2)) * p_.scale_log2;
            if (lane % 4 == 0) s_.top[half_][row(h)] = top[h];
        }
        __syncthreads();
        scores_done();
        float sum[2] = {};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float reference = fmaxf(fmaxf(top[h], s_.top[half_ ^ 1][row(h)]), reference_[h]);
            rescale[h] = exp2_approx(reference_[h] - reference);
            reference_[h] = reference;
        }
        // P to where both halves read it.
        const uint32_t at = p_at() + half_ * kQTileBytes + swizzle_128b(warp * 16 + lane % 16, lane / 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            uint32_t packed[4];
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                float& low = score[i * 8 + j];
                float& high = score[i * 8 + j + 1];
                low = exp2_approx(fmaf(low, p_.scale_log2, -reference_[j / 2 % 2]));
                high = exp2_approx(fmaf(high, p_.scale_log2, -reference_[j / 2 % 2]));
                // The sum is of P before rounding: lse is exact to FP32.
                sum[j / 2 % 2] += low + high;
                packed[j / 2] = Bf16::pack(low, high);
            }
            stmatrix_x4(at ^ (i * 32), packed[0], packed[1], packed[2], packed[3]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
            sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
            if (lane % 4 == 0) s_.sum[half_][row(h)] = sum[h];
        }
        fence_proxy_async();
        __syncthreads();
#pragma unroll
        for (int h = 0; h < 2; ++h)
            sum_[h] = sum_[h] * rescale[h] + (s_.sum[0][row(h)] + s_.sum[1][row(h)]);
    }

    // P V of a step, of this half's columns.
    __device__ __forceinline__ void products(float (&acc)[128], const float (&rescale)[2], bool more, int tiles) const {
        if (more) {
#pragma unroll
            for (int i = 0; i < 128; ++i) acc[i] *= rescale[i / 2 % 2];
        }
        pin(acc);
        wgmma_fence();
        const uint64_t v = wgmma_descriptor(k() + half_ * (kColumns / kColumnTile * kKTileBytes), 1024, kKTileBytes);
        const uint64_t p = wgmma_descriptor(p_at(), 1024, 0);
        const auto product = [&](int tile, bool accumulate) {
#pragma unroll
            for (int i = 0; i < kTokens / 16; ++i) {
                wgmma_m64n256k16_sv<Bf16>(acc, p + (tile * (kQTileBytes >> 4) + i * 2),
                                          v + ((tile * kStageRowBytes + i * 16 * 128) >> 4), accumulate || i > 0);
            }
        };
        product(0, more);
        if (__all_sync(~0u, tiles > 1)) product(1, true);
        wgmma_commit();
        wgmma_wait<0>();
        pin(acc);
    }

    // Of this half's tile.
    __device__ __forceinline__ void scores(float (&score)[32]) {
        const uint64_t k = wgmma_descriptor(this->k() + half_ * kStageRowBytes, 1024, 0);
        const uint64_t q = wgmma_descriptor(FLASHMLA_SHORT_SHARED(shared_, q), 1024, 0);
#pragma unroll
        for (int i = 0; i < 32; ++i) score[i] = 0.f;
        pin(score);
        wgmma_fence();
#pragma unroll 1
        for (int c = 0; c < kColumnTiles; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                wgmma_m64n64k16_ss<Bf16>(score, q + ((c * kQTileBytes + i * 32) >> 4), k + ((c * kKTileBytes + i * 32) >> 4),
                                         1);
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
        pin(score);
    }

    // Tokens that do not exist.
    __device__ __forceinline__ void mask(float (&score)[32], int t) {
        uint32_t words[4];
        load_shared_16(words, FLASHMLA_SHORT_SHARED(shared_, valid));
        // A warp's eight bits of this half's tile in each byte.
        uint32_t bits[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) bits[i] = words[i] >> (half_ * 8) & 0x00ff00ff;
        if ((bits[0] & bits[1] & bits[2] & bits[3]) == 0x00ff00ff) return;
        // This thread's columns are 8 k + 2 t and the next: in group k / 2 of 16 tokens, of gather warp
        // 4 (k / 2 % 2) + 2 (k % 2) + t / 2, and therein tokens 2 (t % 2) and the next of quad k / 4.
#pragma unroll
        for (int i = 0; i < 4; ++i) bits[i] >>= t / 2 * 16 + t % 2 * 2;
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const int k = i / 4;
            if (!(bits[k / 2 % 2 * 2 + k % 2] >> (k / 4 * 4 + i % 2) & 1)) score[i] = -INFINITY;
        }
    }

    const SparseDecodeParams& p_;
    const TensorMap* q_map_;
    ShortShared<Layout>& s_;
    const uint32_t shared_;
    const int half_;  // warps 4-7
    const Place place_;
    uint32_t q_phase_ = 0;
    float reference_[2], sum_[2];
};

// The pieces that the plan gives a partition.
template <class Layout>
class Short : ShortPiece<Layout> {
    using ShortPiece<Layout>::p_;
    using ShortPiece<Layout>::half_;
    using ShortPiece<Layout>::place_;
    using ShortPiece<Layout>::reference_;
    using ShortPiece<Layout>::sum_;

  public:
    __device__ __forceinline__ Short(const SparseDecodeParams& p, const TensorMap* q, ShortShared<Layout>& s)
        : ShortPiece<Layout>(p, q, s, Place(p)), pieces_(p, place_.partition) {}

    __device__ __forceinline__ void run() {
        Piece piece;
        while (pieces_.next(p_, piece)) {
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) asm volatile("" : "=f"(acc[i]));
            if (piece.tile_begin >= piece.tile_end) {
                finish_empty(piece);
                continue;
            }
            this->attend(acc, piece, [] {});
            finish(acc, piece);
        }
    }

  private:
    // Of a piece without tiles, which is a whole unit if the plan is for these lengths.
    __device__ __forceinline__ void finish_empty(const Piece& piece) const {
        const int heads = min(p_.h_q - place_.row_block * kHeads, kHeads);
#pragma unroll 1
        for (int i = threadIdx.x; i < heads * (kLatent / 8); i += kShortThreads) {
            const int head = place_.row_block * kHeads + i / (kLatent / 8);
            if (piece.whole) {
                uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + piece.request * p_.out_strides[0] +
                                piece.token * p_.out_strides[1] + head * p_.out_strides[2];
                *reinterpret_cast<uint4*>(out + i % (kLatent / 8) * 8) = make_uint4(0, 0, 0, 0);
            }
            if (i % (kLatent / 8) != 0) continue;
            if (piece.whole) store_lse(p_, piece, head, -INFINITY);
            else if (piece.slot >= 0) *piece_sums(p_, piece.slot, head) = {kNoReference, 0.f};
        }
    }

    __device__ __forceinline__ void finish(float (&acc)[128], const Piece& piece) const {
        if (!piece.whole) {
            store_piece(p_, place_, piece, acc, half_);
            if (half_ == 0) store_piece_sums(p_, place_, piece, reference_, sum_);
            return;
        }
        float scale[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            // The row's largest P is 1; NaN is not empty.
            const bool empty = sum_[h] == 0.f;
            const int head = place_.row_block * kHeads + row_of_thread(h);
            // As in left.cuh.
            float denominator = sum_[h];
            if (p_.attn_sink != 0 && head < p_.h_q) denominator += exp2_approx(sink_log2(p_, head, reference_[h]));
            scale[h] = empty ? 0.f : reciprocal_approx(denominator);
            if (half_ == 0 && threadIdx.x % 4 == 0)
                store_lse(p_, piece, head, empty ? -INFINITY : reference_[h] + log2_approx(sum_[h]));
        }
        if (half_ == 0) {
            store_row<0, true>(p_, place_, piece, acc, scale[0]);
            store_row<1, true>(p_, place_, piece, acc, scale[1]);
        } else {
            store_row<0, false>(p_, place_, piece, acc, scale[0]);
            store_row<1, false>(p_, place_, piece, acc, scale[1]);
        }
    }

    Pieces pieces_;
};

template <class Layout>
__device__ __forceinline__ void run_short(const TensorMap* q, const SparseDecodeParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    ShortShared<Layout>& s = *reinterpret_cast<ShortShared<Layout>*>(dynamic);
    Rendezvous rendezvous(p.rendezvous, p.call);
    if (blockIdx.x >= p.blocks) return combine_pieces<kShortWarps>(p, rendezvous);
    grid_dependency_wait();
    // The plan is asked for before anything else is done.
    Short<Layout> attention(p, q, s);
    if (threadIdx.x == 0) {
        if (smem_address(dynamic) % 1024 != 0) __trap();
        mbarrier_init(smem_address(&s.q_full), 1);
        fence_mbarrier_init();
    }
    begin_telling(p, rendezvous, s);
    __syncthreads();
    attention.run();
    tell(p, rendezvous, s);
}

}  // namespace flashmla::sm90::sparse_decode

#define FLASHMLA_SPARSE_DECODE_SHORT(name, layout)                                                               \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::sparse_decode::kShortThreads, 1)                \
        name(const __grid_constant__ flashmla::TensorMap q,                                                      \
             const __grid_constant__ flashmla::SparseDecodeParams params) {                                      \
        flashmla::sm90::sparse_decode::run_short<flashmla::sm90::sparse_decode::layout>(&q, params);             \
    }
