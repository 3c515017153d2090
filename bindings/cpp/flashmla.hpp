/*
 * libflashmla in C++17: the C API of flashmla.h with types, ownership and errors of the language. Header-only; it
 * needs flashmla.h and the standard library. What a function computes, and which alignment, stream and threads it
 * wants, is written at the C function of the same name.
 *
 *   Context     owns a flashmla_context_t; moves, does not copy. Closed where default-made, moved from or closed:
 *               its calls are then the error that the C API gives a NULL context.
 *   *Params     plain aggregates, of the layout of their C structs, that begin with every default set:
 *               DenseDecodeParams{.b = 8, .s_q = 1, ...} in C++20, member by member in C++17.
 *   Result<T>   is T where the program has exceptions: a failed call throws flashmla::Error. With
 *               FLASHMLA_NO_EXCEPTIONS defined, or exceptions switched off in the compiler, Result<T> is a class
 *               that holds a T or an Error, and nothing here throws.
 *   Error       status, category and message of the call that failed.
 *
 * Object files with and without exceptions may be linked together: their names differ.
 */
#ifndef FLASHMLA_HPP
#define FLASHMLA_HPP

#if !defined(__cplusplus) || __cplusplus < 201703L
#error "flashmla.hpp needs C++17 or later; flashmla.h serves C and C++11"
#endif

#if !defined(FLASHMLA_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define FLASHMLA_NO_EXCEPTIONS 1
#endif

#include <flashmla.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#ifndef FLASHMLA_NO_EXCEPTIONS
#include <stdexcept>
#endif

