#include "sm90/sparse_decode/kernel.cuh"

FLASHMLA_SPARSE_DECODE(flashmla_sm90_sparse_decode_v4, V4)
