// Sparse decode of layout V4 by a batch-invariant plan.
#include "sm90/sparse_decode/kernel.cuh"

// flashmla: spills allowed, because they hold what changes once a piece; the loops over tiles have next to none.

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v4_dealt, V4Dealt)
