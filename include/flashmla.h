/**
 * @file
 * libflashmla: Multi-head Latent Attention kernels behind a stable C ABI.
 *
 * Generated from src/capi by `make header`; do not edit.
 *
 * A context (flashmla_create) is a CUDA device made ready, or the CPU backend; any number of threads may use
 * it. An operation takes a parameter struct of sizes, raw device pointers and strides in elements (all strides
 * 0: contiguous), and a stream; in a CPU context the pointers are host memory and the stream is NULL. For decode
 * a plan, made on the stream once per step, divides the work over the device and serves every layer of the step.
 * Operations do not allocate, synchronise or read device data on the host, and may be captured into graphs.
 *
 * Start every struct from its *_INIT macro: it sets struct_size, by which library and program may be of
 * different releases. Every function returns a status, 0 for success; flashmla_last_error() says which
 * argument was wrong, which value it had and what it must be. Nothing is launched or written then.
 *
 * C99 or later, C++11 or later; no CUDA header is needed, and this one may be included beside them.
 */


#ifndef FLASHMLA_H
#define FLASHMLA_H

#include <stddef.h>
#include <stdint.h>
/** As CUDA declares it; in C99 a typedef may not be repeated, so not again after CUDA's own headers. */
#if !defined(__DRIVER_TYPES_H__) && !defined(FLASHMLA_NO_STREAM_TYPE)
typedef struct CUstream_st *cudaStream_t;
#endif

/**
 * Initial value of a struct: struct_size set, everything else 0, which means the default.
 * @{
 */
#define FLASHMLA_OPTIONS_INIT {sizeof(flashmla_options_t), 0, 0}
#define FLASHMLA_DEVICE_INFO_INIT {sizeof(flashmla_device_info_t), {0}, 0, 0, 0, 0}
#define FLASHMLA_KERNEL_INFO_INIT {sizeof(flashmla_kernel_info_t), {0}, 0, 0, 0}
#define FLASHMLA_PLAN_INIT {sizeof(flashmla_plan_t), NULL, 0, 0}
#define FLASHMLA_DENSE_DECODE_PARAMS_INIT                                                                  \
    {sizeof(flashmla_dense_decode_params_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0,                     \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, NULL, 0, NULL, 0, 0}
#define FLASHMLA_SPARSE_DECODE_PARAMS_INIT                                                                 \
    {sizeof(flashmla_sparse_decode_params_t), 0, 0, 0.0f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,                 \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, NULL, 0, NULL}
#define FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT                                                               \
    {sizeof(flashmla_kv_cache_append_params_t), 0, 0, 0, 0, 0, 0, 0, 0,                                    \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}}
#define FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT                                                               \
    {sizeof(flashmla_kv_cache_gather_params_t), 0, 0, 0, 0, 0, 0, 0, 0,                                    \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}}
#define FLASHMLA_MAP_INDICES_PARAMS_INIT                                                                   \
    {sizeof(flashmla_map_indices_params_t), 0, 0, 0, 0, 0, 0,                                              \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}}
#define FLASHMLA_SPARSE_PREFILL_PARAMS_INIT                                                                \
    {sizeof(flashmla_sparse_prefill_params_t), 0, 0.0f, 0, 0, 0, 0, 0,                                     \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, NULL, 0}
/** @} */


/**
 * The call did what its documentation says.
 */
#define FLASHMLA_SUCCESS 0

/**
 * An argument is wrong in a way that none of the more specific codes describes.
 */
#define FLASHMLA_ERROR_INVALID_ARGUMENT 1000

/**
 * A required pointer is null.
 */
#define FLASHMLA_ERROR_NULL_POINTER 1001

/**
 * `struct_size` is smaller than the first released version of the struct, or the struct is
 * larger than this library knows and its unknown tail is not 0.
 */
#define FLASHMLA_ERROR_STRUCT_SIZE 1002

/**
 * A size is negative, or does not fit the other sizes (`h_q % h_kv != 0`).
 */
#define FLASHMLA_ERROR_INVALID_SHAPE 1003

/**
 * A stride is negative, misaligned, or makes two elements of an output share memory.
 */
#define FLASHMLA_ERROR_INVALID_STRIDE 1004

/**
 * A pointer is not aligned as its tensor needs.
 */
#define FLASHMLA_ERROR_MISALIGNED 1005

/**
 * An enumerator or a flag that this version does not know.
 */
#define FLASHMLA_ERROR_UNKNOWN_ENUM 1006

/**
 * A product of sizes or strides does not fit 63 bits, or a limit in the documentation is exceeded.
 */
#define FLASHMLA_ERROR_OVERFLOW 1007

/**
 * The workspace or the plan buffer is smaller than its size query says.
 */
#define FLASHMLA_ERROR_BUFFER_TOO_SMALL 1008

/**
 * The plan was not made, or was made for another problem or another context.
 */
#define FLASHMLA_ERROR_PLAN_MISMATCH 1009

/**
 * A stream was given to a CPU context.
 */
#define FLASHMLA_ERROR_INVALID_STREAM 1010

/**
 * The problem is valid, and this library has no kernel for it.
 */
#define FLASHMLA_ERROR_UNSUPPORTED 2000

/**
 * The device cannot run the problem (a GPU too old, for example).
 */
#define FLASHMLA_ERROR_UNSUPPORTED_DEVICE 2001

/**
 * No CUDA driver (`libcuda.so.1`) can be loaded.
 */
#define FLASHMLA_ERROR_NO_DRIVER 3000

