// Sparse decode of layout V32, whole units.
#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v32_whole, V32Whole)