namespace flashmla {

/* Those of flashmla.h. A newer library may return others; they arrive with their numbers. */
enum class Status : std::int32_t {
    success = FLASHMLA_SUCCESS,
    invalid_argument = FLASHMLA_ERROR_INVALID_ARGUMENT,
    null_pointer = FLASHMLA_ERROR_NULL_POINTER,
    struct_size = FLASHMLA_ERROR_STRUCT_SIZE,
    invalid_shape = FLASHMLA_ERROR_INVALID_SHAPE,
    invalid_stride = FLASHMLA_ERROR_INVALID_STRIDE,
    misaligned = FLASHMLA_ERROR_MISALIGNED,
    unknown_enum = FLASHMLA_ERROR_UNKNOWN_ENUM,
    overflow = FLASHMLA_ERROR_OVERFLOW,
    buffer_too_small = FLASHMLA_ERROR_BUFFER_TOO_SMALL,
    plan_mismatch = FLASHMLA_ERROR_PLAN_MISMATCH,
    invalid_stream = FLASHMLA_ERROR_INVALID_STREAM,
    unsupported = FLASHMLA_ERROR_UNSUPPORTED,
    unsupported_device = FLASHMLA_ERROR_UNSUPPORTED_DEVICE,
    no_driver = FLASHMLA_ERROR_NO_DRIVER,
    driver_too_old = FLASHMLA_ERROR_DRIVER_TOO_OLD,
    no_device = FLASHMLA_ERROR_NO_DEVICE,
    no_kernels = FLASHMLA_ERROR_NO_KERNELS,
    cuda = FLASHMLA_ERROR_CUDA, /* plus the CUresult, see cuda_result() */
    internal = FLASHMLA_ERROR_INTERNAL,
    panic = FLASHMLA_ERROR_PANIC,
};

/* The thousands of a status: who has to do something about it. */
enum class Category : std::int32_t {
    success = 0,
    argument = 1,    /* the caller's code */
    unsupported = 2, /* another device, or another way to compute it */
    environment = 3, /* driver, devices, how the library was built */
    cuda = 4,        /* the driver refused; often what an earlier kernel did */
    internal = 5,    /* a defect of the library */
};

enum class Dtype : std::int32_t {
    bf16 = FLASHMLA_DTYPE_BF16,
    fp16 = FLASHMLA_DTYPE_FP16,
};

/* How a cache stores tokens; flashmla.h has the bytes. */
enum class Layout : std::int32_t {
    plain = FLASHMLA_LAYOUT_PLAIN,
    v32 = FLASHMLA_LAYOUT_V32, /* FP8, FP32 scales, d_qk 576 */
    v4 = FLASHMLA_LAYOUT_V4,   /* FP8, e8m0 scales, d_qk 512 */
};

enum class IndexType : std::int32_t {
    int32 = FLASHMLA_INDEX_INT32,
    int64 = FLASHMLA_INDEX_INT64,
};

/* How scales are chosen when rows are quantised. */
enum class ScaleRule : std::int32_t {
    power_of_two = FLASHMLA_SCALE_POWER_OF_TWO,
    exact = FLASHMLA_SCALE_EXACT,
};

enum class Flags : std::uint32_t {
    none = 0,
    causal = FLASHMLA_FLAG_CAUSAL,
    lse_empty_pos_inf = FLASHMLA_FLAG_LSE_EMPTY_POS_INF,
    batch_invariant = FLASHMLA_FLAG_BATCH_INVARIANT,
};

[[nodiscard]] constexpr Flags operator|(Flags a, Flags b) noexcept {
    return static_cast<Flags>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}
[[nodiscard]] constexpr Flags operator&(Flags a, Flags b) noexcept {
    return static_cast<Flags>(static_cast<std::uint32_t>(a) & static_cast<std::uint32_t>(b));
}
constexpr Flags& operator|=(Flags& a, Flags b) noexcept { return a = a | b; }

/* The ordinal of the CPU backend. */
inline constexpr std::int32_t cpu_device = FLASHMLA_DEVICE_CPU;

/* The version of this header, as version() gives that of the loaded library. */
inline constexpr std::int32_t header_version =
    FLASHMLA_VERSION_MAJOR * 10000 + FLASHMLA_VERSION_MINOR * 100 + FLASHMLA_VERSION_PATCH;

[[nodiscard]] constexpr Category category(Status status) noexcept {
    return static_cast<Category>(static_cast<std::int32_t>(status) / 1000);
}

/* The CUresult that the driver gave; 0 where the status is not of that category or has none. */
[[nodiscard]] constexpr std::int32_t cuda_result(Status status) noexcept {
    return category(status) == Category::cuda ? static_cast<std::int32_t>(status) - FLASHMLA_ERROR_CUDA : 0;
}

/* The name of its macro in flashmla.h. Static, never null. */
[[nodiscard]] inline const char* status_name(Status status) noexcept {
    return flashmla_status_name(static_cast<flashmla_status_t>(status));
}

[[nodiscard]] inline std::int32_t version() noexcept { return flashmla_version(); }

/* The message of this thread's last failed call, whole. An Error has its own already. */
[[nodiscard]] inline std::string last_error() {
    const std::size_t size = flashmla_last_error(nullptr, 0);
    std::string message(size, '\0');
    flashmla_last_error(message.data(), size);
    message.resize(size - 1); /* without the NUL */
    return message;
}

/* --- Structs: those of flashmla.h, member for member ------------------------------------------------------- */

struct Options {
    std::size_t struct_size = sizeof(flashmla_options_t);
    std::int32_t cpu_threads = 0; /* 0: one per available core */
    std::int32_t reserved = 0;
};

struct DeviceInfo {
    std::size_t struct_size = sizeof(flashmla_device_info_t);
    char name[128] = {};
    std::int32_t device = 0;
    std::int32_t compute_capability = 0; /* major * 10 + minor; 0: the CPU backend */
    std::int32_t multiprocessors = 0;
    std::int32_t driver_version = 0;
};

struct KernelInfo {
    std::size_t struct_size = sizeof(flashmla_kernel_info_t);
    char name[64] = {};
    std::int64_t thread_blocks = 0;
    std::int32_t cluster_size = 0;
    std::int32_t partitions = 0;
};

/* Strides in elements, outermost first; all 0: contiguous. */
using Strides = std::array<std::int64_t, 4>;

struct ConstTensor {
    const void* data = nullptr;
    Strides strides = {};
};

struct Tensor {
    void* data = nullptr;
    Strides strides = {};
};

struct Plan {
    std::size_t struct_size = sizeof(flashmla_plan_t);
    void* data = nullptr; /* device memory, 256-byte aligned; null where the plan size is 0 */
    std::size_t size = 0;
    std::uint64_t fingerprint = 0; /* written by Context's plan functions */
};

struct DenseDecodeParams {
    std::size_t struct_size = sizeof(flashmla_dense_decode_params_t);
    Dtype dtype = Dtype::bf16;
    Flags flags = Flags::none;
    std::int64_t b = 0;
    std::int64_t s_q = 0;
    std::int64_t h_q = 0;
    std::int64_t h_kv = 0;
    std::int64_t d_qk = 0;
    std::int64_t d_v = 0; /* 0: 512 */
    std::int64_t num_blocks = 0;
    std::int64_t page_block_size = 0;
    std::int64_t max_blocks_per_seq = 0;
    float softmax_scale = 0.0f; /* 0: d_qk^-0.5 */
    std::int32_t reserved = 0;
    ConstTensor q = {};             /* [b, s_q, h_q, d_qk] */
    ConstTensor kv_cache = {};      /* [num_blocks, page_block_size, h_kv, d_qk] */
    ConstTensor block_table = {};   /* [b, max_blocks_per_seq] int32 */
    ConstTensor cache_seqlens = {}; /* [b] int32 */
    Tensor out = {};                /* [b, s_q, h_q, 512] */
    Tensor lse = {};                /* [b, h_q, s_q] FP32; null data: not wanted */
    void* workspace = nullptr;
    std::size_t workspace_size = 0;
    Plan* plan = nullptr;
    Layout kv_layout = Layout::plain; /* FP8: kv_cache is bytes, [num_blocks, bytes of a page] */
    std::int32_t reserved2 = 0;
};

struct SparseDecodeParams {
    std::size_t struct_size = sizeof(flashmla_sparse_decode_params_t);
    Layout layout = Layout::plain; /* v32 or v4 */
    Flags flags = Flags::none;
    float softmax_scale = 0.0f;          /* 0: d_qk^-0.5 */
    Layout extra_layout = Layout::plain; /* plain: as layout */
    std::int64_t b = 0;
    std::int64_t s_q = 0;
    std::int64_t h_q = 0;
    std::int64_t d_qk = 0;
    std::int64_t num_blocks = 0;
    std::int64_t page_block_size = 0;
    std::int64_t topk = 0;
    std::int64_t extra_num_blocks = 0;
    std::int64_t extra_page_block_size = 0;
    std::int64_t extra_topk = 0;
    ConstTensor q = {};                 /* [b, s_q, h_q, d_qk] BF16 */
    ConstTensor kv_cache = {};          /* bytes, [num_blocks, bytes of a page] */
    ConstTensor indices = {};           /* [b, s_q, topk] int32; outside the cache: masked */
    ConstTensor topk_length = {};       /* [b, s_q] int32; null data: topk */
    ConstTensor extra_kv_cache = {};    /* a second cache, with indices of its own */
    ConstTensor extra_indices = {};     /* [b, s_q, extra_topk] int32 */
    ConstTensor extra_topk_length = {}; /* [b, s_q] int32; null data: extra_topk */
    ConstTensor attn_sink = {};         /* [h_q] FP32; null data: none */
    Tensor out = {};                    /* [b, s_q, h_q, 512] BF16 */
    Tensor lse = {};                    /* [b, h_q, s_q] FP32; null data: not wanted */
    void* workspace = nullptr;
    std::size_t workspace_size = 0;
    Plan* plan = nullptr;
};

struct KvCacheAppendParams {
    std::size_t struct_size = sizeof(flashmla_kv_cache_append_params_t);
    Layout layout = Layout::plain;
    ScaleRule scale_rule = ScaleRule::power_of_two;
    IndexType slot_type = IndexType::int32;
    std::int32_t reserved = 0;
    std::int64_t n = 0;
    std::int64_t d_qk = 0;
    std::int64_t num_blocks = 0;
    std::int64_t page_block_size = 0;
    ConstTensor rows = {};         /* [n, d_qk] BF16 */
    ConstTensor slot_mapping = {}; /* [n]; outside the cache: nowhere */
    Tensor kv_cache = {};          /* bytes, [num_blocks, bytes of a page]; plain: [num_blocks, page_block_size, d_qk] */
};

struct KvCacheGatherParams {
    std::size_t struct_size = sizeof(flashmla_kv_cache_gather_params_t);
    Layout layout = Layout::plain;
    std::int32_t reserved = 0;
    std::int64_t n = 0;
    std::int64_t d_qk = 0;
    std::int64_t num_blocks = 0;
    std::int64_t page_block_size = 0;
    std::int64_t b = 0;
    std::int64_t max_blocks_per_seq = 0;
    ConstTensor kv_cache = {};    /* as in KvCacheAppendParams */
    ConstTensor indices = {};     /* [n] int32; or by ranges: */
    ConstTensor block_table = {}; /* [b, max_blocks_per_seq] int32 */
    ConstTensor cu_seqlens = {};  /* [b + 1] int32 */
    ConstTensor seq_starts = {};  /* [b] int32; null data: 0 */
    Tensor rows = {};             /* [n, d_qk] BF16 */
};

struct MapIndicesParams {
    std::size_t struct_size = sizeof(flashmla_map_indices_params_t);
    std::int64_t b = 0;
    std::int64_t s_q = 0;
    std::int64_t topk = 0;
    std::int64_t num_blocks = 0;
    std::int64_t page_block_size = 0;
    std::int64_t max_blocks_per_seq = 0;
    ConstTensor positions = {};     /* [b, s_q, topk] int32 */
    ConstTensor block_table = {};   /* [b, max_blocks_per_seq] int32 */
    ConstTensor cache_seqlens = {}; /* [b] int32; null data: what the block table has room for */
    Tensor indices = {};            /* [b, s_q, topk] int32; may be positions */
};

struct SparsePrefillParams {
    std::size_t struct_size = sizeof(flashmla_sparse_prefill_params_t);
    Flags flags = Flags::none;
    float softmax_scale = 0.0f; /* 0: d_qk^-0.5 */
    std::int64_t s_q = 0;
    std::int64_t h_q = 0;
    std::int64_t s_kv = 0;
    std::int64_t d_qk = 0;
    std::int64_t topk = 0;
    ConstTensor q = {};           /* [s_q, h_q, d_qk] BF16 */
    ConstTensor kv = {};          /* [s_kv, 1, d_qk] BF16 */
    ConstTensor indices = {};     /* [s_q, 1, topk] int32; outside [0, s_kv): masked */
    ConstTensor topk_length = {}; /* [s_q] int32; null data: topk */
    ConstTensor attn_sink = {};   /* [h_q] FP32; null data: none */
    Tensor out = {};              /* [s_q, h_q, 512] BF16 */
    Tensor max_logits = {};       /* [s_q, h_q] FP32; null data: not wanted */
    Tensor lse = {};              /* [s_q, h_q] FP32; null data: not wanted */
    void* workspace = nullptr;
    std::size_t workspace_size = 0;
};

/* The same object for a C function, which is compiled apart: it may read and write all of it, and no compiler sees
 * one object under two types. So nothing on this side may look through the pointer. */
namespace abi {
#define FLASHMLA_AS_C(cpp, c)                                                                                \
    inline const c* as_c(const cpp& s) noexcept { return reinterpret_cast<const c*>(&s); }                   \
    inline c* as_c(cpp& s) noexcept { return reinterpret_cast<c*>(&s); }                                     \
    static_assert(std::is_aggregate_v<cpp>, #cpp " has lost its designated initialisers");                  \
    static_assert(std::is_standard_layout_v<cpp> && std::is_trivially_copyable_v<cpp>, #cpp " is no C struct"); \
    static_assert(sizeof(cpp) == sizeof(c) && alignof(cpp) == alignof(c), #cpp " is not laid out as " #c)
#define FLASHMLA_SAME(cpp, c, member)                                                                        \
    static_assert(offsetof(cpp, member) == offsetof(c, member) && sizeof(cpp::member) == sizeof(c::member),  \
                  #cpp "::" #member " is not laid out as in " #c)

FLASHMLA_AS_C(Options, flashmla_options_t);
FLASHMLA_SAME(Options, flashmla_options_t, struct_size);
FLASHMLA_SAME(Options, flashmla_options_t, cpu_threads);
FLASHMLA_SAME(Options, flashmla_options_t, reserved);

FLASHMLA_AS_C(DeviceInfo, flashmla_device_info_t);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, struct_size);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, name);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, device);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, compute_capability);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, multiprocessors);
FLASHMLA_SAME(DeviceInfo, flashmla_device_info_t, driver_version);

FLASHMLA_AS_C(KernelInfo, flashmla_kernel_info_t);
FLASHMLA_SAME(KernelInfo, flashmla_kernel_info_t, struct_size);
FLASHMLA_SAME(KernelInfo, flashmla_kernel_info_t, name);
FLASHMLA_SAME(KernelInfo, flashmla_kernel_info_t, thread_blocks);
FLASHMLA_SAME(KernelInfo, flashmla_kernel_info_t, cluster_size);
FLASHMLA_SAME(KernelInfo, flashmla_kernel_info_t, partitions);

FLASHMLA_AS_C(ConstTensor, flashmla_const_tensor_t);
FLASHMLA_SAME(ConstTensor, flashmla_const_tensor_t, data);
FLASHMLA_SAME(ConstTensor, flashmla_const_tensor_t, strides);

FLASHMLA_AS_C(Tensor, flashmla_tensor_t);
FLASHMLA_SAME(Tensor, flashmla_tensor_t, data);
FLASHMLA_SAME(Tensor, flashmla_tensor_t, strides);

FLASHMLA_AS_C(Plan, flashmla_plan_t);
FLASHMLA_SAME(Plan, flashmla_plan_t, struct_size);
FLASHMLA_SAME(Plan, flashmla_plan_t, data);
FLASHMLA_SAME(Plan, flashmla_plan_t, size);
FLASHMLA_SAME(Plan, flashmla_plan_t, fingerprint);

FLASHMLA_AS_C(DenseDecodeParams, flashmla_dense_decode_params_t);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, struct_size);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, dtype);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, flags);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, b);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, s_q);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, h_q);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, h_kv);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, d_qk);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, d_v);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, num_blocks);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, page_block_size);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, max_blocks_per_seq);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, softmax_scale);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, reserved);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, q);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, kv_cache);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, block_table);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, cache_seqlens);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, out);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, lse);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, workspace);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, workspace_size);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, plan);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, kv_layout);
FLASHMLA_SAME(DenseDecodeParams, flashmla_dense_decode_params_t, reserved2);