/**
 * The CUDA driver is older than this library needs.
 */
#define FLASHMLA_ERROR_DRIVER_TOO_OLD 3001

/**
 * The device ordinal does not exist.
 */
#define FLASHMLA_ERROR_NO_DEVICE 3002

/**
 * This library was built without GPU kernels (`FLASHMLA_NO_KERNELS`).
 */
#define FLASHMLA_ERROR_NO_KERNELS 3003

/**
 * A call of the CUDA driver failed: `FLASHMLA_ERROR_CUDA + CUresult` for results up to 999, and
 * `FLASHMLA_ERROR_CUDA` itself for others.
 */
#define FLASHMLA_ERROR_CUDA 4000

/**
 * A defect of this library.
 */
#define FLASHMLA_ERROR_INTERNAL 5000

/**
 * Code of this library panicked; the panic was caught at the boundary.
 */
#define FLASHMLA_ERROR_PANIC 5001

/**
 * Device ordinal of the CPU backend.
 */
#define FLASHMLA_DEVICE_CPU -1

/**
 * bfloat16, the default element type.
 */
#define FLASHMLA_DTYPE_BF16 0

/**
 * IEEE half precision.
 */
#define FLASHMLA_DTYPE_FP16 1

/**
 * Pages of plain rows, `[num_blocks, page_block_size, h_kv, d_qk]`, of the inputs' type.
 */
#define FLASHMLA_LAYOUT_PLAIN 0

/**
 * FP8 with FP32 scales, d_qk 576, 656 bytes a token, tokens one after another: bytes [0, 512) e4m3, the latent
 * part; [512, 528) four scales, one for 128 elements; [528, 656) 64 BF16, the rotary part. An element is
 * its e4m3 value times its scale.
 */
#define FLASHMLA_LAYOUT_V32 1

/**
 * FP8 with e8m0 scales, d_qk 512, 584 bytes a token. A page holds all data rows of 576 bytes (448 e4m3, then
 * 64 BF16, the rotary part), then all scale rows of 8 bytes (7 e8m0, one for 64 elements, and a byte that means
 * nothing).
 */
#define FLASHMLA_LAYOUT_V4 2

/**
 * int32.
 */
#define FLASHMLA_INDEX_INT32 0

/**
 * int64.
 */
#define FLASHMLA_INDEX_INT64 1

/**
 * A scale is the least power of two that is not below max / 448, at least 2^-13 (as in upstream FlashMLA's
 * reference).
 */
#define FLASHMLA_SCALE_POWER_OF_TWO 0

/**
 * A scale is max / 448 in FP32, at least 2^-126; `FLASHMLA_LAYOUT_V32` alone can hold it.
 */
#define FLASHMLA_SCALE_EXACT 1

/**
 * Query token i of s_q sees keys 0 ..= s_k - s_q + i (aligned to the bottom right).
 */
#define FLASHMLA_FLAG_CAUSAL 1

/**
 * A query with no attended token gets lse = +inf (upstream FlashMLA's convention), not -inf.
 */
#define FLASHMLA_FLAG_LSE_EMPTY_POS_INF 2

/**
 * A request's result does not depend, to the bit, on what else is in the batch.
 */
#define FLASHMLA_FLAG_BATCH_INVARIANT 4

/**
 * Of this header; `flashmla_version()` gives that of the library.
 */
#define FLASHMLA_VERSION_MAJOR 0

/**
 * Of this header.
 */
#define FLASHMLA_VERSION_MINOR 1

/**
 * Of this header.
 */
#define FLASHMLA_VERSION_PATCH 0

/**
 * A device made ready. Immutable: any number of threads may use it at once.
 */
typedef struct flashmla_context_t flashmla_context_t;

/**
 * Result of every call: 0 for success, otherwise one of the `FLASHMLA_ERROR_*` codes.
 */
typedef int32_t flashmla_status_t;

/**
 * How to create a context. All 0 is the default; use `FLASHMLA_OPTIONS_INIT`.
 */
typedef struct flashmla_options_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * Threads of the CPU backend; 0: one per available core. Ignored by GPU contexts.
     */
    int32_t cpu_threads;
    /**
     * Must be 0.
     */
    int32_t reserved;
} flashmla_options_t;

/**
 * What a context runs on.
 */
typedef struct flashmla_device_info_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * NUL-terminated name.
     */
    char name[128];
    /**
     * Ordinal given to `flashmla_create`; `FLASHMLA_DEVICE_CPU` for the CPU backend.
     */
    int32_t device;
    /**
     * Compute capability as `major * 10 + minor` (90 for an H100), 0 for the CPU backend.
     */
    int32_t compute_capability;
    /**
     * Streaming multiprocessors, or threads of the CPU backend.
     */
    int32_t multiprocessors;
    /**
     * Version of the driver as `major * 1000 + minor * 10`, 0 for the CPU backend.
     */
    int32_t driver_version;
} flashmla_device_info_t;

/**
 * An input tensor.
 */
typedef struct flashmla_const_tensor_t {
    /**
     * Address of element 0: device memory, or host memory in a CPU context.
     */
    const void *data;
    /**
     * Strides in elements, outermost first; unused ones are 0. All 0: contiguous.
     */
    int64_t strides[4];
} flashmla_const_tensor_t;

/**
 * An output tensor.
 */
typedef struct flashmla_tensor_t {
    /**
     * Address of element 0: device memory, or host memory in a CPU context.
     */
    void *data;
    /**
     * Strides in elements, outermost first; unused ones are 0. All 0: contiguous.
     */
    int64_t strides[4];
} flashmla_tensor_t;

