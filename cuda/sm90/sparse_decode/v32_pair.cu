#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v32_pair, V32Pair)
