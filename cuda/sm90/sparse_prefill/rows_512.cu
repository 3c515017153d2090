#include "sm90/sparse_prefill/kernel.cuh"

// flashmla: spills allowed, because they are the gather warps' where a query begins; the loops over tiles have none.

FLASHMLA_SPARSE_PREFILL(flashmla_sm90_sparse_prefill_rows_512, 512)
