// Sparse decode of layout V32 by a batch-invariant plan, in pairs of blocks.
#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v32_pair_dealt, V32PairDealt)
