/* Sparse decode: nonsense in, a status and a message out, on the CPU backend, nothing written. */
#include "expect.h"
#include <math.h>

static uint16_t q[2 * 16 * 576 + 8], out[2 * 16 * 512];
static unsigned char storage[2 * 64 * 656 + 64], extra_storage[3 * 2 * 656 + 64];
static unsigned char *cache, *extra;
static float lse[2 * 16], sinks[16];
static int32_t indices[2 * 3] = {0, 127, 0, -1, 128, 2147480000}, lengths[2] = {3, 3}, extra_indices[2 * 2] = {0, 5, -1, 6};
static flashmla_context_t *context;
static flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
static flashmla_sparse_decode_params_t good = FLASHMLA_SPARSE_DECODE_PARAMS_INIT, p;

/* Sets members of a copy of what is right, and runs it. */
#define REFUSED(change, status, message)                                                                     \
    do {                                                                                                     \
        p = good;                                                                                            \
        change;                                                                                              \
        expect_status(__LINE__, flashmla_sparse_decode(context, &p, NULL), FLASHMLA_ERROR_##status, message); \
    } while (0)
#define STRIDES(tensor, a, b, c, d) \
    (p.tensor.strides[0] = (a), p.tensor.strides[1] = (b), p.tensor.strides[2] = (c), p.tensor.strides[3] = (d))
#define CHECK(condition)                                     \
    do {                                                     \
        ++tried;                                             \
        if (!(condition)) {                                  \
            printf("line %d: not %s\n", __LINE__, #condition); \
            ++failed;                                        \
        }                                                    \
    } while (0)

struct newer {
    flashmla_sparse_decode_params_t known;
    int64_t unknown[3];
};

static void sizes_and_options(void) {
    REFUSED(p.struct_size = 0, STRUCT_SIZE, "params->struct_size = 0: must be sizeof(flashmla_sparse_decode_params_t)");
    REFUSED(p.struct_size -= 8, STRUCT_SIZE, "params->struct_size");
    REFUSED(p.layout = FLASHMLA_LAYOUT_PLAIN, UNKNOWN_ENUM, "layout = 0: must be FLASHMLA_LAYOUT_V32 (1) or");
    REFUSED(p.layout = 3, UNKNOWN_ENUM, "layout = 3: must be FLASHMLA_LAYOUT_PLAIN (0), FLASHMLA_LAYOUT_V32 (1) or");
    REFUSED(p.layout = FLASHMLA_LAYOUT_V4, INVALID_SHAPE, "d_qk = 576: must be 512, as layout is FLASHMLA_LAYOUT_V4");
    REFUSED(p.d_qk = 512, INVALID_SHAPE, "d_qk = 512: must be 576, as layout is FLASHMLA_LAYOUT_V32");
    REFUSED(p.d_qk = 192, INVALID_SHAPE, "d_qk = 192: must be 576 or 512");
    REFUSED(p.flags = FLASHMLA_FLAG_CAUSAL, UNKNOWN_ENUM, "flags = 0x1: bits 0x1 mean nothing here");
    REFUSED(p.b = -1, INVALID_SHAPE, "b = -1: must be at least 0");
    REFUSED(p.b = 2147483648, OVERFLOW, "b = 2147483648: must be at most 2147483647");
    REFUSED(p.s_q = -1, INVALID_SHAPE, "s_q = -1");
    REFUSED((p.b = 1 << 20, p.s_q = 1 << 10), OVERFLOW, "b * s_q * h_q");
    REFUSED(p.h_q = 0, INVALID_SHAPE, "h_q = 0: must be at least 1");
    REFUSED(p.topk = -64, INVALID_SHAPE, "topk = -64: must be at least 0");
    REFUSED(p.topk = 2147483647, OVERFLOW, "topk + extra_topk + 128");
    REFUSED(p.num_blocks = INT64_MIN, INVALID_SHAPE, "num_blocks = -9223372036854775808");
    REFUSED(p.page_block_size = 0, INVALID_SHAPE, "page_block_size = 0: must be at least 1");
    REFUSED(p.softmax_scale = -1.0f, INVALID_ARGUMENT, "softmax_scale = -1: must be finite and positive");
    REFUSED(p.softmax_scale = (float)HUGE_VAL, INVALID_ARGUMENT, "softmax_scale = inf");
}

static void pointers_and_strides(void) {
    REFUSED(p.q.data = NULL, NULL_POINTER, "q.data = NULL: must point to memory");
    REFUSED(p.kv_cache.data = NULL, NULL_POINTER, "kv_cache.data = NULL: must point to memory");
    REFUSED(p.indices.data = NULL, NULL_POINTER, "indices.data = NULL: must point to memory");
    REFUSED(p.out.data = NULL, NULL_POINTER, "out.data = NULL: must point to memory");
    REFUSED(p.plan = NULL, NULL_POINTER, "params->plan = NULL");
    REFUSED(p.q.data = q + 1, MISALIGNED, "must be a multiple of 16 bytes");
    REFUSED(p.kv_cache.data = cache + 8, MISALIGNED, "must be a multiple of 16 bytes, which rows are copied by");
    REFUSED(p.indices.data = (char *)indices + 2, MISALIGNED, "indices.data = 0x");
    REFUSED(p.topk_length.data = (char *)lengths + 1, MISALIGNED, "topk_length.data = 0x");
    REFUSED(p.attn_sink.data = (char *)sinks + 1, MISALIGNED, "attn_sink.data = 0x");
    REFUSED(p.out.data = out + 7, MISALIGNED, "out.data = 0x");
    REFUSED(p.lse.data = (char *)lse + 3, MISALIGNED, "lse.data = 0x");

    REFUSED(STRIDES(q, 9216, 9216, 575, 1), INVALID_STRIDE, "q.strides[2] = 575: must be a multiple of 8 elements");
    REFUSED(STRIDES(kv_cache, 41968, 1, 0, 0), INVALID_STRIDE,
            "kv_cache.strides[0] = 41968: must be at least 41984, the bytes of a page of 64 tokens");
    REFUSED(STRIDES(kv_cache, 41992, 1, 0, 0), INVALID_STRIDE,
            "kv_cache.strides[0] = 41992: must be a multiple of 16 bytes, which rows are copied by (pad the pages)");
    REFUSED(STRIDES(kv_cache, 41984, 2, 0, 0), INVALID_STRIDE, "kv_cache.strides[1] = 2: must be 1");
    REFUSED(STRIDES(kv_cache, 41984, 656, 1, 0), INVALID_STRIDE, "kv_cache.strides[2] = 1: must be 0, the tensor has 2");
    REFUSED(STRIDES(indices, 0, 3, 1, 0), INVALID_STRIDE, "indices.strides[0] = 0: must be at least 1");
    REFUSED(STRIDES(indices, 6, 6, 2, 0), INVALID_STRIDE, "indices.strides[2] = 2: must be 1");
    REFUSED(STRIDES(topk_length, -1, 0, 0, 0), INVALID_STRIDE, "topk_length.strides[0] = -1: must not be negative");
    REFUSED(STRIDES(attn_sink, -1, 0, 0, 0), INVALID_STRIDE, "attn_sink.strides[0] = -1: must not be negative");
    REFUSED(STRIDES(out, 8192, 8192, 504, 1), INVALID_STRIDE, "out.strides[2] = 504: must be at least 512");
    REFUSED(STRIDES(lse, 1, 1, 1, 0), INVALID_STRIDE, "or elements of the output overlap");
}

static void second_cache(void) {
    const flashmla_sparse_decode_params_t before = good;
    good.extra_num_blocks = 3, good.extra_page_block_size = 2, good.extra_topk = 2;
    good.extra_kv_cache.data = extra, good.extra_indices.data = extra_indices;
    CHECK(flashmla_sparse_decode_plan(context, &good, NULL) == FLASHMLA_SUCCESS);
    REFUSED(p.extra_indices.data = NULL, NULL_POINTER, "extra_indices.data = NULL: must point to memory, as extra_kv_cache");
    REFUSED(p.extra_kv_cache.data = NULL, NULL_POINTER, "extra_kv_cache.data = NULL: must point to memory, as extra_indices");
    REFUSED((p.extra_kv_cache.data = NULL, p.extra_indices.data = NULL), NULL_POINTER, "extra_kv_cache.data = NULL");
    REFUSED(p.extra_layout = FLASHMLA_LAYOUT_V4, UNSUPPORTED, "extra_layout = 2: must be layout = 1");
    REFUSED(p.extra_layout = 9, UNKNOWN_ENUM, "extra_layout = 9");
    REFUSED(p.extra_page_block_size = 0, INVALID_SHAPE, "extra_page_block_size = 0: must be at least 1");
    REFUSED(p.extra_num_blocks = -1, INVALID_SHAPE, "extra_num_blocks = -1");
    REFUSED(p.extra_topk = -2, INVALID_SHAPE, "extra_topk = -2");
    REFUSED(p.extra_kv_cache.data = extra + 4, MISALIGNED, "extra_kv_cache.data = 0x");
    REFUSED(STRIDES(extra_kv_cache, 1296, 1, 0, 0), INVALID_STRIDE, "extra_kv_cache.strides[0] = 1296: must be at least 1312");
    REFUSED(STRIDES(extra_indices, 2, 1, 3, 0), INVALID_STRIDE, "extra_indices.strides[2] = 3: must be 1");
    REFUSED(p.extra_topk_length.data = (char *)lengths + 1, MISALIGNED, "extra_topk_length.data = 0x");
    /* A plan is one for these numbers of indices, with or without lengths. */
    REFUSED(p.extra_topk = 1, PLAN_MISMATCH, "the plan was made for other sizes, flags or device");
    REFUSED(p.extra_topk_length.data = lengths, PLAN_MISMATCH, "the plan was made for other sizes, flags or device");
    good = before;
}

static void context_and_stream(void) {
    flashmla_kernel_info_t info = FLASHMLA_KERNEL_INFO_INIT;
    flashmla_plan_t fresh = FLASHMLA_PLAN_INIT;
    size_t size = 77;
    expect_status(__LINE__, flashmla_sparse_decode(NULL, &good, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_sparse_decode(context, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "params = NULL");
    expect_status(__LINE__, flashmla_sparse_decode(context, &good, (cudaStream_t)(void *)&good),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    expect_status(__LINE__, flashmla_sparse_decode_plan(context, &good, (cudaStream_t)(void *)&good),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    expect_status(__LINE__, flashmla_sparse_decode_workspace_size(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER,
                  "size = NULL");
    expect_status(__LINE__, flashmla_sparse_decode_plan_size(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER,
                  "size = NULL");
    expect_status(__LINE__, flashmla_sparse_decode_query(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER, "out = NULL");
    REFUSED(p.plan = &fresh, PLAN_MISMATCH, "plan.fingerprint = 0: call flashmla_sparse_decode_plan first");
    REFUSED(p.topk = 2, PLAN_MISMATCH, "the plan was made for other sizes, flags or device");
    REFUSED(p.flags = FLASHMLA_FLAG_BATCH_INVARIANT, PLAN_MISMATCH, "the plan was made for other sizes, flags or device");
    p = good, p.topk = -1;
    expect_status(__LINE__, flashmla_sparse_decode_workspace_size(context, &p, &size), FLASHMLA_ERROR_INVALID_SHAPE,
                  "topk = -1");
    CHECK(size == 77);
    CHECK(flashmla_sparse_decode_workspace_size(context, &good, &size) == FLASHMLA_SUCCESS && size == 0);
    CHECK(flashmla_sparse_decode_plan_size(context, &good, &size) == FLASHMLA_SUCCESS && size == 0);
    CHECK(flashmla_sparse_decode_query(context, &good, &info) == FLASHMLA_SUCCESS);
    CHECK(strcmp(info.name, "cpu_sparse_decode") == 0 && info.thread_blocks == 0 && info.partitions == 0);
}

/* Nothing above did harm: three equal tokens, the second request without any. */
static void right_arguments(void) {
    static struct newer newer;
    const double ln3 = 1.0986122886681098;
    newer.known = good, newer.known.struct_size = sizeof newer, newer.unknown[2] = 1;
    expect_status(__LINE__, flashmla_sparse_decode(context, &newer.known, NULL), FLASHMLA_ERROR_STRUCT_SIZE,
                  "this library knows");
    newer.unknown[2] = 0;
    CHECK(flashmla_sparse_decode(context, &newer.known, NULL) == FLASHMLA_SUCCESS);
    CHECK(out[0] == 0 && out[2 * 16 * 512 - 1] == 0);
    CHECK(lse[0] > ln3 - 1e-6 && lse[0] < ln3 + 1e-6 && lse[16] == -HUGE_VAL);
    p = good, p.flags = FLASHMLA_FLAG_LSE_EMPTY_POS_INF;
    CHECK(flashmla_sparse_decode(context, &p, NULL) == FLASHMLA_SUCCESS && lse[16] == HUGE_VAL);
    /* Every element of token 127: 1 x 2, and nothing of it where it is not named. */
    memset(cache + 41984 + 63 * 656, 0x38, 512);
    for (int g = 0; g < 4; ++g) ((float *)(void *)(cache + 41984 + 63 * 656 + 512))[g] = 6.0f;
    CHECK(flashmla_sparse_decode(context, &good, NULL) == FLASHMLA_SUCCESS);
    CHECK(out[0] == 0x4000 && out[511] == 0x4000 && out[16 * 512] == 0);
}

int main(void) {
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;
    must_stay(out, sizeof out), must_stay(lse, sizeof lse);
    cache = storage + (64 - (size_t)storage % 64) % 64;
    extra = extra_storage + (64 - (size_t)extra_storage % 64) % 64;
    for (int h = 0; h < 16; ++h) sinks[h] = -(float)HUGE_VAL;
    good.layout = FLASHMLA_LAYOUT_V32, good.b = 2, good.s_q = 1, good.h_q = 16, good.d_qk = 576;
    good.num_blocks = 2, good.page_block_size = 64, good.topk = 3;
    good.q.data = q, good.kv_cache.data = cache, good.indices.data = indices;
    good.topk_length.data = lengths, good.attn_sink.data = sinks;
    good.out.data = out, good.lse.data = lse, good.plan = &plan;
    if (flashmla_sparse_decode_plan(context, &good, NULL) != FLASHMLA_SUCCESS) return 1;

    sizes_and_options();
    pointers_and_strides();
    second_cache();
    if (flashmla_sparse_decode_plan(context, &good, NULL) != FLASHMLA_SUCCESS) return 1;
    context_and_stream();
    right_arguments();
    flashmla_destroy(context);
    printf("sparse decode: %d of %d as expected\n", tried - failed, tried);
    return failed != 0;
}
