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

template <int kSide>
class Gather {
  public:
    __device__ __forceinline__ Gather(const SparsePrefillParams& p, const TensorMap* q, uint32_t shared)
        : p_(p), q_(q), shared_(shared) {
        const uint32_t warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        // Through a shuffle, lest ptxas (13.0) make the sum part of an address: a copy with a cache hint and two uniform
        // registers is an instruction that the hardware does not know.
        to_ = __shfl_sync(~0u, shared + swizzle_128b(warp * 16 + lane / 8, lane % 8), lane);
        from_ = reinterpret_cast<const uint8_t*>(p.kv) + kSide * (kLatent / 2) * 2 + lane % 8 * 16;
        block_ = blockIdx.x % p.head_blocks;
        token_ = blockIdx.x / p.head_blocks;
        fetch_length();
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
        if (at < length_) index_ = reinterpret_cast<const int*>(p_.indices)[query_token_ * p_.indices_stride + at];
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
    __device__ __forceinline__ bool done() const { return tiles_ < 0; }

    // The rotary part of this warp's rows of a tile, if they are of half `kSide`.
    __device__ __forceinline__ void rope(int index, uint32_t phase) {
        const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        if (warp / 2 != kSide) return;
        mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_empty) + kSide * 8, phase);
        const uint32_t to = FLASHMLA_SHARED(to_, k_rope);
        const uint8_t* from = from_ + (kLatent * 2 - kSide * (kLatent / 2) * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Row row(p_, __shfl_sync(~0u, index, j * 4 + lane / 8));
            cp_async_16(row_at(to, j), from + row.offset, row.valid, kEvictLast);
        }
        cp_async_mbarrier_arrive(FLASHMLA_SHARED(shared_, k_rope_full) + kSide * 8);
    }

  private:
    struct Row {
        bool valid;
        int64_t offset;

        __device__ __forceinline__ Row(const SparsePrefillParams& p, int index) : valid(uint32_t(index) < uint32_t(p.s_kv)) {
            offset = valid ? int64_t(index) * p.kv_row_bytes : 0;
        }
    };

    // Where this lane's 16 bytes of row 4j + lane / 8 of the warp's go.
    __device__ __forceinline__ uint32_t row_at(uint32_t base, int j) const {
        return (j % 2 ? (base + 512) ^ 64 : base) + j / 2 * 1024;
    }

    __device__ __forceinline__ void issue_tile(int stage, uint32_t full) {
        const uint32_t to = side_at(to_, stage, kSide);
        const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Row row(p_, __shfl_sync(~0u, index_, j * 4 + lane / 8));
#pragma unroll
            for (int c = 0; c < kTilesPerSide; ++c)
                cp_async_16(row_at(to, j) + c * kTileBytes, from_ + row.offset + c * 128, row.valid, kEvictLast);
        }
        cp_async_mbarrier_arrive(full);
        if constexpr (kSide == 0) {
            const uint32_t seen = __ballot_sync(~0u, uint32_t(index_) < uint32_t(p_.s_kv));
            if (lane == 0) {
                const uint32_t at = FLASHMLA_SHARED(shared_, seen) + stage * 8 + warp * 2;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(uint16_t(seen)) : "memory");
            }
        }
        if (lane == 0) mbarrier_arrive(full);
    }

    __device__ __forceinline__ void issue_query(int stage, uint32_t full) {
        const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        mbarrier_arrive(full);
        if (lane != 0) return;
        if (warp != 0) {
            mbarrier_arrive(full);
            return;
        }
        const Query query = {query_token_, query_head_, tiles_, 0};
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
        for (int c = 0; c < kTiles; ++c) copy_q(q_, query, kFirst + c, side_at(shared_, stage, kSide) + c * kTileBytes, full);
    }

    // Takes the next query, and asks for the length of the one after.
    __device__ __forceinline__ void next_query() {
        if (token_ >= uint32_t(p_.s_q)) {
            tiles_ = -1;
            return;
        }
        query_token_ = int(token_);
        query_head_ = block_ * kRows;
        length_ = min(max(next_length_, 0), p_.topk);
        tiles_ = length_ / kTokens + (length_ % kTokens != 0);
        token_ += p_.step_tokens;
        block_ += p_.step_blocks;
        if (block_ >= p_.head_blocks) {
            block_ -= p_.head_blocks;
            ++token_;
        }
        fetch_length();
    }

    __device__ __forceinline__ void fetch_length() {
        next_length_ = p_.topk;
        if (p_.topk_length != 0 && token_ < uint32_t(p_.s_q))
            next_length_ = reinterpret_cast<const int*>(p_.topk_length)[int64_t(token_) * p_.topk_length_stride];
    }

    const SparsePrefillParams& p_;
    const TensorMap* q_;
    const uint32_t shared_;
    uint32_t to_;  // where this lane's first copy goes in the first tile of Shared
    const uint8_t* from_;
    uint32_t token_;  // of the query to come
    int block_, next_length_;
    int query_token_ = 0, query_head_ = 0, length_ = 0, tiles_, tile_;
    int index_ = -1, issued_index_ = -1;
    bool issued_tile_ = false;
};

}  // namespace flashmla::sm90::sparse_prefill
