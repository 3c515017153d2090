// Sparse decode of layout V4, short pieces in clusters.
#include "sm90/sparse_decode/short_cluster.cuh"

FLASHMLA_SPARSE_DECODE_CLUSTER(flashmla_sm90_sparse_decode_v4_cluster, V4)
