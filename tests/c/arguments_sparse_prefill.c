/* Sparse prefill: nonsense in, a status and a message out, on the CPU backend, nothing written. */
#include "expect.h"
#include <math.h>

static uint16_t q[2 * 16 * 576 + 8], kv[4 * 576], out[2 * 16 * 512];
static float max_logits[2 * 16], lse[2 * 16], sinks[16];
static int32_t indices[2 * 3] = {0, 3, 0, -1, 4, 2147480000}, lengths[2] = {3, 3};
static flashmla_context_t *context;
static flashmla_sparse_prefill_params_t good = FLASHMLA_SPARSE_PREFILL_PARAMS_INIT, p;

/* Sets members of a copy of what is right, and runs it. */
#define REFUSED(change, status, message)                                                                      \
    do {                                                                                                      \
        p = good;                                                                                             \
        change;                                                                                               \
        expect_status(__LINE__, flashmla_sparse_prefill(context, &p, NULL), FLASHMLA_ERROR_##status, message); \
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
    flashmla_sparse_prefill_params_t known;
    int64_t unknown[3];
};

static void sizes_and_options(void) {
    REFUSED(p.struct_size = 0, STRUCT_SIZE,
            "params->struct_size = 0: must be sizeof(flashmla_sparse_prefill_params_t), 392 bytes");
    REFUSED(p.struct_size -= 8, STRUCT_SIZE, "params->struct_size = 384");
    REFUSED(p.struct_size = (size_t)-1, STRUCT_SIZE, "params->struct_size");

    REFUSED(p.s_q = -1, INVALID_SHAPE, "s_q = -1: must be at least 0");
    REFUSED(p.s_q = 2147483648, OVERFLOW, "s_q = 2147483648: must be at most 2147483647");
    REFUSED(p.h_q = 0, INVALID_SHAPE, "h_q = 0: must be at least 1");
    REFUSED(p.s_kv = INT64_MIN, INVALID_SHAPE, "s_kv = -9223372036854775808: must be at least 0");
    REFUSED(p.s_kv = INT64_MAX, OVERFLOW, "s_kv = 9223372036854775807: must be at most 2147483647");
    REFUSED(p.topk = -64, INVALID_SHAPE, "topk = -64: must be at least 0");
    REFUSED(p.d_qk = 192, INVALID_SHAPE, "d_qk = 192: must be 576 or 512");
    REFUSED(p.d_qk = 0, INVALID_SHAPE, "d_qk = 0: must be 576 or 512");
    REFUSED(p.flags = FLASHMLA_FLAG_CAUSAL, UNKNOWN_ENUM,
            "flags = 0x1: bits 0x1 mean nothing here, it must be 0 or FLASHMLA_FLAG_LSE_EMPTY_POS_INF (2)");
    REFUSED(p.flags = FLASHMLA_FLAG_BATCH_INVARIANT | FLASHMLA_FLAG_LSE_EMPTY_POS_INF, UNKNOWN_ENUM, "bits 0x4");
    REFUSED(p.softmax_scale = -1.0f, INVALID_ARGUMENT, "softmax_scale = -1: must be finite and positive");
    REFUSED(p.softmax_scale = (float)HUGE_VAL, INVALID_ARGUMENT, "softmax_scale = inf: must be finite and positive");
}

static void pointers_and_strides(void) {
    REFUSED(p.q.data = NULL, NULL_POINTER, "q.data = NULL: must point to memory");
    REFUSED(p.kv.data = NULL, NULL_POINTER, "kv.data = NULL: must point to memory");
    REFUSED(p.indices.data = NULL, NULL_POINTER, "indices.data = NULL: must point to memory");
    REFUSED(p.out.data = NULL, NULL_POINTER, "out.data = NULL: must point to memory");
    REFUSED(p.q.data = q + 1, MISALIGNED, "must be a multiple of 16 bytes");
    REFUSED(p.kv.data = kv + 4, MISALIGNED, "must be a multiple of 16 bytes");
    REFUSED(p.out.data = out + 7, MISALIGNED, "must be a multiple of 16 bytes");
    REFUSED(p.indices.data = (char *)indices + 2, MISALIGNED, "must be a multiple of 4 bytes");
    REFUSED(p.topk_length.data = (char *)lengths + 1, MISALIGNED, "topk_length.data = 0x");
    REFUSED(p.attn_sink.data = (char *)sinks + 1, MISALIGNED, "attn_sink.data = 0x");
    REFUSED(p.max_logits.data = (char *)max_logits + 1, MISALIGNED, "max_logits.data = 0x");
    REFUSED(p.lse.data = (char *)lse + 3, MISALIGNED, "lse.data = 0x");

    REFUSED(STRIDES(q, 9216, 575, 1, 0), INVALID_STRIDE, "q.strides[1] = 575: must be a multiple of 8 elements");
    REFUSED(STRIDES(q, 9216, 576, 2, 0), INVALID_STRIDE, "q.strides[2] = 2: must be 1 (the innermost dimension)");
    REFUSED(STRIDES(q, 9216, 576, 1, 1), INVALID_STRIDE, "q.strides[3] = 1: must be 0, the tensor has 3 dimensions");
    REFUSED(STRIDES(kv, -576, 576, 1, 0), INVALID_STRIDE, "kv.strides[0] = -576: must not be negative");
    REFUSED(STRIDES(kv, 0, 576, 1, 0), INVALID_STRIDE, "kv.strides[0] = 0: must be at least 1");
    REFUSED(STRIDES(kv, 576, 12, 1, 0), INVALID_STRIDE, "kv.strides[1] = 12: must be a multiple of 8");
    REFUSED(STRIDES(indices, 6, 6, 2, 0), INVALID_STRIDE, "indices.strides[2] = 2: must be 1");
    REFUSED(STRIDES(topk_length, 0, 1, 0, 0), INVALID_STRIDE, "topk_length.strides[1] = 1: must be 0");
    REFUSED(STRIDES(attn_sink, -1, 0, 0, 0), INVALID_STRIDE, "attn_sink.strides[0] = -1: must not be negative");
    REFUSED(STRIDES(out, 8192, 504, 1, 0), INVALID_STRIDE, "out.strides[1] = 504: must be at least 512");
    REFUSED(STRIDES(out, 512, 512, 1, 0), INVALID_STRIDE, "or elements of the output overlap");
    REFUSED(STRIDES(max_logits, 8, 1, 0, 0), INVALID_STRIDE, "max_logits.strides[0] = 8: must be at least 16");
    REFUSED(STRIDES(lse, 1, 1, 0, 0), INVALID_STRIDE, "or elements of the output overlap");
    /* Strides count where the tensor itself is left out, too. */
    REFUSED((p.lse.data = NULL, STRIDES(lse, 1, 1, 0, 0)), INVALID_STRIDE, "lse.strides[");
    REFUSED(STRIDES(q, INT64_MAX - 7, 576, 1, 0), OVERFLOW, "q: sizes [2, 16, 576] with strides");
    REFUSED((p.s_q = 2147483647, p.topk = 2147483647, STRIDES(indices, INT64_MAX / 2, 1, 1, 0)), OVERFLOW,
            "indices: sizes [2147483647, 1, 2147483647]");
    REFUSED((p.h_q = 2147483647, p.s_q = 2147483647), OVERFLOW, "q: ");
}

static void context_and_stream(void) {
    flashmla_kernel_info_t info = FLASHMLA_KERNEL_INFO_INIT;
    size_t size = 77;
    expect_status(__LINE__, flashmla_sparse_prefill(NULL, &good, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_sparse_prefill(context, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "params = NULL");
    expect_status(__LINE__, flashmla_sparse_prefill(context, &good, (cudaStream_t)(void *)&good),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    expect_status(__LINE__, flashmla_sparse_prefill_workspace_size(NULL, &good, &size), FLASHMLA_ERROR_NULL_POINTER,
                  "context = NULL");
    expect_status(__LINE__, flashmla_sparse_prefill_workspace_size(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER,
                  "size = NULL");
    expect_status(__LINE__, flashmla_sparse_prefill_query(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER,
                  "out = NULL");
    info.struct_size = 8;
    expect_status(__LINE__, flashmla_sparse_prefill_query(context, &good, &info), FLASHMLA_ERROR_STRUCT_SIZE,
                  "out->struct_size = 8");
    p = good, p.topk = -1;
    expect_status(__LINE__, flashmla_sparse_prefill_workspace_size(context, &p, &size), FLASHMLA_ERROR_INVALID_SHAPE,
                  "topk = -1");
    CHECK(size == 77);
    CHECK(flashmla_sparse_prefill_workspace_size(context, &good, &size) == FLASHMLA_SUCCESS && size == 0);
    info.struct_size = sizeof info;
    CHECK(flashmla_sparse_prefill_query(context, &good, &info) == FLASHMLA_SUCCESS);
    CHECK(strcmp(info.name, "cpu_sparse_prefill") == 0 && info.thread_blocks == 0 && info.partitions == 0);
}

/* Nothing above did harm: three equal rows, the second query without any. */
static void right_arguments(void) {
    static struct newer newer;
    const double ln3 = 1.0986122886681098;
    newer.known = good, newer.known.struct_size = sizeof newer, newer.unknown[2] = 1;
    expect_status(__LINE__, flashmla_sparse_prefill(context, &newer.known, NULL), FLASHMLA_ERROR_STRUCT_SIZE,
                  "this library knows");

    /* No query: success, whatever the pointers, and nothing is written. */
    p = good, p.s_q = 0, p.q.data = NULL, p.kv.data = NULL, p.indices.data = NULL, p.out.data = NULL;
    CHECK(flashmla_sparse_prefill(context, &p, NULL) == FLASHMLA_SUCCESS);
    expect_status(__LINE__, flashmla_sparse_prefill(NULL, &p, NULL), FLASHMLA_ERROR_NULL_POINTER, "context");

    newer.unknown[2] = 0;
    CHECK(flashmla_sparse_prefill(context, &newer.known, NULL) == FLASHMLA_SUCCESS);
    CHECK(out[0] == 0 && out[2 * 16 * 512 - 1] == 0);
    CHECK(max_logits[0] == 0 && max_logits[16] == -HUGE_VAL);
    CHECK(lse[0] > ln3 - 1e-6 && lse[0] < ln3 + 1e-6 && lse[16] == -HUGE_VAL);

    p = good, p.flags = FLASHMLA_FLAG_LSE_EMPTY_POS_INF;
    CHECK(flashmla_sparse_prefill(context, &p, NULL) == FLASHMLA_SUCCESS);
    CHECK(max_logits[31] == -HUGE_VAL && lse[31] == HUGE_VAL && lse[15] == lse[0]);

    /* No index, and no row: neither is read. */
    p = good, p.topk = 0, p.indices.data = NULL, p.kv.data = NULL, p.topk_length.data = NULL;
    memset(lse, 0xff, sizeof lse);
    CHECK(flashmla_sparse_prefill(context, &p, NULL) == FLASHMLA_SUCCESS && lse[0] == -HUGE_VAL && lse[31] == -HUGE_VAL);
    p = good, p.s_kv = 0, p.kv.data = NULL;
    memset(lse, 0xff, sizeof lse);
    CHECK(flashmla_sparse_prefill(context, &p, NULL) == FLASHMLA_SUCCESS && lse[0] == -HUGE_VAL && lse[31] == -HUGE_VAL);

    /* What is not wanted. */
    p = good, p.max_logits.data = NULL, p.lse.data = NULL, p.attn_sink.data = NULL, p.topk_length.data = NULL;
    memset(lse, 0xff, sizeof lse), memset(out, 0xff, sizeof out);
    CHECK(flashmla_sparse_prefill(context, &p, NULL) == FLASHMLA_SUCCESS && out[0] == 0);
    CHECK(lse[0] != lse[0]);
}

int main(void) {
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;
    must_stay(out, sizeof out), must_stay(max_logits, sizeof max_logits), must_stay(lse, sizeof lse);
    good.s_q = 2, good.h_q = 16, good.s_kv = 4, good.d_qk = 576, good.topk = 3;
    good.q.data = q, good.kv.data = kv, good.indices.data = indices;
    good.topk_length.data = lengths, good.attn_sink.data = sinks;
    good.out.data = out, good.max_logits.data = max_logits, good.lse.data = lse;

    sizes_and_options();
    pointers_and_strides();
    context_and_stream();
    right_arguments();
    flashmla_destroy(context);
    printf("sparse prefill: %d of %d as expected\n", tried - failed, tried);
    return failed != 0;
}