/**
 * A division of decode work over the device: memory for it and what it was made for.
 *
 * The plan function of an operation fills `data` on the stream and `fingerprint` on the host;
 * the operation refuses a plan whose fingerprint does not fit its own parameters.
 */
typedef struct flashmla_plan_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * Device memory of at least the plan size, 256-byte aligned; NULL where that size is 0.
     */
    void *data;
    /**
     * Bytes at `data`.
     */
    size_t size;
    /**
     * Written by the plan function; 0 means: not made yet.
     */
    uint64_t fingerprint;
} flashmla_plan_t;

/**
 * Parameters of dense decode. Sizes count elements, strides are in elements.
 *
 * Zero every member that you do not set (`FLASHMLA_DENSE_DECODE_PARAMS_INIT`).
 */
typedef struct flashmla_dense_decode_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * Type of `q`, `kv_cache` and `out`: `FLASHMLA_DTYPE_*`.
     */
    int32_t dtype;
    /**
     * `FLASHMLA_FLAG_*`, combined.
     */
    uint32_t flags;
    /**
     * Requests.
     */
    int64_t b;
    /**
     * Query tokens of a request.
     */
    int64_t s_q;
    /**
     * Query heads, a multiple of `h_kv`.
     */
    int64_t h_q;
    /**
     * KV heads, at most 2^30.
     */
    int64_t h_kv;
    /**
     * Elements of a query or cache row: 576, or 512 for a cache without RoPE.
     */
    int64_t d_qk;
    /**
     * Elements of an output row: 512; 0 for the default, 512.
     */
    int64_t d_v;
    /**
     * Pages of the cache.
     */
    int64_t num_blocks;
    /**
     * Tokens of a page, at least 1. Multiples of 64 run at full speed.
     */
    int64_t page_block_size;
    /**
     * Columns of the block table.
     */
    int64_t max_blocks_per_seq;
    /**
     * Factor of Q K^T; 0 for the default, d_qk^-0.5.
     */
    float softmax_scale;
    /**
     * Must be 0.
     */
    int32_t reserved;
    /**
     * `[b, s_q, h_q, d_qk]`, 16-byte aligned, strides multiples of 8, the innermost 1.
     */
    struct flashmla_const_tensor_t q;
    /**
     * `[num_blocks, page_block_size, h_kv, d_qk]`, alignment as `q`; see `kv_layout` for pages of FP8.
     */
    struct flashmla_const_tensor_t kv_cache;
    /**
     * `[b, max_blocks_per_seq]` int32: pages of each request in order. Entries past the last used
     * page may hold anything; a used entry outside `[0, num_blocks)` reads as a page of zeros.
     */
    struct flashmla_const_tensor_t block_table;
    /**
     * `[b]` int32: cached tokens of each request, clamped to what the block table can hold.
     */
    struct flashmla_const_tensor_t cache_seqlens;
    /**
     * `[b, s_q, h_q, 512]`, alignment as `q`.
     */
    struct flashmla_tensor_t out;
    /**
     * `[b, h_q, s_q]` FP32, any strides; `data` NULL: not wanted.
     */
    struct flashmla_tensor_t lse;
    /**
     * Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
     */
    void *workspace;
    /**
     * Bytes at `workspace`.
     */
    size_t workspace_size;
    /**
     * The plan: written by `flashmla_dense_decode_plan`, read by `flashmla_dense_decode`.
     */
    struct flashmla_plan_t *plan;
    /**
     * How `kv_cache` stores tokens: `FLASHMLA_LAYOUT_*`, 0 for plain rows of `dtype`. With pages of FP8 `dtype`
     * is BF16, `h_kv` 1, `d_qk` the layout's, and `kv_cache` is bytes, `[num_blocks, bytes of a page]`: 16-byte
     * aligned, the stride between pages in bytes, a multiple of 16 and no smaller than a page.
     */
    int32_t kv_layout;
    /**
     * Must be 0.
     */
    int32_t reserved2;
} flashmla_dense_decode_params_t;

/**
 * How a problem would be run.
 */
typedef struct flashmla_kernel_info_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * Name of the kernel, NUL-terminated.
     */
    char name[64];
    /**
     * Thread blocks of the launch, at most, 0 on the CPU.
     */
    int64_t thread_blocks;
    /**
     * Thread blocks of a cluster, 0 on the CPU.
     */
    int32_t cluster_size;
    /**
     * Parts over which the batch is divided, 0 on the CPU.
     */
    int32_t partitions;
} flashmla_kernel_info_t;

/**
 * Parameters of sparse decode. Sizes count elements, strides are in elements; those of the caches in bytes.
 *
 * Zero every member that you do not set (`FLASHMLA_SPARSE_DECODE_PARAMS_INIT`).
 */
