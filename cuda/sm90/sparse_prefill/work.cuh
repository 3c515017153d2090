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

// What a gather warp knows of queries beside the loop over tiles, for which its registers are too few.
struct alignas(16) Walk {
    // The query whose items are being issued, and how many of its indices count.
    int token, head, length, tiles;
    // The one to come.
    uint32_t next_token;
    int next_block, next_length, unused2;
};

// What softmax leaves of a row: the sum of its weights, by which reference they are (base 2), and the largest score, not
// scaled.
struct alignas(16) Final {
    float sum, reference, top, unused;
};

template <int kHeadDim>
struct Shared {
    static constexpr int kTiles = kStages * kStageTiles<kHeadDim> + (kRotary<kHeadDim> ? kLateBuffers : 0);
    // The stages of the ring, Q's latent part and gathered tiles; then, with a rotary part, the buffers of last column tiles.
    alignas(1024) uint8_t tiles[kTiles][kTileBytes];
    alignas(1024) uint8_t k_rope[kTileBytes];
    // The column tiles of Q for which there are no registers.
    alignas(1024) uint8_t q_tail[kBoxTiles<kHeadDim>][kTileBytes];
    alignas(1024) uint8_t p[kTileBytes];
    // What a stage with Q belongs to.
    Query query[kStages];
    Walk walk[4];
    // The query whose products an output warp makes.
    Query current[8];
    // Which rows of a stage's tile count; what does not is zeros. Warp by warp of those that copied them, 16 bits each.
    uint64_t seen[kStages];
    // What the output rows are multiplied by before P V is added, of every other tile, and at the end of a query.
    float rescale[2][kRows];
    uint32_t rescales[4];  // in which half of the rows of a warp there is anything to multiply, a bit each
    Final final[kRows];
    uint64_t stage_full[kStages], rest_full[kStages];  // rest: with a rotary part, of the columns that Q K reads later
    uint64_t stage_empty[kStages][kSteps];  // by step of its rows
    uint64_t q_read[kStages];  // the scores warps have Q in registers
    uint64_t late_full[kLateBuffers], late_empty[kLateBuffers];
    uint64_t k_rope_full, k_rope_empty;
    uint64_t q_tail_full, q_tail_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
};

// Arrivals that fill a buffer: every gather thread when its copies have landed; of a stage also its warps for what they write
// beside them.
constexpr int kCopyArrivals = 128;
constexpr int kFullArrivals = kCopyArrivals + 4;
// Arrivals that empty a step's rows of a stage: the eight output warps, after P V, and after O has left the stage of Q.
constexpr int kEmptyArrivals = 8 * kArrivalsOfWarp;

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SHARED(base, member) ((base) + uint32_t(offsetof(Shared<kHeadDim>, member)))

// Where stages and late buffers lie, and their barriers.
template <int kHeadDim>
__device__ __forceinline__ uint32_t stage_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, tiles) + stage * (kStageTiles<kHeadDim> * kTileBytes);
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t full_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, stage_full) + stage * 8;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t rest_full_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, rest_full) + stage * 8;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t empty_at(uint32_t shared, int stage, int step) {
    return FLASHMLA_SHARED(shared, stage_empty) + (stage * kSteps + step) * 8;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t q_read_at(uint32_t shared, int stage) {
    return FLASHMLA_SHARED(shared, q_read) + stage * 8;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t late_at(uint32_t shared, uint32_t buffer) {
    return FLASHMLA_SHARED(shared, tiles) + (kStages * kStageTiles<kHeadDim> + buffer) * kTileBytes;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t late_full_at(uint32_t shared, uint32_t buffer) {
    return FLASHMLA_SHARED(shared, late_full) + buffer * 8;
}
template <int kHeadDim>
__device__ __forceinline__ uint32_t late_empty_at(uint32_t shared, uint32_t buffer) {
    return FLASHMLA_SHARED(shared, late_empty) + buffer * 8;
}

}  // namespace flashmla::sm90::sparse_prefill
