// The queries of a thread block, and its shared memory.
#pragma once
#include "common/mbarrier.cuh"
#include "flashmla_params.h"
#include "sm90/sparse_prefill/config.cuh"
#include <cstddef>

namespace flashmla::sm90::sparse_prefill {

// 64 heads of a query token. Its place in the ring is that of Q.
struct alignas(16) Query {
    int token, head;  // the first head
    int tiles;        // -1: there is no further query
    int unused;
};

// What an output warp knows of queries beside the loop over tiles, for which its registers are too few.
struct alignas(16) WarpQueries {
    // The query whose items are being issued, and how many of its indices count.
    int token, head, length, unused;
    // The one to come.
    uint32_t next_token;
    int next_block, next_length, unused2;
    // The one whose products are being made.
    Query current;
};

struct Shared {
    // Q's latent part and gathered tiles, in a ring.
    alignas(1024) uint8_t stage[kStages][kStageBytes];
    alignas(1024) uint8_t k_rope[2][kTileBytes / 2];
    // The column tiles of Q for which there are no registers.
    alignas(1024) uint8_t q_tail[2][kTileBytes];
    alignas(1024) uint8_t p[kTileBytes];
    // What a stage with Q belongs to, a copy for the readers of each side.
    Query query[2][kStages];
    WarpQueries warp_queries[8];
    // Which rows of a stage's tile count; what does not is zeros.
    uint64_t seen[kStages];
    // What the output rows are multiplied by before P V is added, and at the end of a query.
    float rescale[kRows];
    uint32_t rescales[4];  // whether there is anything to multiply in the rows of a warp
    float final_scale[kRows];
    uint64_t stage_full[kStages][2], stage_empty[kStages][2];
    uint64_t k_rope_full[2], k_rope_empty[2];
    uint64_t q_tail_full, q_tail_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
};

constexpr int kSharedBytes = sizeof(Shared);
static_assert(kSharedBytes <= 232448, "more than a thread block can have");

// Arrivals that fill a side of a stage: every thread when its copies have landed, and a lane of each warp for
// what the warp wrote beside them.
constexpr int kSideArrivals = 128 + 4;
// Arrivals that empty it: the output warps of the side twice after a tile, after Q once and the scores warps once.
constexpr int kEmptyArrivals = 8;

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SHARED(base, member) ((base) + uint32_t(offsetof(Shared, member)))

// Where a side of a stage lies, and its barriers.
__device__ __forceinline__ uint32_t side_at(uint32_t shared, int stage, int side) {
    return FLASHMLA_SHARED(shared, stage) + stage * kStageBytes + side * kSideBytes;
}
__device__ __forceinline__ uint32_t full_at(uint32_t shared, int stage, int side) {
    return FLASHMLA_SHARED(shared, stage_full) + (stage * 2 + side) * 8;
}
__device__ __forceinline__ uint32_t empty_at(uint32_t shared, int stage, int side) {
    return FLASHMLA_SHARED(shared, stage_empty) + (stage * 2 + side) * 8;
}

}  // namespace flashmla::sm90::sparse_prefill