typedef struct flashmla_sparse_decode_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * How `kv_cache` stores tokens: `FLASHMLA_LAYOUT_V32` or `FLASHMLA_LAYOUT_V4`.
     */
    int32_t layout;
    /**
     * `FLASHMLA_FLAG_BATCH_INVARIANT` and `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`, combined.
     */
    uint32_t flags;
    /**
     * Factor of Q K^T; 0 for the default, d_qk^-0.5.
     */
    float softmax_scale;
    /**
     * How `extra_kv_cache` stores tokens: 0, as `kv_cache` does; no other is supported.
     */
    int32_t extra_layout;
    /**
     * Requests.
     */
    int64_t b;
    /**
     * Query tokens of a request.
     */
    int64_t s_q;
    /**
     * Query heads, at least 1; all share the one KV head.
     */
    int64_t h_q;
    /**
     * Elements of a query row: 576 with `FLASHMLA_LAYOUT_V32`, 512 with `FLASHMLA_LAYOUT_V4`.
     */
    int64_t d_qk;
    /**
     * Pages of the cache.
     */
    int64_t num_blocks;
    /**
     * Tokens of a page, at least 1.
     */
    int64_t page_block_size;
    /**
     * Indices of a query token.
     */
    int64_t topk;
    /**
     * Pages of the second cache. There is one where any of the `extra_` members is not 0.
     */
    int64_t extra_num_blocks;
    /**
     * Tokens of its pages, at least 1.
     */
    int64_t extra_page_block_size;
    /**
     * Indices of a query token into it.
     */
    int64_t extra_topk;
    /**
     * `[b, s_q, h_q, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
     */
    struct flashmla_const_tensor_t q;
    /**
     * Bytes, `[num_blocks, bytes of a page]`: 16-byte aligned, the stride between pages in bytes, a multiple of
     * 16 (rows are copied by 16 bytes; contiguous `FLASHMLA_LAYOUT_V4` pages of an odd number of tokens are not)
     * and no smaller than a page. Tokens that no index names may hold anything.
     */
    struct flashmla_const_tensor_t kv_cache;
    /**
     * `[b, s_q, topk]` int32, the innermost stride 1: the tokens that each query token attends to, as
     * page * page_block_size + position in the page. Every index outside
     * `[0, num_blocks * page_block_size)` masks its entry. A token that is named twice counts twice.
     */
    struct flashmla_const_tensor_t indices;
    /**
     * `[b, s_q]` int32, any strides: how many of its indices count, from the first, clamped to `[0, topk]`; the
     * others may hold anything. Strides {1, 0}: one length for each request. `data` NULL: all count.
     */
    struct flashmla_const_tensor_t topk_length;
    /**
     * The second cache, as `kv_cache`: attention runs over the tokens named in either.
     */
    struct flashmla_const_tensor_t extra_kv_cache;
    /**
     * `[b, s_q, extra_topk]` int32, as `indices`.
     */
    struct flashmla_const_tensor_t extra_indices;
    /**
     * `[b, s_q]` int32, as `topk_length`.
     */
    struct flashmla_const_tensor_t extra_topk_length;
    /**
     * `[h_q]` FP32, any stride: attention sinks. `out` is multiplied by exp(lse) / (exp(lse) + exp(sink)); `lse`
     * does not see it. -inf changes nothing, +inf makes `out` 0. `data` NULL: none.
     */
    struct flashmla_const_tensor_t attn_sink;
    /**
     * `[b, s_q, h_q, 512]` BF16, alignment as `q`.
     */
    struct flashmla_tensor_t out;
    /**
     * `[b, h_q, s_q]` FP32, any strides; `data` NULL: not wanted.
     */
    struct flashmla_tensor_t lse;
    /**
     * Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
     */
    void *workspace;
    /**
     * Bytes at `workspace`.
     */
    size_t workspace_size;
    /**
     * The plan: written by `flashmla_sparse_decode_plan`, read by `flashmla_sparse_decode`.
     */
    struct flashmla_plan_t *plan;
} flashmla_sparse_decode_params_t;

/**
 * Parameters of `flashmla_kv_cache_append`.
 *
 * Zero every member that you do not set (`FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT`).
 */
typedef struct flashmla_kv_cache_append_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * How the cache stores tokens: `FLASHMLA_LAYOUT_*`.
     */
    int32_t layout;
    /**
     * How scales are chosen: `FLASHMLA_SCALE_*`. `FLASHMLA_LAYOUT_V4` holds powers of two alone; plain rows have
     * no scales.
     */
    int32_t scale_rule;
    /**
     * Type of `slot_mapping`: `FLASHMLA_INDEX_*`.
     */
    int32_t slot_type;
    /**
     * Must be 0.
     */
    int32_t reserved;
    /**
     * Rows.
     */
    int64_t n;
    /**
     * Elements of a row: 576 or 512; with FP8 pages the layout's.
     */
    int64_t d_qk;
    /**
     * Pages of the cache.
     */
    int64_t num_blocks;
    /**
     * Tokens of a page, at least 1.
     */
    int64_t page_block_size;
    /**
     * `[n, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
     */
    struct flashmla_const_tensor_t rows;
    /**
     * `[n]` int32 or int64, any stride: where each row goes, as page * page_block_size + position in the page.
     * -1, or any other slot outside `[0, num_blocks * page_block_size)`: nowhere.
     */
    struct flashmla_const_tensor_t slot_mapping;
    /**
     * FP8 pages: bytes, `[num_blocks, bytes of a page]`, 16-byte aligned, the stride between pages in bytes, a
     * multiple of 16 and no smaller than a page. Plain: `[num_blocks, page_block_size, d_qk]` of 16 bits,
     * alignment as `rows`.
     */
    struct flashmla_tensor_t kv_cache;
} flashmla_kv_cache_append_params_t;

/**
 * Parameters of `flashmla_kv_cache_gather`.
 *
 * Zero every member that you do not set (`FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT`).
 */
