// Filling the ring: what the gather warps do.
//
// Item after item: Q of a query, then its tiles. Warp w copies rows 4w .. 4w + 3 of each of the tile's four steps of
// 16 rows, each step as soon as the output warps are done with that of the item before; lane l knows the index of row l % 4
// of step l % 16 / 4, fetched one item ahead.
#pragma once
#include "common/async_copy.cuh"
#include "common/matrix.cuh"
#include "common/shared.cuh"
#include "common/tma.cuh"
#include "sm90/sparse_prefill/work.cuh"

namespace flashmla::sm90::sparse_prefill {

// A box of Q, column tiles of 64 heads of a token. Heads past the last arrive as zeros. Nobody else reads it; L2 should rather
// keep rows of KV.
__device__ __forceinline__ void copy_q(const TensorMap* map, int token, int head, int column, uint32_t to, uint32_t barrier) {
    tma_load_5d(to, map, barrier, 0, head, column, token, 0, kEvictFirst);
}

// Where a gather warp is in the ring, among the late buffers and with the rotary part: one register.
struct Place {
    uint32_t bits = 0;

    __device__ __forceinline__ int stage() const { return bits & 3; }
    __device__ __forceinline__ uint32_t phase() const { return bits >> 2 & 1; }
    __device__ __forceinline__ void advance() {
        bits += 1;
        if ((bits & 3) == kStages) bits ^= 7;
    }
    __device__ __forceinline__ uint32_t late() const { return bits >> 3 & 1; }
    __device__ __forceinline__ uint32_t late_phase() const { return bits >> 4 & 1; }
    __device__ __forceinline__ void advance_late() { bits ^= bits & 8 ? 24 : 8; }
    __device__ __forceinline__ uint32_t rope_phase() const { return bits >> 5; }
    __device__ __forceinline__ void advance_rope() { bits ^= 32; }
};

template <int kHeadDim>
class Gather {
  public:
    __device__ __forceinline__ Gather(const SparsePrefillParams& p, const TensorMap* q, Shared<kHeadDim>& s)
        : p_(p), q_(q), s_(s), shared_(smem_base(&s)) {
        const uint32_t warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        // Through a shuffle, lest ptxas (13.0) make the sum part of the copies' addresses: with a cache hint, such ones
        // were instructions that the hardware does not know.
        to_ = __shfl_sync(~0u, shared_ + swizzle_128b(warp * 4 + lane / 8, lane % 8), lane);
        set_next(blockIdx.x / p.head_blocks, blockIdx.x % p.head_blocks);
    }

    __device__ __forceinline__ void run() {
        next_query();
        for (;;) {
            // A query. Its first indices are asked for before the wait for a stage.
            const int tiles = walk().tiles;
            const uint32_t thread = thread_now(), lane = thread % 32;
            uint32_t at = lane % 16 / 4 * 16 + thread / 32 * 4 + lane % 4;
            int index = index_of(at);
            issue_query();
            if (tiles < 0) break;
            if (tiles == 0) {
                next_query();
                continue;
            }
            do {
                const int now = index;
                at += kTokens;
                if (at / kTokens * kTokens < uint32_t(walk().length)) {
                    index = index_of(at);
                } else {
                    at = kEnd;
                    next_query();
                }
                issue_rows(now);
            } while (at != kEnd);
        }
        cp_async_wait_all();
    }

  private:
    static __device__ __forceinline__ void cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

    static constexpr uint32_t kEnd = ~0u;

    // An address that is computed here, not where it is used.
    static __device__ __forceinline__ const uint8_t* kept(const uint8_t* address) {
        asm volatile("" : "+l"(address));
        return address;
    }

    // The thread of the warpgroup, asked anew once a tile: these warps have few registers.
    static __device__ __forceinline__ uint32_t thread_now() {
        uint32_t thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        return thread % 128;
    }
    __device__ __forceinline__ Walk& walk() const { return s_.walk[thread_now() / 32]; }

    // The row that a query's index `at` names; -1: zeros.
    __device__ __forceinline__ int index_of(uint32_t at) const {
        const Walk& walk = this->walk();
        int index = -1;
        if (at < uint32_t(walk.length)) index = reinterpret_cast<const int*>(p_.indices)[walk.token * p_.indices_stride + at];
        return index;
    }

    // Until the output warps have left a step's rows of the stage at hand. At first all is empty.
    __device__ __forceinline__ void wait_step(int step) {
        mbarrier_wait(empty_at<kHeadDim>(shared_, place_.stage(), step), place_.phase() ^ 1);
    }

    // A row of which this lane copies parts.
    struct Row {
        bool valid;
        const uint8_t* at;
    };

