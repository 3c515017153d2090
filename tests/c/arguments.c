/* Nonsense in, a status and a message out: on the CPU backend, nothing written. */
#include "expect.h"
#include <stddef.h>
#include <stdlib.h>

static uint16_t q[2 * 16 * 576 + 8], cache[64 * 576], out[2 * 16 * 512];
static float lse[2 * 16];
static int32_t table[2] = {0, 0}, lens[2] = {3, 1};
static flashmla_context_t *context;
static flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
static flashmla_dense_decode_params_t good = FLASHMLA_DENSE_DECODE_PARAMS_INIT, p;

/* Sets members of a copy of what is right, and runs it. */
#define REFUSED(change, status, message)                                                                    \
    do {                                                                                                    \
        p = good;                                                                                           \
        change;                                                                                             \
        expect_status(__LINE__, flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_##status, message); \
    } while (0)
#define STRIDES(tensor, a, b, c, d) \
    (p.tensor.strides[0] = (a), p.tensor.strides[1] = (b), p.tensor.strides[2] = (c), p.tensor.strides[3] = (d))

struct newer {
    flashmla_dense_decode_params_t known;
    int64_t unknown[3];
};

int main(void) {
    static struct newer newer;
    flashmla_context_t *other = NULL;
    flashmla_options_t options = FLASHMLA_OPTIONS_INIT;
    flashmla_device_info_t info = FLASHMLA_DEVICE_INFO_INIT;
    char message[512], cut[8];
    size_t size, needed;
    must_stay(out, sizeof out);

    expect_status(__LINE__, flashmla_create(FLASHMLA_DEVICE_CPU, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "out = NULL");
    expect_status(__LINE__, flashmla_create(-7, NULL, &other), FLASHMLA_ERROR_NO_DEVICE, "device = -7");
    options.cpu_threads = -1;
    expect_status(__LINE__, flashmla_create(FLASHMLA_DEVICE_CPU, &options, &other), FLASHMLA_ERROR_INVALID_ARGUMENT,
                  "options.cpu_threads = -1");
    options.struct_size = 0;
    expect_status(__LINE__, flashmla_create(FLASHMLA_DEVICE_CPU, &options, &other), FLASHMLA_ERROR_STRUCT_SIZE,
                  "options->struct_size = 0");
    if (other != NULL) return 1;
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;

    good.b = 2, good.s_q = 1, good.h_q = 16, good.h_kv = 1, good.d_qk = 576;
    good.num_blocks = 1, good.page_block_size = 64, good.max_blocks_per_seq = 1;
    good.q.data = q, good.kv_cache.data = cache, good.block_table.data = table, good.cache_seqlens.data = lens;
    good.out.data = out, good.lse.data = lse, good.plan = &plan;

    expect_status(__LINE__, flashmla_dense_decode(NULL, &good, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_dense_decode(context, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "params = NULL");
    REFUSED((void)0, PLAN_MISMATCH, "plan.fingerprint = 0: call flashmla_dense_decode_plan first");
    if (flashmla_dense_decode_plan(context, &good, NULL) != FLASHMLA_SUCCESS) return 1;
    REFUSED(p.plan = NULL, NULL_POINTER, "params->plan = NULL");

    REFUSED(p.q.data = NULL, NULL_POINTER, "q.data = NULL: must point to memory");
    REFUSED(p.kv_cache.data = NULL, NULL_POINTER, "kv_cache.data = NULL");
    REFUSED(p.block_table.data = NULL, NULL_POINTER, "block_table.data = NULL");
    REFUSED(p.cache_seqlens.data = NULL, NULL_POINTER, "cache_seqlens.data = NULL");
    REFUSED(p.out.data = NULL, NULL_POINTER, "out.data = NULL");
    REFUSED(p.q.data = q + 1, MISALIGNED, "must be a multiple of 16 bytes");
    REFUSED(p.cache_seqlens.data = (char *)lens + 2, MISALIGNED, "must be a multiple of 4 bytes");

    REFUSED(p.struct_size = 0, STRUCT_SIZE, "params->struct_size = 0: must be sizeof(flashmla_dense_decode_params_t)");
    REFUSED(p.struct_size = offsetof(flashmla_dense_decode_params_t, kv_layout) - 8, STRUCT_SIZE, "params->struct_size");
    REFUSED(p.struct_size = (size_t)-1, STRUCT_SIZE, "params->struct_size");
    newer.known = good, newer.known.struct_size = sizeof newer, newer.unknown[2] = 1;
    expect_status(__LINE__, flashmla_dense_decode(context, &newer.known, NULL), FLASHMLA_ERROR_STRUCT_SIZE,
                  "this library knows");

    REFUSED(p.b = -1, INVALID_SHAPE, "b = -1: must be at least 0");
    REFUSED(p.s_q = INT64_MIN, INVALID_SHAPE, "s_q = -9223372036854775808: must be at least 0");
    REFUSED(p.h_q = 0, INVALID_SHAPE, "h_q = 0: must be at least 1");
    REFUSED(p.h_kv = 3, INVALID_SHAPE, "h_q = 16: must be a multiple of h_kv = 3");
    REFUSED(p.d_qk = 575, INVALID_SHAPE, "d_qk = 575: must be 576 or 512");
    REFUSED(p.d_v = 511, INVALID_SHAPE, "d_v = 511: must be 512");
    REFUSED(p.page_block_size = 0, INVALID_SHAPE, "page_block_size = 0: must be at least 1");
    REFUSED(p.num_blocks = INT64_MAX, OVERFLOW, "num_blocks = 9223372036854775807: must be at most 2147483647");
    REFUSED((p.b = 65536, p.s_q = 65536), OVERFLOW, "b * s_q * h_q");
    REFUSED(p.h_q = p.h_kv = (1 << 30) + 1, OVERFLOW, "h_kv = 1073741825: must be at most 1073741824");
    REFUSED(p.dtype = 2, UNKNOWN_ENUM, "dtype = 2: must be FLASHMLA_DTYPE_BF16 (0) or FLASHMLA_DTYPE_FP16 (1)");
    REFUSED(p.flags = 8, UNKNOWN_ENUM, "flags = 0x8");
    REFUSED(p.reserved = 1, INVALID_ARGUMENT, "reserved = 1: must be 0");
    REFUSED(p.softmax_scale = -1.0f, INVALID_ARGUMENT, "softmax_scale = -1: must be finite and positive");

    REFUSED(STRIDES(q, 9216, 575, 576, 1), INVALID_STRIDE, "q.strides[1] = 575: must be a multiple of 8 elements");
    REFUSED(STRIDES(q, 9216, 9216, 576, 2), INVALID_STRIDE, "q.strides[3] = 2: must be 1 (the innermost dimension)");
    REFUSED(STRIDES(q, 9216, 9216, -576, 1), INVALID_STRIDE, "q.strides[2] = -576: must not be negative");
    REFUSED(STRIDES(out, 8192, 8192, 504, 1), INVALID_STRIDE, "out.strides[2] = 504: must be at least 512");
    REFUSED(STRIDES(out, 512, 8192, 512, 1), INVALID_STRIDE, "or elements of the output overlap");
    REFUSED(STRIDES(lse, 1, 1, 1, 0), INVALID_STRIDE, "lse.strides[");
    REFUSED(STRIDES(block_table, 1, 1, 1, 0), INVALID_STRIDE, "block_table.strides[2] = 1: must be 0");
    REFUSED(STRIDES(q, INT64_MAX - 7, 9216, 576, 1), OVERFLOW, "q: sizes [2, 1, 16, 576] with strides");

    REFUSED(p.kv_layout = 3, UNKNOWN_ENUM, "kv_layout = 3: must be FLASHMLA_LAYOUT_PLAIN (0)");
    REFUSED(p.reserved2 = 1, INVALID_ARGUMENT, "reserved2 = 1: must be 0");
    REFUSED(p.kv_layout = FLASHMLA_LAYOUT_V4, INVALID_SHAPE, "d_qk = 576: must be 512, as kv_layout is FLASHMLA_LAYOUT_V4");
    REFUSED((p.kv_layout = FLASHMLA_LAYOUT_V32, p.h_kv = 2), INVALID_SHAPE, "h_kv = 2: must be 1 with a cache of FP8");
    REFUSED((p.kv_layout = FLASHMLA_LAYOUT_V32, p.dtype = FLASHMLA_DTYPE_FP16), INVALID_ARGUMENT,
            "dtype = 1: must be FLASHMLA_DTYPE_BF16 (0) with a cache of FP8");
    REFUSED((p.kv_layout = FLASHMLA_LAYOUT_V32, p.num_blocks = 2, STRIDES(kv_cache, 41968, 1, 0, 0)), INVALID_STRIDE,
            "kv_cache.strides[0] = 41968: must be at least 41984, the bytes of a page of 64 tokens");
    REFUSED((p.kv_layout = FLASHMLA_LAYOUT_V32, p.num_blocks = 2, STRIDES(kv_cache, 41992, 1, 0, 0)), INVALID_STRIDE,
            "kv_cache.strides[0] = 41992: must be a multiple of 16 bytes");
    REFUSED((p.kv_layout = FLASHMLA_LAYOUT_V32, p.kv_cache.data = cache + 1), MISALIGNED,
            "must be a multiple of 16 bytes, which rows are copied by");
    REFUSED(p.max_blocks_per_seq = 2, PLAN_MISMATCH, "the plan was made for other sizes, flags or device");
    expect_status(__LINE__, flashmla_dense_decode(context, &good, (cudaStream_t)(void *)&good),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    expect_status(__LINE__, flashmla_dense_decode_plan_size(context, &good, NULL), FLASHMLA_ERROR_NULL_POINTER,
                  "size = NULL");
    info.struct_size = 4;
    expect_status(__LINE__, flashmla_get_device_info(context, &info), FLASHMLA_ERROR_STRUCT_SIZE, "out->struct_size = 4");

    /* A message is cut to the buffer, and its whole length told. */
    needed = flashmla_last_error(message, sizeof message);
    if (needed != strlen(message) + 1 || flashmla_last_error(cut, sizeof cut) != needed || strlen(cut) != 7 ||
        strncmp(cut, message, 7) != 0 || flashmla_last_error(NULL, 0) != needed) {
        printf("flashmla_last_error: %zu \"%s\" \"%s\"\n", needed, message, cut);
        ++failed;
    }
    if (strcmp(flashmla_status_name(123456), "FLASHMLA_ERROR_UNKNOWN") != 0) ++failed;
    if (strcmp(flashmla_status_name(4700), "FLASHMLA_ERROR_CUDA") != 0) ++failed;
    if (flashmla_destroy(NULL) != FLASHMLA_SUCCESS) ++failed;

    /* A newer caller whose unknown tail is 0 is welcome, and nothing above did harm. */
    newer.unknown[2] = 0;
    if (flashmla_dense_decode_plan_size(context, &good, &size) != FLASHMLA_SUCCESS || size != 0) ++failed;
    if (flashmla_dense_decode(context, &newer.known, NULL) != FLASHMLA_SUCCESS || out[0] != 0) ++failed;
    /* So is an older one, of the first release's members: what lies behind them is not looked at. */
    p = good, p.struct_size = offsetof(flashmla_dense_decode_params_t, kv_layout), p.kv_layout = 77, out[0] = 7;
    if (flashmla_dense_decode(context, &p, NULL) != FLASHMLA_SUCCESS || out[0] != 0) ++failed;
    flashmla_destroy(context);
    printf("%d of %d as expected\n", tried - failed, tried);
    return failed != 0;
}