typedef struct flashmla_kv_cache_gather_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * How the cache stores tokens: `FLASHMLA_LAYOUT_*`.
     */
    int32_t layout;
    /**
     * Must be 0.
     */
    int32_t reserved;
    /**
     * Rows of `rows`.
     */
    int64_t n;
    /**
     * Elements of a row: 576 or 512; with FP8 pages the layout's.
     */
    int64_t d_qk;
    /**
     * Pages of the cache.
     */
    int64_t num_blocks;
    /**
     * Tokens of a page, at least 1.
     */
    int64_t page_block_size;
    /**
     * Requests of `block_table`; 0 with `indices`.
     */
    int64_t b;
    /**
     * Columns of `block_table`.
     */
    int64_t max_blocks_per_seq;
    /**
     * As in `flashmla_kv_cache_append`.
     */
    struct flashmla_const_tensor_t kv_cache;
    /**
     * `[n]` int32, any stride: the token of each row, as page * page_block_size + position in the page.
     */
    struct flashmla_const_tensor_t indices;
    /**
     * `[b, max_blocks_per_seq]` int32, any strides: pages of each request in order. Instead of `indices`.
     */
    struct flashmla_const_tensor_t block_table;
    /**
     * `[b + 1]` int32, any stride, ascending: request i gets the rows from `cu_seqlens[i]` to before
     * `cu_seqlens[i + 1]`.
     */
    struct flashmla_const_tensor_t cu_seqlens;
    /**
     * `[b]` int32, any stride: the token of each request that its first row gets. `data` NULL: 0.
     */
    struct flashmla_const_tensor_t seq_starts;
    /**
     * `[n, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
     */
    struct flashmla_tensor_t rows;
} flashmla_kv_cache_gather_params_t;

/**
 * Parameters of `flashmla_map_indices`.
 *
 * Zero every member that you do not set (`FLASHMLA_MAP_INDICES_PARAMS_INIT`).
 */
typedef struct flashmla_map_indices_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * Requests.
     */
    int64_t b;
    /**
     * Query tokens of a request.
     */
    int64_t s_q;
    /**
     * Positions of a query token.
     */
    int64_t topk;
    /**
     * Pages of the cache.
     */
    int64_t num_blocks;
    /**
     * Tokens of a page, at least 1.
     */
    int64_t page_block_size;
    /**
     * Columns of the block table.
     */
    int64_t max_blocks_per_seq;
    /**
     * `[b, s_q, topk]` int32, the innermost stride 1: tokens of the request, counted from its first.
     */
    struct flashmla_const_tensor_t positions;
    /**
     * `[b, max_blocks_per_seq]` int32, any strides: pages of each request in order.
     */
    struct flashmla_const_tensor_t block_table;
    /**
     * `[b]` int32, any stride: positions from here on become -1. `data` NULL: those that the block table has no
     * room for.
     */
    struct flashmla_const_tensor_t cache_seqlens;
    /**
     * `[b, s_q, topk]` int32, the innermost stride 1; may be `positions` itself, with its strides.
     */
    struct flashmla_tensor_t indices;
} flashmla_map_indices_params_t;

/**
 * Parameters of sparse prefill. Sizes count elements, strides are in elements. There is no batch
 * axis: requests are laid one after another along `s_q`, their rows along `s_kv`.
 *
 * Zero every member that you do not set (`FLASHMLA_SPARSE_PREFILL_PARAMS_INIT`).
 */
typedef struct flashmla_sparse_prefill_params_t {
    /**
     * Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
     */
    size_t struct_size;
    /**
     * 0 or `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`.
     */
    uint32_t flags;
    /**
     * Factor of Q K^T; 0 for the default, d_qk^-0.5.
     */
    float softmax_scale;
    /**
     * Query tokens.
     */
    int64_t s_q;
    /**
     * Query heads, at least 1; all share the one KV head.
     */
    int64_t h_q;
    /**
     * Rows of `kv`.
     */
    int64_t s_kv;
    /**
     * Elements of a query or KV row: 576, or 512 for rows without RoPE.
     */
    int64_t d_qk;
    /**
     * Indices of a query token.
     */
    int64_t topk;
    /**
     * `[s_q, h_q, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
     */
    struct flashmla_const_tensor_t q;
    /**
     * `[s_kv, 1, d_qk]` BF16, alignment as `q`. Rows that no index names may hold anything.
     */
    struct flashmla_const_tensor_t kv;
    /**
     * `[s_q, 1, topk]` int32, the innermost stride 1: the rows of `kv` that each query token attends to.
     * Every index outside `[0, s_kv)` masks its entry. A row that is named twice counts twice.
     */
    struct flashmla_const_tensor_t indices;
    /**
     * `[s_q]` int32, any stride: how many of its indices count, from the first, clamped to `[0, topk]`; the
     * others may hold anything. `data` NULL: all.
     */
    struct flashmla_const_tensor_t topk_length;
    /**
     * `[h_q]` FP32, any stride: attention sinks. `out` is multiplied by exp(lse) / (exp(lse) + exp(sink));
     * `max_logits` and `lse` do not see it. -inf changes nothing, +inf makes `out` 0. `data` NULL: none.
     */
    struct flashmla_const_tensor_t attn_sink;
    /**
     * `[s_q, h_q, 512]` BF16, alignment as `q`.
     */
    struct flashmla_tensor_t out;
    /**
     * `[s_q, h_q]` FP32, any strides; `data` NULL: not wanted.
     */
    struct flashmla_tensor_t max_logits;
    /**
     * `[s_q, h_q]` FP32, any strides; `data` NULL: not wanted.
     */
    struct flashmla_tensor_t lse;
    /**
     * Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
     */
    void *workspace;
    /**
     * Bytes at `workspace`.
     */
    size_t workspace_size;
} flashmla_sparse_prefill_params_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the loaded library as `major * 10000 + minor * 100 + patch`.
 *
 * Compare with the `FLASHMLA_VERSION_*` macros to see whether header and library are of one
 * release. Thread-safe.
 */
