#include "sm90/sparse_prefill/kernel.cuh"

FLASHMLA_SPARSE_PREFILL(flashmla_sm90_sparse_prefill_rows_576, 576)
