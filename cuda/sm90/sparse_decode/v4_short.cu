// Sparse decode of layout V4, short pieces.
#include "sm90/sparse_decode/short.cuh"

FLASHMLA_SPARSE_DECODE_SHORT(flashmla_sm90_sparse_decode_v4_short, V4)
