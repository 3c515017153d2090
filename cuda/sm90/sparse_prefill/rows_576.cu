#include "sm90/sparse_prefill/kernel.cuh"

// flashmla: spills allowed, because they hold what changes once a query; the loops over tiles have none that
// matter (config.cuh says where the registers go).

FLASHMLA_SPARSE_PREFILL(flashmla_sm90_sparse_prefill_rows_576, 576)
