// Filling the ring: what a side of the output warps does for its columns.
//
// Item after item: Q of a query, then its tiles. Warp w copies rows 16w .. 16w + 15 of a tile; lane l knows the
// index of row l % 16 of these, fetched one item ahead.
#pragma once
#include "common/async_copy.cuh"
#include "common/tma.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// A column tile of Q, 64 heads of a token. Heads past the last arrive as zeros.
__device__ __forceinline__ void copy_q(const TensorMap* map, const Query& query, int column, uint32_t to,
                                       uint32_t barrier) {
    tma_load_5d(to, map, barrier, 0, query.head, column, query.token, 0);
}

template <int kHeadDim, int kSide>
class Gather {
  public:
    __device__ __forceinline__ Gather(const SparsePrefillParams& p, const TensorMap* q, Shared& s, uint32_t shared)
        : p_(p), q_(q), queries_(s.warp_queries[threadIdx.x / 32 - 4]), shared_(shared) {
        const uint32_t warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        // Through a shuffle, lest ptxas (13.0) make the sum part of an address: a copy with a cache hint and two uniform
        // registers is an instruction that the hardware does not know.
        to_ = __shfl_sync(~0u, shared + swizzle_128b(warp * 16 + lane / 8, lane % 8), lane);
        from_ = __shfl_sync(~0u, kSide * (kLatent / 2) * 2 + lane % 8 * 16, lane);
        set_next(blockIdx.x / p.head_blocks, blockIdx.x % p.head_blocks);
        tiles_ = tile_ = 0;
    }

    // Goes on to the next item: its indices are asked for, in time before it is issued.
    __device__ __forceinline__ void advance() {
        if (tile_ + 1 < tiles_) {
            ++tile_;
        } else {
            tile_ = -1;
            next_query();
            return;
        }
        const int at = tile_ * kTokens + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16;
        index_ = -1;
        if (at < queries_.length)
            index_ = reinterpret_cast<const int*>(p_.indices)[queries_.token * p_.indices_stride + at];
    }

    // The item at hand, into a stage that nobody reads any more.
    __device__ __forceinline__ void issue(int stage) {
        issued_tile_ = tile_ >= 0;
        issued_index_ = index_;
        const uint32_t full = full_at(shared_, stage, kSide);
        if (tile_ >= 0) {
            issue_tile(stage, full);
        } else {
            issue_query(stage, full);
        }
        __syncwarp();
    }

    // Whether the item issued last is a tile, and this lane's index of it.
    __device__ __forceinline__ bool issued_tile() const { return issued_tile_; }
    __device__ __forceinline__ int issued_index() const { return issued_index_; }
    // The item at hand says that there is no further one.
    __device__ __forceinline__ bool done() const { return tiles_ < 0; }

