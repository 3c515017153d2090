// Sparse decode of layout V4 by a batch-invariant plan, in pairs of blocks.
#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v4_pair_dealt, V4PairDealt)