int32_t flashmla_version(void);

/**
 * The name of a status code, such as "FLASHMLA_ERROR_NULL_POINTER"; never NULL, and
 * "FLASHMLA_ERROR_UNKNOWN" for a code that this version does not know. Static. Thread-safe.
 */
const char *flashmla_status_name(flashmla_status_t status);

/**
 * Copies the message of this thread's last failed call into `buffer`, NUL-terminated and cut to
 * `size` bytes, and returns the bytes that the whole message needs, the NUL included (1 where no
 * call failed yet).
 *
 * The message names the argument, its value and what it must be. A successful call does not
 * change it. `buffer` may be NULL if `size` is 0.
 */
size_t flashmla_last_error(char *buffer, size_t size);

/**
 * Makes a device ready and writes a context to `*out`.
 *
 * `device` is a CUDA device ordinal, or `FLASHMLA_DEVICE_CPU`. `options` may be NULL. Everything
 * that blocks, allocates, or is illegal during stream capture happens here: loading the driver
 * and the kernels, setting their attributes. The primary context of the device is retained for as
 * long as the process lives; kernels are never unloaded.
 *
 * Thread-safe. Errors: `FLASHMLA_ERROR_NO_DRIVER`, `FLASHMLA_ERROR_DRIVER_TOO_OLD`,
 * `FLASHMLA_ERROR_NO_DEVICE`, `FLASHMLA_ERROR_UNSUPPORTED_DEVICE`, `FLASHMLA_ERROR_NO_KERNELS`,
 * `FLASHMLA_ERROR_CUDA` + CUresult, argument errors.
 */
flashmla_status_t flashmla_create(int32_t device,
                                  const struct flashmla_options_t *options,
                                  struct flashmla_context_t **out);

/**
 * Frees a context. NULL is fine. No call may be using it; work already on streams goes on.
 */
flashmla_status_t flashmla_destroy(struct flashmla_context_t *context);

/**
 * Describes the context's device. Set `out->struct_size` first (`FLASHMLA_DEVICE_INFO_INIT`).
 */
flashmla_status_t flashmla_get_device_info(const struct flashmla_context_t *context,
                                           struct flashmla_device_info_t *out);

/**
 * Whether this context can run the problem, and with which kernel.
 *
 * Reads sizes, `dtype`, `kv_layout` and `flags`; pointers, strides and the plan are not looked at. Pure host
 * arithmetic, thread-safe, legal during capture. Set `out->struct_size` first
 * (`FLASHMLA_KERNEL_INFO_INIT`). Errors: those of `flashmla_dense_decode` for sizes and options.
 */
flashmla_status_t flashmla_dense_decode_query(const struct flashmla_context_t *context,
                                              const struct flashmla_dense_decode_params_t *params,
                                              struct flashmla_kernel_info_t *out);

/**
 * Bytes of workspace that `flashmla_dense_decode` needs, to `*size`.
 *
 * Pure host arithmetic: thread-safe, legal during capture. What it gives for some `b`, `s_q` and
 * `max_blocks_per_seq` suffices for every smaller value of them too, whatever the lengths: an
 * engine asks once, with its maxima. 0 where nothing can be split, and for CPU contexts. Reads
 * sizes, `dtype`, `kv_layout` and `flags`.
 */
flashmla_status_t flashmla_dense_decode_workspace_size(const struct flashmla_context_t *context,
                                                       const struct flashmla_dense_decode_params_t *params,
                                                       size_t *size);

/**
 * Bytes of device memory that a plan needs, to `*size`.
 *
 * As `flashmla_dense_decode_workspace_size`: pure, monotone in `b` and `s_q`, 0 for CPU contexts.
 */
flashmla_status_t flashmla_dense_decode_plan_size(const struct flashmla_context_t *context,
                                                  const struct flashmla_dense_decode_params_t *params,
                                                  size_t *size);

/**
 * Divides the work of a step over the device: writes the plan to `params->plan->data` on
 * `stream`, and its fingerprint to `params->plan->fingerprint` at once.
 *
 * Once per step, before the first layer: the plan depends on the sizes, `flags` and the values of
 * `cache_seqlens` when the stream gets there, and serves every `flashmla_dense_decode` with these.
 * Reads `cache_seqlens` alone of the tensors. Does not allocate or synchronise; may be captured:
 * a replay plans anew from the lengths it finds. Thread-safe for different plans.
 */
flashmla_status_t flashmla_dense_decode_plan(const struct flashmla_context_t *context,
                                             const struct flashmla_dense_decode_params_t *params,
                                             cudaStream_t stream);

/**
 * Attention of `s_q` query tokens per request over a paged KV cache, all heads of a KV head
 * sharing its rows: `out = softmax(softmax_scale Q K^T) V`, V being the first 512 elements of a
 * cache row, and `lse = ln(sum(exp(softmax_scale Q K^T)))`.
 *
 * A query that sees no token gets `out` 0 and `lse` -inf. Products are of the inputs' type,
 * sums FP32. Pages of FP8 (`kv_layout`) are read as in `flashmla_sparse_decode`. Runs on `stream` of
 * the context's device (any CUDA context; NULL is the default stream); a CPU context takes NULL and computes before it returns. Does not allocate,
 * synchronise or read device data; may be captured, and replayed after lengths, block tables and
 * plan have changed in place. Thread-safe; calls that run at the same time need workspaces of
 * their own. Needs the plan of this step (a CPU context too, where making it costs nothing).
 *
 * Errors: null or misaligned pointers, wrong sizes or strides, a workspace that is too small, a
 * plan made for other parameters: nothing is launched and nothing is written.
 */