FLASHMLA_AS_C(SparseDecodeParams, flashmla_sparse_decode_params_t);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, struct_size);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, layout);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, flags);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, softmax_scale);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_layout);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, b);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, s_q);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, h_q);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, d_qk);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, num_blocks);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, page_block_size);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, topk);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_num_blocks);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_page_block_size);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_topk);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, q);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, kv_cache);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, indices);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, topk_length);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_kv_cache);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_indices);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, extra_topk_length);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, attn_sink);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, out);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, lse);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, workspace);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, workspace_size);
FLASHMLA_SAME(SparseDecodeParams, flashmla_sparse_decode_params_t, plan);

FLASHMLA_AS_C(KvCacheAppendParams, flashmla_kv_cache_append_params_t);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, struct_size);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, layout);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, scale_rule);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, slot_type);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, reserved);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, n);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, d_qk);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, num_blocks);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, page_block_size);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, rows);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, slot_mapping);
FLASHMLA_SAME(KvCacheAppendParams, flashmla_kv_cache_append_params_t, kv_cache);

FLASHMLA_AS_C(KvCacheGatherParams, flashmla_kv_cache_gather_params_t);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, struct_size);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, layout);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, reserved);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, n);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, d_qk);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, num_blocks);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, page_block_size);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, b);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, max_blocks_per_seq);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, kv_cache);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, indices);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, block_table);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, cu_seqlens);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, seq_starts);
FLASHMLA_SAME(KvCacheGatherParams, flashmla_kv_cache_gather_params_t, rows);

