#include "sm90/dense_decode/kernel.cuh"

// flashmla: spills allowed, because they hold what changes once a piece; the loops over tiles have none that
// matter (config.cuh says where the registers go).

FLASHMLA_DENSE_DECODE(flashmla_sm90_dense_decode_bf16_576_invariant, flashmla::Bf16, 576, InvariantPieces)
