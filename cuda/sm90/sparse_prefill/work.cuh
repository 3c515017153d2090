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
struct alignas(16) Walk {
    // The query whose items are being issued, and how many of its indices count.
    int token, head, length, unused;
    // The one to come.
    uint32_t next_token;
    int next_block, next_length, unused2;
    // The one whose products are being made.
    Query current;
};

// What softmax leaves of a row: the sum of its weights, by which reference they are (base 2), and the largest score, not
// scaled.
struct alignas(16) Final {
    float sum, reference, top, unused;
};

struct Shared {
    // Q's latent part and gathered tiles, in a ring.
    alignas(1024) uint8_t stage[kStages][kStageBytes];
    alignas(1024) uint8_t k_rope[kTileBytes];
    // The column tiles of Q for which there are no registers.
    alignas(1024) uint8_t q_tail[2][kTileBytes];
    alignas(1024) uint8_t p[kTileBytes];
    // What a stage with Q belongs to, a copy for the readers of each side.
    Query query[2][kStages];
    Walk walk[8];
    // Which rows of a stage's tile count; what does not is zeros. Warp by warp of those that copied them, 16 bits each.
    uint64_t seen[kStages];
    // What the output rows are multiplied by before P V is added, of every other tile, and at the end of a query.
    float rescale[2][kRows];
    uint32_t rescales[4];  // in which half of the rows of a warp there is anything to multiply, a bit each
    Final final[kRows];
    uint64_t stage_full[kStages];
    uint64_t stage_empty[kStages][2];  // by side
    uint64_t k_rope_full, k_rope_empty;
    uint64_t q_tail_full, q_tail_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
};

constexpr int kSharedBytes = sizeof(Shared);
static_assert(kSharedBytes <= 232448, "more than a thread block can have");

// Arrivals that fill a stage: every output thread when its copies have landed, and the warps of side 0 for what they write
// beside them.
constexpr int kFullArrivals = 256 + 4;
// Arrivals that empty a side of a stage: the four output warps twice after a tile, and once after Q, as the scores warps.
constexpr int kEmptyArrivals = 8 * kArrivalsOfWarp;

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SHARED(base, member) ((base) + uint32_t(offsetof(Shared, member)))

// Where a stage lies, and its barriers.
__device__ __forceinline__ uint32_t stage_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, stage) + stage * kStageBytes;
}
__device__ __forceinline__ uint32_t full_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, stage_full) + stage * 8;
}
__device__ __forceinline__ uint32_t empty_at(uint32_t shared, int stage, int side) {
    return FLASHMLA_SHARED(shared, stage_empty) + (stage * 2 + side) * 8;
}

}  // namespace flashmla::sm90::sparse_prefill
