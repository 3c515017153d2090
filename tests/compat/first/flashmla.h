/*
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
/* As CUDA declares it; in C99 a typedef may not be repeated, so not again after CUDA's own headers. */
#if !defined(__DRIVER_TYPES_H__) && !defined(FLASHMLA_NO_STREAM_TYPE)
typedef struct CUstream_st *cudaStream_t;
#endif

/* Initial values of the structs: struct_size set, everything else 0, which means the default. */
#define FLASHMLA_OPTIONS_INIT {sizeof(flashmla_options_t), 0, 0}
#define FLASHMLA_DEVICE_INFO_INIT {sizeof(flashmla_device_info_t), {0}, 0, 0, 0, 0}
#define FLASHMLA_KERNEL_INFO_INIT {sizeof(flashmla_kernel_info_t), {0}, 0, 0, 0}
#define FLASHMLA_PLAN_INIT {sizeof(flashmla_plan_t), NULL, 0, 0}
#define FLASHMLA_DENSE_DECODE_PARAMS_INIT                                                                  \
    {sizeof(flashmla_dense_decode_params_t), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0,                     \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, NULL, 0, NULL}
#define FLASHMLA_SPARSE_PREFILL_PARAMS_INIT                                                                \
    {sizeof(flashmla_sparse_prefill_params_t), 0, 0.0f, 0, 0, 0, 0, 0,                                     \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}},               \
     {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, {NULL, {0, 0, 0, 0}}, NULL, 0}


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

#define FLASHMLA_VERSION_MAJOR 0

#define FLASHMLA_VERSION_MINOR 1

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
     * KV heads.
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
     * `[num_blocks, page_block_size, h_kv, d_qk]`, alignment as `q`.
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
} flashmla_dense_decode_params_t;

/**
 * How a problem would be run.
 */
typedef struct flashmla_kernel_info_t {
    size_t struct_size;
    /**
     * Name of the kernel, NUL-terminated.
     */
    char name[64];
    /**
     * Thread blocks of the launch, 0 on the CPU.
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
 * Parameters of sparse prefill. Sizes count elements, strides are in elements. There is no batch
 * axis: requests are laid one after another along `s_q`, their rows along `s_kv`.
 *
 * Zero every member that you do not set (`FLASHMLA_SPARSE_PREFILL_PARAMS_INIT`).
 */
typedef struct flashmla_sparse_prefill_params_t {
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
 * Reads sizes, `dtype` and `flags`; pointers, strides and the plan are not looked at. Pure host
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
 * sizes, `dtype` and `flags`.
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
 * sums FP32. Runs on `stream` of the context's device (any CUDA context; NULL is the default
 * stream); a CPU context takes NULL and computes before it returns. Does not allocate,
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
 * once, with its maxima. 0 for CPU contexts. Reads sizes and `flags`.
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
 * Errors: null or misaligned pointers, wrong sizes or strides, a workspace that is too small;
 * `FLASHMLA_ERROR_UNSUPPORTED` in every GPU context: this version runs sparse prefill on the CPU alone.
 * Nothing is launched and nothing is written then.
 */
flashmla_status_t flashmla_sparse_prefill(const struct flashmla_context_t *context,
                                          const struct flashmla_sparse_prefill_params_t *params,
                                          cudaStream_t stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLASHMLA_H */