FLASHMLA_AS_C(MapIndicesParams, flashmla_map_indices_params_t);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, struct_size);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, b);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, s_q);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, topk);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, num_blocks);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, page_block_size);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, max_blocks_per_seq);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, positions);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, block_table);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, cache_seqlens);
FLASHMLA_SAME(MapIndicesParams, flashmla_map_indices_params_t, indices);

FLASHMLA_AS_C(SparsePrefillParams, flashmla_sparse_prefill_params_t);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, struct_size);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, flags);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, softmax_scale);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, s_q);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, h_q);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, s_kv);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, d_qk);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, topk);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, q);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, kv);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, indices);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, topk_length);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, attn_sink);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, out);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, max_logits);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, lse);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, workspace);
FLASHMLA_SAME(SparsePrefillParams, flashmla_sparse_prefill_params_t, workspace_size);

#undef FLASHMLA_SAME
#undef FLASHMLA_AS_C
}  // namespace abi

/* --- Errors ------------------------------------------------------------------------------------------------ */

#ifndef FLASHMLA_NO_EXCEPTIONS
inline namespace throwing {

/* A failed call. what() is "NAME: message"; copying does not throw. Visible, so that it can be caught outside of
 * a shared library that hides its symbols. */
class __attribute__((visibility("default"))) Error : public std::runtime_error {
public:
    Error(Status status, const std::string& message)
        : std::runtime_error(std::string(status_name(status)) + ": " + message), status_(status) {}

    [[nodiscard]] Status status() const noexcept { return status_; }
    [[nodiscard]] Category category() const noexcept { return flashmla::category(status_); }
    /* What the library said: the argument, its value, what it must be. */
    [[nodiscard]] const char* message() const noexcept {
        return what() + std::char_traits<char>::length(status_name(status_)) + 2;
    }

private:
    Status status_;
};

template <class T>
using Result = T;

namespace detail {

/* Out of line: the path of a call that succeeds stays one comparison. */
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(flashmla_status_t status) {
    throw Error(static_cast<Status>(status), last_error());
}

inline void done(flashmla_status_t status) {
    if (status != FLASHMLA_SUCCESS) fail(status);
}

template <class T>
[[nodiscard]] T done(flashmla_status_t status, T&& value) {
    done(status);
    return std::forward<T>(value);
}

}  // namespace detail

#else
inline namespace returning {

/* Of a failed call; of one that succeeded, Status::success and no message. */
class Error {
public:
    Error() noexcept = default;
    Error(Status status, std::string message) noexcept : status_(status), message_(std::move(message)) {}

    [[nodiscard]] Status status() const noexcept { return status_; }
    [[nodiscard]] Category category() const noexcept { return flashmla::category(status_); }
    /* What the library said: the argument, its value, what it must be. */
    [[nodiscard]] const char* message() const noexcept { return message_.c_str(); }

private:
    Status status_ = Status::success;
    std::string message_;
};

/* A T, or the Error of the call that did not give one; the value is T{} then. */
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) noexcept : value_(std::move(value)) {}
    Result(Error error) noexcept : error_(std::move(error)) {}

    [[nodiscard]] bool ok() const noexcept { return error_.status() == Status::success; }
    [[nodiscard]] explicit operator bool() const noexcept { return ok(); }
    [[nodiscard]] Status status() const noexcept { return error_.status(); }
    [[nodiscard]] const Error& error() const noexcept { return error_; }

    [[nodiscard]] T& value() & noexcept { return value_; }
    [[nodiscard]] const T& value() const& noexcept { return value_; }
    [[nodiscard]] T&& value() && noexcept { return std::move(value_); }
    [[nodiscard]] T& operator*() & noexcept { return value_; }
    [[nodiscard]] const T& operator*() const& noexcept { return value_; }
    [[nodiscard]] T&& operator*() && noexcept { return std::move(value_); }
    [[nodiscard]] T* operator->() noexcept { return &value_; }
    [[nodiscard]] const T* operator->() const noexcept { return &value_; }

private:
    T value_ = {};
    Error error_;
};