flashmla_status_t flashmla_dense_decode(const struct flashmla_context_t *context,
                                        const struct flashmla_dense_decode_params_t *params,
                                        cudaStream_t stream);

/**
 * Whether this context can run the problem, and with which kernel.
 *
 * Reads sizes, layouts and `flags`; strides and the plan are not looked at, and of pointers only whether they
 * are NULL. Pure host arithmetic, thread-safe, legal during capture. Set `out->struct_size` first
 * (`FLASHMLA_KERNEL_INFO_INIT`). Errors: those of `flashmla_sparse_decode` for sizes and options.
 */
flashmla_status_t flashmla_sparse_decode_query(const struct flashmla_context_t *context,
                                               const struct flashmla_sparse_decode_params_t *params,
                                               struct flashmla_kernel_info_t *out);

/**
 * Bytes of workspace that `flashmla_sparse_decode` needs, to `*size`.
 *
 * Pure host arithmetic: thread-safe, legal during capture. What it gives for some `b`, `s_q`, `topk` and
 * `extra_topk` suffices for every smaller value of them too, whatever the lengths and indices: an engine asks
 * once, with its maxima. 0 where nothing can be split, and for CPU contexts. Reads sizes, layouts and `flags`.
 */
flashmla_status_t flashmla_sparse_decode_workspace_size(const struct flashmla_context_t *context,
                                                        const struct flashmla_sparse_decode_params_t *params,
                                                        size_t *size);

/**
 * Bytes of device memory that a plan needs, to `*size`.
 *
 * As `flashmla_sparse_decode_workspace_size`: pure, monotone in `b` and `s_q`, 0 for CPU contexts.
 */
flashmla_status_t flashmla_sparse_decode_plan_size(const struct flashmla_context_t *context,
                                                   const struct flashmla_sparse_decode_params_t *params,
                                                   size_t *size);

/**
 * Divides the work of a step over the device: writes the plan to `params->plan->data` on `stream`, and its
 * fingerprint to `params->plan->fingerprint` at once.
 *
 * Once per step, before the first layer: the plan depends on the sizes, `flags` and the values of `topk_length`
 * and `extra_topk_length` when the stream gets there, and serves every `flashmla_sparse_decode` with these.
 * Reads these two alone of the tensors; without them a plan serves every step of the same sizes. Does not
 * allocate or synchronise; may be captured: a replay plans anew from the lengths it finds. Thread-safe for
 * different plans.
 */
flashmla_status_t flashmla_sparse_decode_plan(const struct flashmla_context_t *context,
                                              const struct flashmla_sparse_decode_params_t *params,
                                              cudaStream_t stream);

/**
 * Attention of every query token to the tokens of an FP8 cache, and of a second one where there is one, that
 * its indices name, all heads sharing them: `out = softmax(softmax_scale Q K^T) V`, V being the first 512
 * elements of a token, and `lse = ln(sum(exp(softmax_scale Q K^T)))`.
 *
 * A query that attends to nothing (every index masked, lengths of 0, `topk` 0, no pages) gets `out` 0 and `lse`
 * -inf (+inf under `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`). An element of the cache is its e4m3 value times its scale,
 * rounded to BF16 once; scales may be any positive finite number that their type holds. A token whose scale is NaN reads
 * as NaN in that scale's elements, and so become the results of the queries that attend to it, and no others; likewise a rotary element that is NaN. e4m3's two codes of NaN
 * (0x7F and 0xFF) read as NaN in a CPU context and as +-480 times the scale in a GPU context: to look for them costs
 * a tenth of the time. (`flashmla_kv_cache_append` gives what holds a NaN a scale of NaN, too.)
 *
 * Products are of BF16, sums FP32. Runs on `stream` of the context's device (any CUDA context; NULL is the
 * default stream); a CPU context takes NULL and computes before it returns. Does not allocate, synchronise or
 * read device data; may be captured, and replayed after indices, lengths, contents and plan have changed in
 * place. Thread-safe; calls that run at the same time need workspaces of their own. Needs the plan of this step
 * (a CPU context too, where making it costs nothing).
 *
 * Errors: null or misaligned pointers, wrong sizes or strides, a layout that does not fit `d_qk`, a second cache
 * without indices or the reverse, a workspace that is too small, a plan made for other parameters: nothing is
 * launched and nothing is written.
 */
flashmla_status_t flashmla_sparse_decode(const struct flashmla_context_t *context,
                                         const struct flashmla_sparse_decode_params_t *params,
                                         cudaStream_t stream);