    __device__ __forceinline__ void issue_rows(int index) {
        const uint32_t seen = __ballot_sync(~0u, uint32_t(index) < uint32_t(p_.s_kv));
        // Lane 8r + i copies of row r of each step. All shuffles are here, where the compiler knows that the warp is whole.
        Row rows[kSteps];
        const uint32_t thread = thread_now(), lane = thread % 32;
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
            const int row = __shfl_sync(~0u, index, j * 4 + lane / 8);
            rows[j].valid = uint32_t(row) < uint32_t(p_.s_kv);
            rows[j].at = kept(reinterpret_cast<const uint8_t*>(p_.kv) + lane % 8 * 16 +
                              (rows[j].valid ? uint64_t(uint32_t(row)) * uint64_t(p_.kv_row_bytes) : 0));
        }
        const uint32_t to = stage_at<kHeadDim>(to_, place_.stage()), full = full_at<kHeadDim>(shared_, place_.stage());
        // With a rotary part Q K begins with some of the columns.
        copy_columns<0, kRotary<kHeadDim> ? kTilesPerSide : kColumnTiles, true>(rows, to, full);
        if (lane == 0) {
            store_shared_u16(FLASHMLA_SHARED(shared_, seen) + place_.stage() * 8 + thread / 32 * 2, seen);
            mbarrier_arrive(full);
        }
        __syncwarp();
        if constexpr (kRotary<kHeadDim>) {
            // The rotary part, when that of the tile before has been read: the products with the tile before have begun.
            mbarrier_wait(FLASHMLA_SHARED(shared_, k_rope_empty), place_.rope_phase() ^ 1);
            place_.advance_rope();
            copy_columns<kColumnTiles, kColumnTiles + 1>(rows, FLASHMLA_SHARED(to_, k_rope),
                                                         FLASHMLA_SHARED(shared_, k_rope_full));
            copy_columns<kTilesPerSide, kStageTiles<kHeadDim>>(rows, to + kSideBytes,
                                                               rest_full_at<kHeadDim>(shared_, place_.stage()));
            // The last columns, when P V of the tile before the one before has read them.
            mbarrier_wait(late_empty_at<kHeadDim>(shared_, place_.late()), place_.late_phase() ^ 1);
            copy_columns<kColumnTiles - 1, kColumnTiles>(rows, late_at<kHeadDim>(to_, place_.late()),
                                                         late_full_at<kHeadDim>(shared_, place_.late()));
            place_.advance_late();
        }
        place_.advance();
    }

    // Some column tiles of this warp's rows; if `kWait`, those of a step when its rows have been left.
    template <int kFrom, int kTo, bool kWait = false>
    __device__ __forceinline__ void copy_columns(const Row (&rows)[kSteps], uint32_t to, uint32_t full) {
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
            if (kWait) wait_step(j);
#pragma unroll
            for (int c = kFrom; c < kTo; ++c)
                cp_async_16(to + j * kStepBytes + (c - kFrom) * kTileBytes, rows[j].at + c * 128, rows[j].valid);
        }
        cp_async_mbarrier_arrive(full);
    }

    // Q of the query at hand, or that there is none.
    __device__ __forceinline__ void issue_query() {
        const uint32_t full = full_at<kHeadDim>(shared_, place_.stage());
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < kSteps; ++j) wait_step(j);
        if (lane == 0) mbarrier_arrive(full);
        if (threadIdx.x % 128 == 0) {
            const uint32_t at = FLASHMLA_SHARED(shared_, query) + place_.stage() * uint32_t(sizeof(Query));
            store_shared_16(at, walk().token, walk().head, walk().tiles, 0);
        }
        if (threadIdx.x % 128 == 0 && walk().tiles > 0) {
            load_q(full);
        } else {
            mbarrier_arrive(full);
        }
        if constexpr (kRotary<kHeadDim>) mbarrier_arrive(rest_full_at<kHeadDim>(shared_, place_.stage()));
        __syncwarp();
        place_.advance();
        if constexpr (kRotary<kHeadDim>) {
            // The output passes through the buffer.
            mbarrier_wait(late_empty_at<kHeadDim>(shared_, place_.late()), place_.late_phase() ^ 1);
            mbarrier_arrive(late_full_at<kHeadDim>(shared_, place_.late()));
            place_.advance_late();
        }
    }

    // Q's part that goes to registers. Heads past the last arrive as zeros.
    __device__ __forceinline__ void load_q(uint32_t full) {
        mbarrier_arrive_expect_tx(full, kRegisterTiles * kTileBytes);
        const uint32_t to = stage_at<kHeadDim>(shared_, place_.stage());
        const int token = walk().token, head = walk().head;
        // What was written here by ordinary copies before has been read by the matrix units: the copy engine comes after that.
#pragma unroll 1
        for (int c = 0; c < kRegisterTiles; c += kBoxTiles<kHeadDim>) copy_q(q_, token, head, c, to + c * kTileBytes, full);
        // The others have to wait for their buffer, and should be in L2 then.
        tma_prefetch_5d(q_, 0, head, kRegisterTiles, token, 0);
    }

    // Takes the next query, and asks for the length of the one after.
    __device__ __forceinline__ void next_query() {
        uint32_t token = walk().next_token;
        if (token >= uint32_t(p_.s_q)) {
            __syncwarp();
            if (threadIdx.x % 32 == 0) walk().tiles = -1;
            __syncwarp();
            return;
        }
        int block = walk().next_block;
        const int length = min(max(walk().next_length, 0), p_.topk);
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            Walk& now = walk();
            now.token = int(token), now.head = block * kRows;
            now.length = length, now.tiles = length / kTokens + (length % kTokens != 0);
        }
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
            walk().next_token = token, walk().next_block = block, walk().next_length = length;
        }
        __syncwarp();
    }

    const SparsePrefillParams& p_;
    const TensorMap* q_;
    Shared<kHeadDim>& s_;
    const uint32_t shared_;
    uint32_t to_;  // where this lane's first copy in a tile goes, as if Shared began there
    Place place_;
};

}  // namespace flashmla::sm90::sparse_prefill