template <>
class [[nodiscard]] Result<void> {
public:
    Result() noexcept = default;
    Result(Error error) noexcept : error_(std::move(error)) {}

    [[nodiscard]] bool ok() const noexcept { return error_.status() == Status::success; }
    [[nodiscard]] explicit operator bool() const noexcept { return ok(); }
    [[nodiscard]] Status status() const noexcept { return error_.status(); }
    [[nodiscard]] const Error& error() const noexcept { return error_; }

private:
    Error error_;
};

namespace detail {

[[nodiscard, gnu::cold, gnu::noinline]] inline Error fail(flashmla_status_t status) {
    return Error(static_cast<Status>(status), last_error());
}

[[nodiscard]] inline Result<void> done(flashmla_status_t status) {
    if (status != FLASHMLA_SUCCESS) return fail(status);
    return {};
}

template <class T>
[[nodiscard]] Result<T> done(flashmla_status_t status, T&& value) {
    if (status != FLASHMLA_SUCCESS) return fail(status);
    return std::forward<T>(value);
}

}  // namespace detail
#endif

/* --- Context ----------------------------------------------------------------------------------------------- */

/* A device made ready. Any number of threads may call its const members at once; to move, close or destroy it is
 * to write it, as with any object. */
class Context {
public:
    /* Closed. */
    Context() noexcept = default;

#ifndef FLASHMLA_NO_EXCEPTIONS
    /* As open(). */
    explicit Context(std::int32_t ordinal, const Options& options = {}) : Context(open(ordinal, options)) {}
#endif

