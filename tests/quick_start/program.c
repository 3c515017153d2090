#include <flashmla.h>
#include <stdint.h>
#include <stdio.h>

static uint16_t q[16 * 576], cache[64 * 576], out[16 * 512]; /* bfloat16 */

int main(void) {
    int32_t table[1] = {0}, lens[1] = {3}; /* one request: page 0, three tokens */
    float lse[16];
    flashmla_context_t *context;
    flashmla_plan_t plan = FLASHMLA_PLAN_INIT;
    flashmla_dense_decode_params_t p = FLASHMLA_DENSE_DECODE_PARAMS_INIT;
    p.b = p.s_q = p.h_kv = p.num_blocks = p.max_blocks_per_seq = 1;
    p.h_q = 16, p.d_qk = 576, p.page_block_size = 64;
    p.q.data = q, p.kv_cache.data = cache, p.block_table.data = table, p.cache_seqlens.data = lens;
    p.out.data = out, p.lse.data = lse, p.plan = &plan;
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) || flashmla_dense_decode_plan(context, &p, NULL) ||
        flashmla_dense_decode(context, &p, NULL)) {
        char message[256];
        flashmla_last_error(message, sizeof message);
        return fprintf(stderr, "%s\n", message), 1;
    }
    printf("lse of head 0: %f\n", lse[0]); /* ln(3): three equal logits */
    return flashmla_destroy(context);
}
