// Sparse decode of layout V32, short pieces.
#include "sm90/sparse_decode/short.cuh"

FLASHMLA_SPARSE_DECODE_SHORT(flashmla_sm90_sparse_decode_v32_short, V32)
