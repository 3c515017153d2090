#include <flashmla.hpp>

#include <cstdio>
#include <vector>

int main() try {
    const int heads = 16, page = 64;
    // bfloat16
    std::vector<std::uint16_t> q(heads * 576), cache(page * 576), out(heads * 512);
    std::vector<std::int32_t> table = {0}, lens = {3}; // one request: page 0, three tokens
    std::vector<float> lse(heads);

    const flashmla::Context context(flashmla::cpu_device); // or the ordinal of a GPU
    flashmla::Plan plan;
    const flashmla::DenseDecodeParams params = {
        .b = 1, .s_q = 1, .h_q = heads, .h_kv = 1, .d_qk = 576,
        .num_blocks = 1, .page_block_size = page, .max_blocks_per_seq = 1,
        .q = {q.data()}, .kv_cache = {cache.data()},
        .block_table = {table.data()}, .cache_seqlens = {lens.data()},
        .out = {out.data()}, .lse = {lse.data()}, .plan = &plan,
    };
    context.dense_decode_plan(params); // once a step
    context.dense_decode(params);      // once a layer
    std::printf("lse of head 0: %f\n", lse[0]); // ln(3): three equal logits
} catch (const flashmla::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
