// Short pieces in clusters: the blocks of a cluster share out the tiles of one unit (64 heads of it), and add up what they
// have by handing it to each other. No plan is read, nothing passes through memory, and nothing is waited for but the
// neighbours.
//
//   R = max_i r_i,  out = sum_i 2^(r_i - R) acc_i / sum_i 2^(r_i - R) s_i,
//
// acc_i being the accumulator of block i, relative to the reference r_i of the row, and s_i the sum of its weights. Blocks
// 0 .. 2^n - 1 do that, as many as there are of the cluster, each for a *slice* of the columns that comes to it of all
// accumulators (short_records.cuh). The order of addition is that of the blocks.
//
// Time is what code takes that comes from memory. So one more cluster, if it fits, is the *forerunner*: it does what the
// others do, for tokens that do not exist, and writes nothing. It waits for no rows, so what it runs is in L2 when the
// others get there.
//
// A block of one step computes a column tile after the other, and hands one on while it computes the next.
#pragma once
#include "common/cluster.cuh"
#include "common/named_barrier.cuh"
#include "common/sink.cuh"
#include "sm90/sparse_decode/short.cuh"
#include "sm90/sparse_decode/short_records.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class ShortCluster : ShortPiece<Layout> {
    using ShortPiece<Layout>::p_;
    using ShortPiece<Layout>::s_;
    using ShortPiece<Layout>::shared_;
    using ShortPiece<Layout>::half_;
    using ShortPiece<Layout>::place_;
    using ShortPiece<Layout>::reference_;
    using ShortPiece<Layout>::sum_;
    static constexpr int kHalfTiles = kColumns / kColumnTile;  // of the columns of a half

  public:
    __device__ __forceinline__ ShortCluster(const SparseDecodeParams& p, const TensorMap* q, ShortShared<Layout>& s)
        : ShortPiece<Layout>(p, q, s, place(p)), records_(shared_, parts(p, place_)) {}

    __device__ __forceinline__ void run() {
        const Unit unit(place_.partition, p_.tokens, p_.tokens_magic, p_.tokens_shift);
        Piece piece;
        piece.request = unit.request;
        piece.token = unit.token;
        piece.tokens = first_tokens(p_, unit);
        piece.extra_tokens = extra_tokens(p_, unit);
        const int tiles = tiles_of(piece.tokens) + tiles_of(piece.extra_tokens);
        // As if none of them existed.
        if (place_.row_block == p_.row_blocks) piece.tokens = piece.extra_tokens = 0;
        const int each = ceil_quotient(tiles, records_.blocks);
        piece.tile_begin = min(records_.rank * each, tiles);
        piece.tile_end = min(piece.tile_begin + each, tiles);
        // Blocks that have tiles: the first of the cluster.
        const int senders = each == 0 ? 0 : ceil_quotient(tiles, each);
        const bool sends = piece.tile_begin < piece.tile_end;
        if (threadIdx.x == 0) records_.expect(senders - sends);
        if (!sends) {
            cluster_arrive_relaxed();
            cluster_wait();
        } else if (piece.tile_end - piece.tile_begin <= kStepTiles) {
            attend_once(piece);
        } else {
            attend_in_steps(piece);
        }
        __syncthreads();
        if (records_.adds()) {
            mbarrier_wait(records_.rows_barrier(), 0);
            __syncwarp();
            weigh(piece, senders);
            mbarrier_wait(records_.barrier(), 0);
        }
        __syncthreads();
        // Here is all that comes, so it has left where it was.
        cluster_arrive_relaxed();
        if (records_.adds()) add(piece, senders);
        cluster_wait();
    }

  private:
    static __device__ __forceinline__ Place place(const SparseDecodeParams& p) {
        uint32_t cluster;
        asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(cluster));
        // The forerunner has no heads.
        if (cluster >= p.units * p.row_blocks) return Place(p.row_blocks, 0);
        return Place(cluster % p.row_blocks, cluster / p.row_blocks);
    }

    // 16 rows each, that have heads; all of the forerunner's.
    static __device__ __forceinline__ int parts(const SparseDecodeParams& p, const Place& place) {
        const int heads = place.row_block == p.row_blocks ? kHeads : min(p.h_q - place.row_block * kHeads, kHeads);
        return (heads + 15) / 16;
    }

    // Of small numbers, in fewer instructions than a division has.
    static __device__ __forceinline__ int ceil_quotient(int a, int b) {
        return int(__fdividef(float(a + b - 1) + 0.5f, float(b)));
    }

    // A piece of one step.
    __device__ __forceinline__ void attend_once(const Piece& piece) {
        const ShortGather<Layout> gather(p_, shared_);
        this->begin(piece);
        auto asked = gather.begin(piece, piece.tile_begin, gather.entry(piece, piece.tile_begin));
        gather.finish(asked);
        const int tiles = piece.tile_end - piece.tile_begin;
        float rescale[2];
        this->weigh_tokens(rescale, false, tiles, [] { cluster_arrive_relaxed(); });
        say_rows();
        // One column tile is computed while the one before is handed on: what lies between must not diverge, for all that
        // ptxas knows, or it waits at once.
        float acc[32];
        begin_product(acc, column_tile_of_turn(0), tiles);
#pragma unroll 1
        for (int i = 0; i < kHalfTiles; ++i) {
            float part[32];
            wgmma_wait<0>();
            pin(acc);
#pragma unroll
            for (int j = 0; j < 32; ++j) part[j] = acc[j];
            pin(part);
            if (__all_sync(~0u, i + 1 < kHalfTiles)) begin_product(acc, column_tile_of_turn(i + 1), tiles);
            hand_on(part, column_tile_of_turn(i));
        }
    }

    // A piece of more steps. From the last scores on the others may write to where Q was.
    __device__ __forceinline__ void attend_in_steps(const Piece& piece) {
        float acc[128];
#pragma unroll
        for (int i = 0; i < 128; ++i) asm volatile("" : "=f"(acc[i]));
        this->attend(acc, piece, [] { cluster_arrive_relaxed(); });
        say_rows();
#pragma unroll 1
        for (int i = 0; i < kHalfTiles; ++i) {
            const int column_tile = column_tile_of_turn(i);
            float part[32];
#pragma unroll
            for (int t = 0; t < kHalfTiles; ++t) {
                if (t > 0 && column_tile % kHalfTiles != t) continue;
#pragma unroll
                for (int j = 0; j < 32; ++j) part[j] = acc[t * 32 + j];
            }
            hand_on(part, column_tile);
        }
    }

    // Not all blocks begin with the same one, so not all send to the same neighbours at a time.
    __device__ __forceinline__ int column_tile_of_turn(int i) const {
        return half_ * kHalfTiles + ((i + records_.rank) & (kHalfTiles - 1));
    }

    // P V of a column tile.
    __device__ __forceinline__ void begin_product(float (&acc)[32], int column_tile, int tiles) const {
        const uint64_t v = wgmma_descriptor(this->k() + column_tile * kKTileBytes, 1024, 0);
        const uint64_t p = wgmma_descriptor(this->p_at(), 1024, 0);
#pragma unroll
        for (int i = 0; i < 32; ++i) acc[i] = 0.f;
        pin(acc);
        wgmma_fence();
        const auto of_tile = [&](int tile) {
#pragma unroll
            for (int i = 0; i < kTokens / 16; ++i)
                wgmma_m64n64k16_sv(acc, p + (tile * (kQTileBytes >> 4) + i * 2),
                                   v + ((tile * kStageRowBytes + i * 16 * 128) >> 4));
        };
        of_tile(0);
        if (__all_sync(~0u, tiles > 1)) of_tile(1);
        wgmma_commit();
    }

    // What the rows are relative to, when the others are done with their Q. Every thread of a row knows that.
    __device__ __forceinline__ void say_rows() const {
        const int row = row_of_thread(0);
        if (half_ == 0) {
            if (threadIdx.x % 4 == 0) {
                PieceRows& rows = s_.relative[records_.rank];
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    rows.reference[row + h * 8] = reference_[h];
                    rows.sum[row + h * 8] = sum_[h];
                }
            }
            fence_proxy_async();
            named_barrier_sync(1, 128);
        }
        cluster_wait();
        if (threadIdx.x < 32) records_.send_rows(threadIdx.x);
        __syncwarp();
    }

    __device__ __forceinline__ void hand_on(const float (&acc)[32], int column_tile) const {
        const uint32_t thread = thread_now();
        records_.hand_on(acc, column_tile, thread / 32 % 4, thread % 32);
    }

    // What the accumulators of a row are multiplied by, but for their units, by block and row; where P was.
    __device__ __forceinline__ uint32_t weights() const { return this->p_at(); }

    // Four threads a row.
    __device__ __forceinline__ void weigh(const Piece& piece, int senders) const {
        const int row = threadIdx.x / 4, first = threadIdx.x % 4, head = place_.row_block * kHeads + row;
        constexpr int kEach = kMaxCluster / 4;
        const uint32_t rows = records_.rows(first) + row * 4;
        float weight[kEach], highest = kNoReference, total = 0.f;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            weight[i] = kNoReference;
            if (first + i * 4 < senders) weight[i] = __uint_as_float(load_shared(rows + i * 4 * int(sizeof(PieceRows))));
            highest = fmaxf(highest, weight[i]);
        }
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            weight[i] = exp2_approx(weight[i] - highest);
            if (first + i * 4 < senders)
                total += weight[i] * __uint_as_float(load_shared(rows + i * 4 * int(sizeof(PieceRows)) +
                                                                 uint32_t(offsetof(PieceRows, sum))));
        }
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        // NaN is not empty.
        const bool empty = total == 0.f;
        float denominator = total;
        if (p_.attn_sink != 0 && head < p_.h_q) denominator += exp2_approx(sink_log2(p_, head, highest));
        const float scale = empty ? 0.f : reciprocal_approx(denominator);
        const uint32_t to = weights() + (first * kHeads + row) * 4;
