// Short pieces in clusters: what the blocks of a cluster hand each other.
//
// Of each column tile of its accumulators a block makes a *record*, or two, for who adds up these columns: FP16, in units
// of a power of two for each row: 11 bits of the largest element and of what is up to 2^29 times smaller. That is half of
// the way, and the sum of 16 such roundings is 8 times finer than the one to BF16 that follows. Records are written from
// registers to where the other block had Q.
//
// A record has the rows' units, and the numbers by *part* (16 rows), *group* and lane: a group is what a thread holds of 16
// columns, four numbers each of two neighbouring eights. Parts without heads are not sent.
#pragma once
#include "common/cluster.cuh"
#include "common/numeric.cuh"
#include "sm90/sparse_decode/short_config.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr int kTileGroups = kColumnTile / 16;
constexpr int kLatentTiles = kLatent / kColumnTile;

template <class Layout>
struct Records {
    const uint32_t shared;
    const int parts;  // that have heads
    const int blocks, rank;
    const int shift;  // 2^shift of the blocks have a slice of the columns each

    __device__ __forceinline__ Records(uint32_t shared, int parts)
        : shared(shared), parts(parts), blocks(cluster_blocks()), rank(cluster_rank()), shift(31 - __clz(blocks)) {}

    // Whether this block has a slice.
    __device__ __forceinline__ bool adds() const { return rank >> shift == 0; }
    __device__ __forceinline__ int slice_groups() const { return kLatent / 16 >> shift; }
    __device__ __forceinline__ int slice_tiles() const { return max(kLatentTiles >> shift, 1); }

    __device__ __forceinline__ uint32_t rows_barrier() const { return FLASHMLA_SHORT_SHARED(shared, rows_received); }
    __device__ __forceinline__ uint32_t barrier() const { return FLASHMLA_SHORT_SHARED(shared, records_received); }

    // So much comes, of so many other blocks.
    __device__ __forceinline__ void expect(int others) const {
        if (!adds()) others = 0;
        mbarrier_arrive_expect_tx(rows_barrier(), others * int(sizeof(PieceRows)));
        mbarrier_arrive_expect_tx(barrier(), others * slice_tiles() * bytes());
    }

    // What `block`'s rows are relative to: this block's by itself.
    __device__ __forceinline__ uint32_t rows(int block) const {
        return FLASHMLA_SHORT_SHARED(shared, relative) + block * int(sizeof(PieceRows));
    }
    // The record of `block` of a column tile of a slice, and from there to the next block's.
    __device__ __forceinline__ uint32_t record(int block, int tile) const {
        return FLASHMLA_SHORT_SHARED(shared, q) + block * record_stride() + tile * kRecordBytes;
    }
    __device__ __forceinline__ int record_stride() const {
        return halves() ? kHalfRecordBytes : slice_tiles() * kRecordBytes;
    }
    // Where the numbers of a group of a column tile lie in it, and the units of the two rows of a thread: the upper halves
    // of two FP32.
    __device__ __forceinline__ int numbers(int part, int group) const {
        return kUnitsBytes + (part * groups() + (group & (groups() - 1))) * kGroupBytes;
    }
    static __device__ __forceinline__ int units(int part, int lane) { return (part * 8 + lane / 4) * 4; }

    // Hands a column tile of the accumulators to whom it is for.
    __device__ __forceinline__ void hand_on(const float (&acc)[32], int column_tile, int warp, int lane) const {
        if (__all_sync(~0u, warp >= parts)) return;
        float scale[2];
        uint32_t both = 0;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = largest<false>(acc, h);
            if (__any_sync(~0u, top == INFINITY)) top = largest<true>(acc, h);
            // The largest becomes 2^14 or more, and less than 2^15.
            const uint32_t exponent = min(254 + 14 - (__float_as_uint(top) >> 23), 253u);
            scale[h] = __uint_as_float(exponent << 23);
            both |= (254 - exponent) << (7 + h * 16);
        }
        const uint32_t at = record(rank, column_tile & (slice_tiles() - 1));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            // Half of it, which may be for another block than the other half.
            const int to = (column_tile << shift >> 3) + i * halves();
            const bool here = __all_sync(~0u, to == rank);
            const uint32_t there = cluster_address(at, to), barrier = cluster_address(this->barrier(), to);
            if (lane % 4 == 0 && (i == 0 || halves())) {
                if (here) store_shared(at + units(warp, lane), both);
                else store_to_cluster(there + units(warp, lane), both, barrier);
            }
            const uint32_t lanes = numbers(warp, i * 2) + lane * 16;
#pragma unroll
            for (int group = 0; group < 2; ++group) {
                uint32_t x[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int from = (i * 2 + group) * 8 + j * 2;
                    x[j] = Fp16::pack(acc[from] * scale[j % 2], acc[from + 1] * scale[j % 2]);
                }
                if (here) store_shared_16(at + lanes + group * kGroupBytes, x[0], x[1], x[2], x[3]);
                else store_to_cluster_16(there + lanes + group * kGroupBytes, x[0], x[1], x[2], x[3], barrier);
            }
        }
    }

    // To all others: what the rows are relative to.
    __device__ __forceinline__ void send_rows(int lane) const {
        if (lane >> shift != 0 || lane == rank) return;
        copy_to_cluster(cluster_address(rows(rank), lane), rows(rank), sizeof(PieceRows),
                        cluster_address(rows_barrier(), lane));
    }

  private:
    static constexpr int kGroupBytes = 32 * 16;
    static_assert(kLatentTiles == 8 && kMaxCluster == 2 * kLatentTiles);

    static __device__ __forceinline__ int cluster_blocks() {
        uint32_t blocks;
        asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(blocks));
        return blocks;
    }

    // Whether a slice is half of a column tile: there are 16.
    __device__ __forceinline__ bool halves() const { return shift > 3; }
    __device__ __forceinline__ int groups() const { return halves() ? kTileGroups / 2 : kTileGroups; }
    __device__ __forceinline__ int bytes() const { return parts * (kUnitsBytes / (kHeads / 16) + groups() * kGroupBytes); }

    // The largest finite magnitude of a thread's row.
    template <bool kCareful>
    static __device__ __forceinline__ float largest(const float (&acc)[32], int h) {
        float top[2] = {};
#pragma unroll
        for (int i = 0; i < 32; i += 4) {
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
};

}  // namespace flashmla::sm90::sparse_decode