    /* `ordinal` is that of a CUDA device, or cpu_device. (flashmla_create) */
    [[nodiscard]] static Result<Context> open(std::int32_t ordinal, const Options& options = {}) {
        flashmla_context_t* handle = nullptr;
        const flashmla_status_t status = flashmla_create(ordinal, abi::as_c(options), &handle);
        return detail::done(status, adopt(handle));
    }

    /* Takes over a context that C code made. */
    [[nodiscard]] static Context adopt(flashmla_context_t* handle) noexcept {
        Context context;
        context.handle_.reset(handle);
        return context;
    }

    /* The context for C functions; stays owned. Null if closed. */
    [[nodiscard]] flashmla_context_t* get() const noexcept { return handle_.get(); }

    /* Gives the context away, to be destroyed by flashmla_destroy; this one is closed then. */
    [[nodiscard]] flashmla_context_t* release() noexcept { return handle_.release(); }

    [[nodiscard]] explicit operator bool() const noexcept { return handle_ != nullptr; }

    /* Frees it now, where an error can be told; the destructor can't. Again and again is fine. (flashmla_destroy) */
    Result<void> close() { return detail::done(flashmla_destroy(handle_.release())); }

    [[nodiscard]] Result<DeviceInfo> device_info() const {
        DeviceInfo info;
        const flashmla_status_t status = flashmla_get_device_info(get(), abi::as_c(info));
        return detail::done(status, std::move(info));
    }

