/*
 * What goes wrong, and how the library says so: a status, whose thousands give the category, and a message that
 * names the argument, the value it had and what it must be. After an error nothing was launched or written.
 */
#include <flashmla.h>

#include <stdio.h>
#include <string.h>

static int failures = 0;

/* Prints status and message, and counts what is not as expected. */
static void expect(const char *what, flashmla_status_t got, flashmla_status_t wanted, const char *part) {
    char message[512];
    flashmla_last_error(message, sizeof message);
    printf("%-28s %s\n%-28s   %s\n", what, flashmla_status_name(got), "", message);
    if (got != wanted || strstr(message, part) == NULL) {
        printf("%-28s   UNEXPECTED: wanted %s with \"%s\"\n", "", flashmla_status_name(wanted), part);
        ++failures;
    }
}

int main(void) {
    static uint16_t q[16 * 576], cache[64 * 576], out[16 * 512];
    int32_t table[1] = {0}, lens[1] = {3};
    flashmla_context_t *context = NULL;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    flashmla_dense_decode_params_t good = FLASHMLA_DENSE_DECODE_PARAMS_INIT, p;

    expect("a device that can't exist", flashmla_create(-7, NULL, &context), FLASHMLA_ERROR_NO_DEVICE, "device = -7");
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;

    good.b = good.s_q = good.h_kv = good.num_blocks = good.max_blocks_per_seq = 1;
    good.h_q = 16, good.d_qk = 576, good.page_block_size = 64;
    good.q.data = q, good.kv_cache.data = cache, good.out.data = out;
    good.block_table.data = table, good.cache_seqlens.data = lens, good.plan = &plan;

    expect("no plan made yet", flashmla_dense_decode(context, &good, NULL), FLASHMLA_ERROR_PLAN_MISMATCH,
           "plan.fingerprint = 0");
    if (flashmla_dense_decode_plan(context, &good, NULL) != FLASHMLA_SUCCESS) return 1;

    p = good, p.q.data = NULL;
    expect("a null pointer", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_NULL_POINTER, "q.data = NULL");
    p = good, p.struct_size = 8;
    expect("a struct not initialised", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_STRUCT_SIZE,
           "struct_size = 8");
    p = good, p.q.strides[0] = 9216, p.q.strides[1] = 575, p.q.strides[2] = 576, p.q.strides[3] = 1;
    expect("an odd stride", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_INVALID_STRIDE,
           "q.strides[1] = 575: must be a multiple of 8 elements");
    p = good, p.h_kv = 3;
    expect("heads that do not divide", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_INVALID_SHAPE,
           "h_q = 16: must be a multiple of h_kv = 3");
    p = good, p.dtype = 9;
    expect("an unknown element type", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_UNKNOWN_ENUM, "dtype = 9");
    p = good, p.max_blocks_per_seq = 2;
    expect("another problem's plan", flashmla_dense_decode(context, &p, NULL), FLASHMLA_ERROR_PLAN_MISMATCH,
           "the plan was made for other");
    expect("a stream on the CPU", flashmla_dense_decode(context, &good, (cudaStream_t)(void *)&good),
           FLASHMLA_ERROR_INVALID_STREAM, "must be NULL");

    /* And without a mistake: */
    if (flashmla_dense_decode(context, &good, NULL) != FLASHMLA_SUCCESS) ++failures;
    flashmla_destroy(context);
    printf("%d unexpected\n", failures);
    return failures != 0;
}
