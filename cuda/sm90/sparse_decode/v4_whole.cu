// Sparse decode of layout V4, whole units.
#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v4_whole, V4Whole)
