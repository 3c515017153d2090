// Filling the ring: what a side of the output warps does for its columns.
//
// Item after item: Q of a query, then its tiles. Warp w copies rows 4w .. 4w + 3 of each of the tile's four steps of
// 16 rows; lane l knows the index of row l % 4 of step l % 16 / 4, fetched one item ahead.
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
        : p_(p), q_(q), walk_(s.walk[threadIdx.x / 32 - 4]), shared_(shared) {
        const uint32_t warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        // Through a shuffle, lest ptxas (13.0) make the sum part of the copies' addresses: with a cache hint, such ones
        // were instructions that the hardware does not know.
        to_ = __shfl_sync(~0u, shared + swizzle_128b(warp * 4 + lane / 8, lane % 8), lane);
        set_next(blockIdx.x / p.head_blocks, blockIdx.x % p.head_blocks);
    }

    // The item at hand says that there is no further one.
    __device__ __forceinline__ bool done() const { return tiles_ < 0; }

    // Goes on to the next item: its indices are asked for, in time before it is issued.
    __device__ __forceinline__ void advance() {
        last_tile_ = tile_ >= 0;
        last_index_ = index_;
        if (tile_ + 1 >= tiles_) {
            tile_ = -1;
            next_query();
            return;
        }
        ++tile_;
        const int lane = threadIdx.x % 32, at = tile_ * kTokens + lane % 16 / 4 * 16 + threadIdx.x / 32 % 4 * 4 + lane % 4;
        index_ = -1;
        if (at < walk_.length)
            index_ = reinterpret_cast<const int*>(p_.indices)[walk_.token * p_.indices_stride + at];
    }

    // The item at hand, into a stage that nobody reads any more.
    __device__ __forceinline__ void issue(int stage) {
        if (tile_ >= 0) {
            issue_rows(stage);
        } else {
            issue_query(stage);
        }
        __syncwarp();
    }

    // Whether the item at hand is a tile.
    __device__ __forceinline__ bool at_tile() const { return tile_ >= 0; }

    // Of the tile at hand, this warp's rows of a step, if `wanted`: no branch may stand beside products.
    template <int kStep>
    __device__ __forceinline__ void issue_step(int stage, bool wanted) {
        copy_rows<kTilesPerSide, kStep, kStep + 1>(stage_at(to_, stage) + kSide * kSideBytes, index_, kSide * kTilesPerSide, wanted);
    }

    // After all steps.
    __device__ __forceinline__ void issue_end(int stage) {
        const uint32_t full = full_at(shared_, stage);
        cp_async_mbarrier_arrive(full);
        if constexpr (kSide == 0) {
            const uint32_t seen = __ballot_sync(~0u, uint32_t(index_) < uint32_t(p_.s_kv));
            if (threadIdx.x % 32 == 0) {
                const uint32_t at = FLASHMLA_SHARED(shared_, seen) + stage * 8 + threadIdx.x / 32 % 4 * 2;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(uint16_t(seen)) : "memory");
                mbarrier_arrive(full);
            }
        }
        __syncwarp();
    }

    // The rotary part of half of this warp's rows of the tile before the one at hand, if that is one. The warp of the other side
    // with the same rows copies the other half.
    __device__ __forceinline__ void rope(uint32_t phase) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_empty), phase);
        copy_rows<1, kSide * 2, kSide * 2 + 2>(FLASHMLA_SHARED(to_, k_rope), last_index_, kColumnTiles);
        cp_async_mbarrier_arrive(FLASHMLA_SHARED(shared_, k_rope_full));
    }
    __device__ __forceinline__ bool last_tile() const { return last_tile_; }

  private:
    // This warp's row lane / 8 of step j: its index is known to another lane.
    struct Row {
        bool valid;
        const uint8_t* at;

        __device__ __forceinline__ Row(const SparsePrefillParams& p, int indices, int j) {
            const int lane = threadIdx.x % 32, index = __shfl_sync(~0u, indices, j * 4 + lane / 8);
            valid = uint32_t(index) < uint32_t(p.s_kv);
            at = reinterpret_cast<const uint8_t*>(p.kv) + (valid ? index * p.kv_row_bytes : 0) + lane % 8 * 16;
        }
    };

    __device__ __forceinline__ void issue_rows(int stage) {
        copy_rows<kTilesPerSide>(stage_at(to_, stage) + kSide * kSideBytes, index_, kSide * kTilesPerSide);
        issue_end(stage);
    }

    // Q of a query, or that there is none.
    __device__ __forceinline__ void issue_query(int stage) {
        const uint32_t full = full_at(shared_, stage);
        const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        if (kSide == 0 && lane == 0) mbarrier_arrive(full);
        if (lane == 0 && warp == 0) {
            const uint32_t at = FLASHMLA_SHARED(shared_, query) + (kSide * kStages + stage) * uint32_t(sizeof(Query));
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(walk_.token), "r"(walk_.head),
                         "r"(tiles_), "r"(0)
                         : "memory");
            if (tiles_ > 0) {
                load_q(stage, full);
                return;
            }
        }
        mbarrier_arrive(full);
    }

    // Copies `kTiles` column tiles, from column tile `first` of a row on, of this warp's rows of some steps.
    template <int kTiles, int kFrom = 0, int kTo = 4>
    __device__ __forceinline__ void copy_rows(uint32_t to, int indices, int first, bool wanted = true) {
#pragma unroll
        for (int j = kFrom; j < kTo; ++j) {
            const Row row(p_, indices, j);
#pragma unroll
            for (int c = 0; c < kTiles; ++c)
                cp_async_16(to + j * 2048 + c * kTileBytes, row.at + (first + c) * 128, row.valid, wanted);
        }
    }

    // This side's column tiles of Q's part that goes to registers. Heads past the last arrive as zeros.
    __device__ __forceinline__ void load_q(int stage, uint32_t full) {
        constexpr int kFirst = kSide * kTilesPerSide;
        constexpr int kTiles = kFirst + kTilesPerSide > kRegisterTiles ? kRegisterTiles - kFirst : kTilesPerSide;
        // What was written here by ordinary copies before is overwritten by the copy engine.
        fence_proxy_async();
        mbarrier_arrive_expect_tx(full, kTiles * kTileBytes);
        const uint32_t to = stage_at(shared_, stage) + kSide * kSideBytes;
#pragma unroll 1
        for (int c = 0; c < kTiles; ++c) copy_q(q_, {walk_.token, walk_.head, 0, 0}, kFirst + c, to + c * kTileBytes, full);
        if constexpr (kSide == 1) {
            // The others have to wait for their buffer, and should be in L2 then.
#pragma unroll 1
            for (int c = kRegisterTiles; c < kHeadDim / kColumnTile; ++c)
                tma_prefetch_5d(q_, 0, walk_.head, c, walk_.token, 0);
        }
    }

    // Takes the next query, and asks for the length of the one after.
    __device__ __forceinline__ void next_query() {
        uint32_t token = walk_.next_token;
        if (token >= uint32_t(p_.s_q)) {
            tiles_ = -1;
            return;
        }
        int block = walk_.next_block;
        const int length = min(max(walk_.next_length, 0), p_.topk);
        tiles_ = length / kTokens + (length % kTokens != 0);
        __syncwarp();
        if (threadIdx.x % 32 == 0) walk_.token = int(token), walk_.head = block * kRows, walk_.length = length;
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
            walk_.next_token = token, walk_.next_block = block, walk_.next_length = length;
        }
        __syncwarp();
    }

    const SparsePrefillParams& p_;
    const TensorMap* q_;
    Walk& walk_;
    const uint32_t shared_;
    uint32_t to_;  // where this lane's first copy in a tile goes, as if Shared began there
    int tiles_ = 0, tile_ = 0;
    int index_ = -1, last_index_ = -1;
    bool last_tile_ = false;
};

}  // namespace flashmla::sm90::sparse_prefill