    /* Whether this context can run the problem, and with which kernel; looks at sizes, dtype, kv_layout and flags. */
    [[nodiscard]] Result<KernelInfo> dense_decode_query(const DenseDecodeParams& params) const {
        KernelInfo info;
        const flashmla_status_t status = flashmla_dense_decode_query(get(), abi::as_c(params), abi::as_c(info));
        return detail::done(status, std::move(info));
    }

    /* Bytes; suffices for every smaller b, s_q and max_blocks_per_seq too. */
    [[nodiscard]] Result<std::size_t> dense_decode_workspace_size(const DenseDecodeParams& params) const {
        std::size_t size = 0;
        const flashmla_status_t status = flashmla_dense_decode_workspace_size(get(), abi::as_c(params), &size);
        return detail::done(status, std::move(size));
    }

    /* Bytes; suffices for every smaller b and s_q too. */
    [[nodiscard]] Result<std::size_t> dense_decode_plan_size(const DenseDecodeParams& params) const {
        std::size_t size = 0;
        const flashmla_status_t status = flashmla_dense_decode_plan_size(get(), abi::as_c(params), &size);
        return detail::done(status, std::move(size));
    }

    /* Once a step, before its layers: writes *params.plan on the stream. */
    Result<void> dense_decode_plan(const DenseDecodeParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_dense_decode_plan(get(), abi::as_c(params), stream));
    }

    /* Once a layer. */
    Result<void> dense_decode(const DenseDecodeParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_dense_decode(get(), abi::as_c(params), stream));
    }

    /* Whether this context can run the problem, and with which kernel; looks at sizes, layouts and flags. */
    [[nodiscard]] Result<KernelInfo> sparse_decode_query(const SparseDecodeParams& params) const {
        KernelInfo info;
        const flashmla_status_t status = flashmla_sparse_decode_query(get(), abi::as_c(params), abi::as_c(info));
        return detail::done(status, std::move(info));
    }

    /* Bytes; suffices for every smaller b, s_q, topk and extra_topk too. */
    [[nodiscard]] Result<std::size_t> sparse_decode_workspace_size(const SparseDecodeParams& params) const {
        std::size_t size = 0;
        const flashmla_status_t status = flashmla_sparse_decode_workspace_size(get(), abi::as_c(params), &size);
        return detail::done(status, std::move(size));
    }

    /* Bytes; suffices for every smaller b and s_q too. */
    [[nodiscard]] Result<std::size_t> sparse_decode_plan_size(const SparseDecodeParams& params) const {
        std::size_t size = 0;
        const flashmla_status_t status = flashmla_sparse_decode_plan_size(get(), abi::as_c(params), &size);
        return detail::done(status, std::move(size));
    }

    /* Once a step, before its layers: writes *params.plan on the stream. */
    Result<void> sparse_decode_plan(const SparseDecodeParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_sparse_decode_plan(get(), abi::as_c(params), stream));
    }

    /* Once a layer. */
    Result<void> sparse_decode(const SparseDecodeParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_sparse_decode(get(), abi::as_c(params), stream));
    }

    /* Writes tokens into a cache. */
    Result<void> kv_cache_append(const KvCacheAppendParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_kv_cache_append(get(), abi::as_c(params), stream));
    }

    /* Reads tokens of a cache. */
    Result<void> kv_cache_gather(const KvCacheGatherParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_kv_cache_gather(get(), abi::as_c(params), stream));
    }

    /* From positions within requests to indices into a cache. */
    Result<void> map_indices(const MapIndicesParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_map_indices(get(), abi::as_c(params), stream));
    }

    /* Whether this context can run the problem, and with which kernel; looks at sizes and flags. */
    [[nodiscard]] Result<KernelInfo> sparse_prefill_query(const SparsePrefillParams& params) const {
        KernelInfo info;
        const flashmla_status_t status = flashmla_sparse_prefill_query(get(), abi::as_c(params), abi::as_c(info));
        return detail::done(status, std::move(info));
    }

    /* Bytes; suffices for every smaller s_q, s_kv and topk too. */
    [[nodiscard]] Result<std::size_t> sparse_prefill_workspace_size(const SparsePrefillParams& params) const {
        std::size_t size = 0;
        const flashmla_status_t status = flashmla_sparse_prefill_workspace_size(get(), abi::as_c(params), &size);
        return detail::done(status, std::move(size));
    }

    Result<void> sparse_prefill(const SparsePrefillParams& params, cudaStream_t stream = nullptr) const {
        return detail::done(flashmla_sparse_prefill(get(), abi::as_c(params), stream));
    }

private:
    struct Destroy {
        void operator()(flashmla_context_t* handle) const noexcept { static_cast<void>(flashmla_destroy(handle)); }
    };
    std::unique_ptr<flashmla_context_t, Destroy> handle_;
};

}  // inline namespace: throwing or returning
}  // namespace flashmla

#endif