#pragma unroll
        for (int i = 0; i < kEach; ++i) store_shared(to + i * 4 * kHeads * 4, weight[i] * scale);
        if (records_.rank == 0 && first == 0) store_lse(p_, piece, head, empty ? -INFINITY : highest + log2_approx(total));
    }

    // This block's columns of the output.
    __device__ __forceinline__ void add(const Piece& piece, int senders) const {
        const int groups = records_.slice_groups(), items = records_.parts * 32 * groups;
#pragma unroll 1
        for (int item = threadIdx.x; item < items; item += kShortThreads) {
            const int lane = item % 32, group = item / 32 & (groups - 1), part = item / 32 >> (5 - records_.shift);
            const int row = part * 16 + lane / 4;
            const uint32_t record = records_.record(0, group / kTileGroups);
            uint32_t numbers = record + records_.numbers(part, group) + lane * 16;
            uint32_t units = record + records_.units(part, lane), weights = this->weights() + row * 4;
            float2 sum[4] = {};
#pragma unroll 2
            for (int block = 0; block < senders; ++block) {
                uint32_t x[4];
                load_shared_16(x, numbers);
                const uint32_t both = load_shared(units);
                const float factor[2] = {__uint_as_float(load_shared(weights)) * __uint_as_float(both << 16),
                                         __uint_as_float(load_shared(weights + 32)) * __uint_as_float(both & 0xffff0000)};
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float2 y = __half22float2(*reinterpret_cast<const __half2*>(&x[j]));
                    sum[j].x += factor[j % 2] * y.x;
                    sum[j].y += factor[j % 2] * y.y;
                }
                numbers += records_.record_stride();
                units += records_.record_stride();
                weights += kHeads * 4;
            }
            uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + piece.request * p_.out_strides[0] +
                            piece.token * p_.out_strides[1] + (records_.rank * groups + group) * 16 + lane % 4 * 2;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int head = place_.row_block * kHeads + row + h * 8;
                if (head >= p_.h_q) continue;
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    *reinterpret_cast<uint32_t*>(out + head * p_.out_strides[2] + j * 8) =
                        Bf16::pack(sum[j * 2 + h].x, sum[j * 2 + h].y);
                }
            }
        }
    }

    const Records<Layout> records_;
};

template <class Layout>
__device__ __forceinline__ void run_short_cluster(const TensorMap* q, const SparseDecodeParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    ShortShared<Layout>& s = *reinterpret_cast<ShortShared<Layout>*>(dynamic);
    if (threadIdx.x == 0) {
        if (smem_address(dynamic) % 1024 != 0) __trap();
        mbarrier_init(smem_address(&s.q_full), 1);
        mbarrier_init(smem_address(&s.rows_received), 1);
        mbarrier_init(smem_address(&s.records_received), 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    grid_dependency_wait();
    ShortCluster<Layout>(p, q, s).run();
}

}  // namespace flashmla::sm90::sparse_decode

#define FLASHMLA_SPARSE_DECODE_CLUSTER(name, layout)                                                             \
    extern "C" __global__ void __launch_bounds__(flashmla::sm90::sparse_decode::kShortThreads, 1)                \
        name(const __grid_constant__ flashmla::TensorMap q,                                                      \
             const __grid_constant__ flashmla::SparseDecodeParams params) {                                      \
        flashmla::sm90::sparse_decode::run_short_cluster<flashmla::sm90::sparse_decode::layout>(&q, params);     \
    }