    // The rotary part of this warp's rows of a tile, if they are of half `kSide`.
    __device__ __forceinline__ void rope(int index, uint32_t phase) {
        if (threadIdx.x / 64 % 2 != kSide) return;
        mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_empty) + kSide * 8, phase);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Row row(p_, index, j);
            cp_async_16(row_at(FLASHMLA_SHARED(to_, k_rope), j), row.at + from_ + (kLatent * 2 - kSide * (kLatent / 2) * 2),
                        row.valid, kEvictLast);
        }
        cp_async_mbarrier_arrive(FLASHMLA_SHARED(shared_, k_rope_full) + kSide * 8);
    }

  private:
    // Row 4j + lane / 8 of the warp's: the index that another lane knows.
    struct Row {
        bool valid;
        const uint8_t* at;

        __device__ __forceinline__ Row(const SparsePrefillParams& p, int indices, int j) {
            const int index = __shfl_sync(~0u, indices, j * 4 + threadIdx.x % 32 / 8);
            valid = uint32_t(index) < uint32_t(p.s_kv);
            at = reinterpret_cast<const uint8_t*>(p.kv) + (valid ? index * p.kv_row_bytes : 0);
        }
    };

    // Where this lane's 16 bytes of that row go.
    __device__ __forceinline__ uint32_t row_at(uint32_t base, int j) const {
        return (j % 2 ? (base + 512) ^ 64 : base) + j / 2 * 1024;
    }

    __device__ __forceinline__ void issue_tile(int stage, uint32_t full) {
        const uint32_t to = side_at(to_, stage, kSide);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Row row(p_, index_, j);
#pragma unroll
            for (int c = 0; c < kTilesPerSide; ++c)
                cp_async_16(row_at(to, j) + c * kTileBytes, row.at + from_ + c * 128, row.valid, kEvictLast);
        }
        cp_async_mbarrier_arrive(full);
        const int lane = threadIdx.x % 32;
        if constexpr (kSide == 0) {
            const uint32_t seen = __ballot_sync(~0u, uint32_t(index_) < uint32_t(p_.s_kv));
            if (lane == 0) {
                const uint32_t at = FLASHMLA_SHARED(shared_, seen) + stage * 8 + threadIdx.x / 32 % 4 * 2;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(uint16_t(seen)) : "memory");
            }
        }
        if (lane == 0) mbarrier_arrive(full);
    }

    __device__ __forceinline__ void issue_query(int stage, uint32_t full) {
        mbarrier_arrive(full);
        if (threadIdx.x % 32 != 0) return;
        if (threadIdx.x / 32 % 4 != 0) {
            mbarrier_arrive(full);
            return;
        }
        const Query query = {queries_.token, queries_.head, tiles_, 0};
        const uint32_t at = FLASHMLA_SHARED(shared_, query) + (kSide * kStages + stage) * uint32_t(sizeof(Query));
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(query.token), "r"(query.head),
                     "r"(query.tiles), "r"(0)
                     : "memory");
        if (tiles_ <= 0) {
            mbarrier_arrive(full);
            return;
        }
        // What was written here by ordinary copies before is overwritten by the copy engine.
        fence_proxy_async();
        constexpr int kFirst = kSide * kTilesPerSide;
        constexpr int kTiles = kFirst + kTilesPerSide > kRegisterTiles ? kRegisterTiles - kFirst : kTilesPerSide;
        mbarrier_arrive_expect_tx(full, kTiles * kTileBytes);
#pragma unroll 1
        for (int c = 0; c < kTiles; ++c)
            copy_q(q_, query, kFirst + c, side_at(shared_, stage, kSide) + c * kTileBytes, full);
        if constexpr (kSide == 1) {
            // The others have to wait for their buffer, and should be in L2 then.
#pragma unroll 1
            for (int c = kRegisterTiles; c < kHeadDim / kColumnTile; ++c)
                tma_prefetch_5d(q_, 0, query.head, c, query.token, 0);
        }
    }

    // Takes the next query, and asks for the length of the one after.
    __device__ __forceinline__ void next_query() {
        uint32_t token = queries_.next_token;
        if (token >= uint32_t(p_.s_q)) {
            tiles_ = -1;
            return;
        }
        int block = queries_.next_block;
        const int length = min(max(queries_.next_length, 0), p_.topk);
        tiles_ = length / kTokens + (length % kTokens != 0);
        __syncwarp();
        if (threadIdx.x % 32 == 0) queries_.token = int(token), queries_.head = block * kRows, queries_.length = length;
        token += p_.step_tokens;
        block += p_.step_blocks;
        if (block >= p_.head_blocks) {
            block -= p_.head_blocks;
            ++token;
        }
        set_next(token, block);
    }

    __device__ __forceinline__ void set_next(uint32_t token, int block) {
        if (threadIdx.x % 32 == 0) {
            int length = p_.topk;
            if (p_.topk_length != 0 && token < uint32_t(p_.s_q))
                length = reinterpret_cast<const int*>(p_.topk_length)[token * p_.topk_length_stride];
            queries_.next_token = token, queries_.next_block = block, queries_.next_length = length;
        }
        __syncwarp();
    }

    const SparsePrefillParams& p_;
    const TensorMap* q_;
    WarpQueries& queries_;
    const uint32_t shared_;
    uint32_t to_;    // where this lane's first copy goes in the first tile of Shared
    uint32_t from_;  // and whence in a row
    int tiles_, tile_;
    int index_ = -1, issued_index_ = -1;
    bool issued_tile_ = false;
};

}  // namespace flashmla::sm90::sparse_prefill
