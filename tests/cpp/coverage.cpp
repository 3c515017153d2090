/* Every function of the C API, through C++ alone: what this object file leaves for the linker to find is compared
 * with the list of exported symbols. */
#include <flashmla.hpp>

#include <utility>

/* Called by nobody: it need not run, only ask for all of them. */
int everything(cudaStream_t stream, flashmla::Status status, flashmla::DenseDecodeParams params,
               flashmla::SparsePrefillParams prefill, flashmla::SparseDecodeParams sparse,
               flashmla::KvCacheAppendParams append, flashmla::KvCacheGatherParams gather,
               flashmla::MapIndicesParams map);

int everything(cudaStream_t stream, flashmla::Status status, flashmla::DenseDecodeParams params,
               flashmla::SparsePrefillParams prefill, flashmla::SparseDecodeParams sparse,
               flashmla::KvCacheAppendParams append, flashmla::KvCacheGatherParams gather,
               flashmla::MapIndicesParams map) {
    static_cast<void>(flashmla::version());
    static_cast<void>(flashmla::status_name(status));
    static_cast<void>(flashmla::last_error());
    flashmla::Result<flashmla::Context> opened = flashmla::Context::open(flashmla::cpu_device);
#ifdef FLASHMLA_NO_EXCEPTIONS
    flashmla::Context context = *std::move(opened);
#else
    flashmla::Context context = std::move(opened);
#endif
    static_cast<void>(context.device_info());
    static_cast<void>(context.dense_decode_query(params));
    static_cast<void>(context.dense_decode_plan_size(params));
    static_cast<void>(context.dense_decode_workspace_size(params));
    static_cast<void>(context.dense_decode_plan(params, stream));
    static_cast<void>(context.dense_decode(params, stream));
    static_cast<void>(context.sparse_decode_query(sparse));
    static_cast<void>(context.sparse_decode_plan_size(sparse));
    static_cast<void>(context.sparse_decode_workspace_size(sparse));
    static_cast<void>(context.sparse_decode_plan(sparse, stream));
    static_cast<void>(context.sparse_decode(sparse, stream));
    static_cast<void>(context.kv_cache_append(append, stream));
    static_cast<void>(context.kv_cache_gather(gather, stream));
    static_cast<void>(context.map_indices(map, stream));
    static_cast<void>(context.sparse_prefill_query(prefill));
    static_cast<void>(context.sparse_prefill_workspace_size(prefill));
    static_cast<void>(context.sparse_prefill(prefill, stream));
    static_cast<void>(context.close());
    return 0;
}
