// Short pieces in clusters: the blocks of a cluster share out the tiles of one unit (64 heads of it), and add up what they
// have by handing it to each other. No plan is read, nothing passes through memory, and nothing is waited for but the
// neighbours.
//
//   R = max_i r_i,  out = sum_i 2^(r_i - R) acc_i / sum_i 2^(r_i - R) s_i,
//
// acc_i being the accumulator of block i, relative to the reference r_i of the row, and s_i the sum of its weights. Each
// block does that for a slice of the columns: it gets that slice of all accumulators, in its shared memory, where Q was.
// They come as FP16, in units of a power of two for each row and half of the columns: 11 bits of the largest element and of
// what is up to 2^29 times smaller. That is half of the way, which takes most of the time, and the sum of 16 such
// roundings is 8 times finer than the one to BF16 that follows. The order of addition is that of the blocks.
//
// A *group* is what a thread sends at a time: its four numbers of 8 columns and two rows, of two neighbouring eights.
#pragma once
#include "common/cluster.cuh"
#include "common/sink.cuh"
#include "sm90/sparse_decode/short.cuh"

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
    static constexpr int kGroups = kLatent / 16;  // of a row
    static constexpr int kGroupBytes = 32 * 16;   // of a warp

  public:
    __device__ __forceinline__ ShortCluster(const SparseDecodeParams& p, const TensorMap* q, ShortShared<Layout>& s)
        : ShortPiece<Layout>(p, q, s, place(p)), blocks_(cluster_blocks()), rank_(cluster_rank()),
          slice_shift_(__ffs(kGroups) - __ffs(blocks_)) {}

    __device__ __forceinline__ void run() {
        const Unit unit(place_.partition, p_.tokens, p_.tokens_magic, p_.tokens_shift);
        Piece piece;
        piece.request = unit.request;
        piece.token = unit.token;
        piece.tokens = first_tokens(p_, unit);
        piece.extra_tokens = extra_tokens(p_, unit);
        const int tiles = tiles_of(piece.tokens) + tiles_of(piece.extra_tokens);
        const int each = (tiles + blocks_ - 1) / blocks_;
        piece.tile_begin = min(rank_ * each, tiles);
        piece.tile_end = min(piece.tile_begin + each, tiles);
        // Blocks that have tiles: the first of the cluster.
        const int senders = each == 0 ? 0 : (tiles + each - 1) / each;
        const bool sends = piece.tile_begin < piece.tile_end;
        if (threadIdx.x == 0) {
            const int others = senders - sends;
            mbarrier_arrive_expect_tx(rows_received(), others * int(sizeof(PieceRows)));
            mbarrier_arrive_expect_tx(slices_received(), others * slice_bytes());
        }
        if (sends) {
            float acc[128];
#pragma unroll
            for (int i = 0; i < 128; ++i) asm volatile("" : "=f"(acc[i]));
            // From then on the others may write to where Q was.
            this->attend(acc, piece, [] { cluster_arrive(); });
            leave(acc);
        } else {
            cluster_arrive();
        }
        fence_proxy_async();
        __syncthreads();
        cluster_wait();
        if (sends && threadIdx.x + 1 < blocks_) send();
        __syncwarp();
        mbarrier_wait(rows_received(), 0);
        __syncwarp();
        weigh(piece, senders);
        mbarrier_wait(slices_received(), 0);
        __syncthreads();
        // Here is all that comes, so it has left where it was.
        cluster_arrive();
        add(piece, senders);
        cluster_wait();
    }

  private:
    static __device__ __forceinline__ int cluster_blocks() {
        uint32_t blocks;
        asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
        return blocks;
    }

    static __device__ __forceinline__ Place place(const SparseDecodeParams& p) {
        uint32_t cluster;
        asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(cluster));
        return Place(cluster % p.row_blocks, cluster / p.row_blocks);
    }

    __device__ __forceinline__ uint32_t rows_received() const { return FLASHMLA_SHORT_SHARED(shared_, rows_received); }
    __device__ __forceinline__ uint32_t slices_received() const { return FLASHMLA_SHORT_SHARED(shared_, slices_received); }
    __device__ __forceinline__ uint32_t staged() const { return FLASHMLA_SHORT_SHARED(shared_, k); }
    __device__ __forceinline__ uint32_t staged_rows() const { return staged() + kSlicesBytes; }
    __device__ __forceinline__ uint32_t slices() const { return FLASHMLA_SHORT_SHARED(shared_, q); }
    // Where `block` writes what its slice is relative to, and where that is to be read.
    __device__ __forceinline__ uint32_t rows_from(int block) const { return slices() + kSlicesBytes + block * int(sizeof(PieceRows)); }
    __device__ __forceinline__ uint32_t rows(int block) const { return block == rank_ ? staged_rows() : rows_from(block); }
    __device__ __forceinline__ uint32_t slice(int block) const {
        return block == rank_ ? staged() + block * slice_stride() : slices() + block * slice_stride();
    }
    // Of the columns of this block: what each accumulator is multiplied by, [block][row].
    __device__ __forceinline__ uint32_t factors() const { return staged() + 2 * kSlicesBytes; }

    // Blocks of 16 rows that have heads.
    __device__ __forceinline__ int parts() const {
        return min((p_.h_q - place_.row_block * kHeads + 15) / 16, kHeads / 16);
    }
    // A slice has all rows of these, and 2^slice_shift_ groups of columns: [part][group][lane].
    __device__ __forceinline__ int part_bytes() const { return kGroupBytes << slice_shift_; }
    __device__ __forceinline__ int slice_bytes() const { return parts() * part_bytes(); }
    // Between the slices of two blocks.
    __device__ __forceinline__ int slice_stride() const { return kHeads / 16 * part_bytes(); }

    // The largest finite magnitude of a thread's row in its columns.
    template <bool kCareful>
    static __device__ __forceinline__ float largest(const float (&acc)[128], int h) {
        float top[2] = {};
#pragma unroll
        for (int i = 0; i < 128; i += 4) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float x = fabsf(acc[i + h * 2 + j]);
                // NaN is passed over.
                if (!kCareful || x < INFINITY) top[j] = fmaxf(top[j], x);
            }
        }
        const float of_row = fmaxf(top[0], top[1]);
        const float of_two = fmaxf(of_row, __shfl_xor_sync(~0u, of_row, 1));
        return fmaxf(of_two, __shfl_xor_sync(~0u, of_two, 2));
    }

    // The accumulator as FP16 to where it is sent from, by the block that it is for.
    __device__ __forceinline__ void leave(const float (&acc)[128]) const {
        const uint32_t thread = thread_now();
        const int lane = thread % 32, warp = thread / 32 % 4;
        if (warp >= parts()) return;
        float scale[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = largest<false>(acc, h);
            if (__any_sync(~0u, top == INFINITY)) top = largest<true>(acc, h);
            // The largest becomes 2^14 or more, and less than 2^15.
            const uint32_t exponent = min(254 + 14 - (__float_as_uint(top) >> 23), 253u);
            scale[h] = __uint_as_float(exponent << 23);
            if (lane % 4 == 0) {
                const int row = warp * 16 + h * 8 + lane / 4;
                const uint32_t to = staged_rows() + row * 4;
                store_shared_u16(to + uint32_t(offsetof(PieceRows, unit)) + half_ * 2, (254 - exponent) << 7);
                if (half_ == 0) {
                    store_shared(to + uint32_t(offsetof(PieceRows, reference)), reference_[h]);
                    store_shared(to + uint32_t(offsetof(PieceRows, sum)), sum_[h]);
                }
            }
        }
        const uint32_t to = staged() + warp * part_bytes() + lane * 16;
#pragma unroll
        for (int i = 0; i < kGroups / 2; ++i) {
            uint32_t x[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = i * 8 + j * 2;
                x[j] = Fp16::pack(acc[at] * scale[j % 2], acc[at + 1] * scale[j % 2]);
            }
            const int group = half_ * (kGroups / 2) + i;
            store_shared_16(to + (group >> slice_shift_) * slice_stride() + (group & ((1 << slice_shift_) - 1)) * kGroupBytes,
                            x[0], x[1], x[2], x[3]);
        }
    }

    // To each other block of the cluster its slice, by a thread, and before that what it is relative to. No two blocks begin
    // with the same one.
    __device__ __forceinline__ void send() const {
        const int to = (rank_ + 1 + threadIdx.x) & (blocks_ - 1);
        copy_to_cluster(cluster_address(rows_from(rank_), to), staged_rows(), sizeof(PieceRows), cluster_address(rows_received(), to));
        copy_to_cluster(cluster_address(slices() + rank_ * slice_stride(), to), staged() + to * slice_stride(), slice_bytes(),
                        cluster_address(slices_received(), to));
    }

    // What the accumulators of a row are multiplied by: four threads a row.
    __device__ __forceinline__ void weigh(const Piece& piece, int senders) const {
        const int row = threadIdx.x / 4, first = threadIdx.x % 4, head = place_.row_block * kHeads + row;
        constexpr int kEach = kMaxCluster / 4;
        float weight[kEach], highest = kNoReference, total = 0.f;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int block = first + i * 4;
            weight[i] = kNoReference;
            if (block < senders) weight[i] = __uint_as_float(load_shared(rows(block) + row * 4));
            highest = fmaxf(highest, weight[i]);
        }
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int block = first + i * 4;
            weight[i] = exp2_approx(weight[i] - highest);
            if (block < senders)
                total += weight[i] * __uint_as_float(load_shared(rows(block) + uint32_t(offsetof(PieceRows, sum)) + row * 4));
        }
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        // NaN is not empty.
        const bool empty = total == 0.f;
        float denominator = total;
        if (p_.attn_sink != 0 && head < p_.h_q) denominator += exp2_approx(sink_log2(p_, head, highest));
        const float scale = empty ? 0.f : reciprocal_approx(denominator);
        // Blocks of the lower half have columns of the left half.
        const int half = 2 * rank_ >= blocks_;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int block = first + i * 4;
            if (block >= senders) continue;
            const uint32_t units = load_shared(rows(block) + uint32_t(offsetof(PieceRows, unit)) + row * 4);
            const float unit = __uint_as_float(half ? units & 0xffff0000 : units << 16);
            store_shared(factors() + (block * kHeads + row) * 4, weight[i] * scale * unit);
        }
        if (rank_ == 0 && first == 0) store_lse(p_, piece, head, empty ? -INFINITY : highest + log2_approx(total));
    }

    // This block's columns of the output.
    __device__ __forceinline__ void add(const Piece& piece, int senders) const {
        const int items = parts() * 32 << slice_shift_;
#pragma unroll 1
        for (int item = threadIdx.x; item < items; item += kShortThreads) {
            const int lane = item % 32, group = item / 32 & ((1 << slice_shift_) - 1), part = item / 32 >> slice_shift_;
            const int row = part * 16 + lane / 4;
            float2 sum[4] = {};
#pragma unroll 4
            for (int block = 0; block < senders; ++block) {
                uint32_t x[4];
                load_shared_16(x, slice(block) + item * 16);
                const uint32_t at = factors() + (block * kHeads + row) * 4;
                const float factor[2] = {__uint_as_float(load_shared(at)), __uint_as_float(load_shared(at + 32))};
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float2 y = __half22float2(*reinterpret_cast<const __half2*>(&x[j]));
                    sum[j].x += factor[j % 2] * y.x;
                    sum[j].y += factor[j % 2] * y.y;
                }
            }
            uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + piece.request * p_.out_strides[0] +
                            piece.token * p_.out_strides[1] + ((rank_ << slice_shift_) + group) * 16 + lane % 4 * 2;
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

    const int blocks_, rank_;
    const int slice_shift_;
};

template <class Layout>
__device__ __forceinline__ void run_short_cluster(const TensorMap* q, const SparseDecodeParams& p) {
    extern __shared__ __align__(1024) uint8_t dynamic[];
    ShortShared<Layout>& s = *reinterpret_cast<ShortShared<Layout>*>(dynamic);
    if (threadIdx.x == 0) {
        if (smem_address(dynamic) % 1024 != 0) __trap();
        mbarrier_init(smem_address(&s.q_full), 1);
        mbarrier_init(smem_address(&s.rows_received), 1);
        mbarrier_init(smem_address(&s.slices_received), 1);
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