/**
 * Stores BF16 rows in the slots of a cache, quantised where its layout asks for that: what an engine does with
 * the keys of each step.
 *
 * A group of elements with one scale is stored as e4m3(x / scale), rounded to nearest even, where the scale
 * follows from the group's largest magnitude by `scale_rule`, in FP32; a group with a NaN or an infinity gets
 * the scale NaN and codes of NaN. The rotary part, and plain rows (of any 16-bit type), are copied. The
 * meaningless byte of `FLASHMLA_LAYOUT_V4`'s scale rows becomes 0. No other byte of the cache changes. Slots
 * should differ: rows with one slot leave there what either of them would, or a mixture.
 *
 * Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
 * NULL and stores before it returns. Needs no workspace; does not allocate, synchronise or read device data;
 * may be captured, and replayed after rows and slots have changed in place. Thread-safe.
 *
 * Errors: null or misaligned pointers, wrong sizes or strides, `FLASHMLA_SCALE_EXACT` with
 * `FLASHMLA_LAYOUT_V4`: nothing is launched and nothing is written.
 */
flashmla_status_t flashmla_kv_cache_append(const struct flashmla_context_t *context,
                                           const struct flashmla_kv_cache_append_params_t *params,
                                           cudaStream_t stream);

/**
 * Reads tokens of a cache into BF16 rows, for prefill over a cached prefix, say: the tokens that `indices` name,
 * or ranges of requests through `block_table`, row `cu_seqlens[i] + j` being token `seq_starts[i] + j` of
 * request i.
 *
 * An element is its e4m3 value times its scale, in FP32 and then rounded to nearest even; exact where the scale is
 * a power of two. The rotary part, and plain rows (of any 16-bit type), are copied. NaN codes and scales read
 * as NaN. A row whose index lies outside `[0, num_blocks * page_block_size)`, whose token lies outside the block
 * table or whose page outside the cache becomes 0; a row that no request has is left as it is.
 *
 * Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
 * NULL and reads before it returns. Needs no workspace; does not allocate, synchronise or read device data on the
 * host; may be captured, and replayed after the inputs have changed in place. Thread-safe.
 *
 * Errors: null or misaligned pointers, wrong sizes or strides, both of `indices` and `block_table`: nothing is
 * launched and nothing is written.
 */
flashmla_status_t flashmla_kv_cache_gather(const struct flashmla_context_t *context,
                                           const struct flashmla_kv_cache_gather_params_t *params,
                                           cudaStream_t stream);

/**
 * Turns token positions within requests, as an indexer returns them, into the indices of `flashmla_sparse_decode`:
 * `block_table[i][position / page_block_size] * page_block_size + position % page_block_size`.
 *
 * A position that is negative, or not below the request's length or what the block table has room for, becomes
 * -1, and so does one whose page lies outside `[0, num_blocks)` or whose index does not fit int32.
 *
 * Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
 * NULL and computes before it returns. Needs no workspace; does not allocate, synchronise or read device data on
 * the host; may be captured, and replayed after the inputs have changed in place. Thread-safe.
 *
 * Errors: null or misaligned pointers, wrong sizes or strides: nothing is launched and nothing is written.
 */
flashmla_status_t flashmla_map_indices(const struct flashmla_context_t *context,
                                       const struct flashmla_map_indices_params_t *params,
                                       cudaStream_t stream);

/**
 * Whether this context can run the problem, and with which kernel.
 *
 * Reads sizes and `flags`; pointers and strides are not looked at. Pure host arithmetic, thread-safe,
 * legal during capture. Set `out->struct_size` first (`FLASHMLA_KERNEL_INFO_INIT`); `partitions` is 0,
 * there is no plan. Errors: those of `flashmla_sparse_prefill` for sizes and options.
 */
flashmla_status_t flashmla_sparse_prefill_query(const struct flashmla_context_t *context,
                                                const struct flashmla_sparse_prefill_params_t *params,
                                                struct flashmla_kernel_info_t *out);

/**
 * Bytes of workspace that `flashmla_sparse_prefill` needs, to `*size`.
 *
 * Pure host arithmetic: thread-safe, legal during capture. What it gives for some `s_q`, `s_kv` and
 * `topk` suffices for every smaller value of them too, whatever the lengths and indices: an engine asks
 * once, with its maxima. 0 in this version. Reads sizes and `flags`.
 */
flashmla_status_t flashmla_sparse_prefill_workspace_size(const struct flashmla_context_t *context,
                                                         const struct flashmla_sparse_prefill_params_t *params,
                                                         size_t *size);

/**
 * Attention of every query token to the rows of a BF16 latent KV that its indices name, all heads sharing
 * them: `out = softmax(S) V` with `S = softmax_scale Q K^T`, V being the first 512 elements of a row,
 * `max_logits = max(S)` and `lse = ln(sum(exp(S)))`, each over the attended rows alone.
 *
 * A query that attends to nothing (every index masked, a length of 0, `topk` 0, `s_kv` 0) gets `out` 0,
 * `max_logits` -inf and `lse` -inf (+inf under `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`). Masking hides rows
 * from a query, causally or otherwise, by leaving them out of its indices.
 *
 * Products are of BF16, sums FP32. Runs on `stream` of the context's device (any CUDA context; NULL is
 * the default stream); a CPU context takes NULL and computes before it returns. Does not allocate,
 * synchronise or read device data; may be captured, and replayed after indices, lengths and contents have
 * changed in place. Thread-safe; calls that run at the same time need workspaces of their own.
 *
 * `s_q`, `h_q`, `s_kv` and `topk` are at most 2^31 - 1. With `s_q` 0 nothing is read or written.
 *
 * Errors: null or misaligned pointers, wrong sizes or strides: nothing is launched and nothing is written.
 */
flashmla_status_t flashmla_sparse_prefill(const struct flashmla_context_t *context,
                                          const struct flashmla_sparse_prefill_params_t *params,
                                          cudaStream_t stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLASHMLA_H */
