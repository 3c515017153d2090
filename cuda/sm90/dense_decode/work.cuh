// What the roles of a thread block share.
#pragma once
#include "sm90/dense_decode/pieces.cuh"
#include <cstddef>

namespace flashmla::sm90::dense_decode {

struct Shared {
    // Latent parts of K tiles in a ring; Q's latent part passes through it, too.
    alignas(1024) uint8_t stage[kStages][kStageBytes];
    alignas(1024) uint8_t k_rope[kTileBytes];
    // The column tiles of Q for which there are no registers.
    alignas(1024) uint8_t q_tail[2][kTileBytes];
    alignas(1024) uint8_t p[kTileBytes];
    // What the output rows are multiplied by before P V is added.
    float rescale[2][kRows];  // by the parity of P's number: a factor is known before the P before is done with
    uint32_t rescales[4];  // of a warp: whether its upper eight rows (1), its lower eight (2) are to be multiplied
    // Of a piece that ends: the sum of P, before rounding, and what its scores were taken relative to.
    float final_sum[kRows], final_reference[kRows];
    uint64_t stage_full[kStages][kBarriersPerStage];
    uint64_t stage_empty[kStages];
    uint64_t k_rope_full, k_rope_empty;
    uint64_t q_tail_full, q_tail_empty;
    uint64_t p_full, p_empty;
    uint64_t final_full, final_empty;
    uint64_t calls;  // the rendezvous's counter
    int splits;      // requests that the plan splits
};

constexpr int kSharedBytes = sizeof(Shared);
static_assert(kSharedBytes <= 232448, "more than a thread block can have");

// Address of a member of Shared, given that of the struct.
#define FLASHMLA_SHARED(base, member) ((base) + uint32_t(offsetof(Shared, member)))

}  // namespace flashmla::sm90::dense_decode
