/* The GPU's path through C++, with the driver of tests/fake_driver, which launches nothing: any address will do. Told to
 * fail (an argument), it does, and the error arrives whole. */
#include "problem.hpp"

#include <string>

using namespace flashmla;

int main(int argc, char**) try {
    const bool fails = argc > 1;
    const Context context(0);
    EXPECT(context.device_info().compute_capability == 90);

    DenseDecodeParams p;
    p.b = 64, p.s_q = 1, p.h_q = 128, p.h_kv = 1, p.d_qk = 576;
    p.num_blocks = 4096, p.page_block_size = 64, p.max_blocks_per_seq = 64;
    const KernelInfo kernel = context.dense_decode_query(p);
    EXPECT(kernel.thread_blocks > 0 && kernel.partitions > 0);
    Plan plan;
    plan.size = context.dense_decode_plan_size(p);
    p.workspace_size = context.dense_decode_workspace_size(p);
    EXPECT(plan.size > 0 && p.workspace_size > 0);
    auto somewhere = [i = std::uintptr_t{0}]() mutable { return reinterpret_cast<void*>(++i << 36); };
    p.q.data = somewhere(), p.kv_cache.data = somewhere(), p.block_table.data = somewhere();
    p.cache_seqlens.data = somewhere(), p.out.data = somewhere(), p.lse.data = somewhere();
    p.workspace = somewhere(), plan.data = somewhere(), p.plan = &plan;
    try {
        context.dense_decode_plan(p);
        EXPECT(!fails && plan.fingerprint != 0);
        context.dense_decode(p);
    } catch (const Error& error) {
        EXPECT(fails && plan.fingerprint == 0);
        EXPECT(error.category() == Category::cuda && cuda_result(error.status()) == 700);
        EXPECT(std::string(error.message()).find("cuLaunchKernelEx") != std::string::npos);
    }
    return failures != 0;
} catch (const Error& error) {
    std::printf("%s\n", error.what());
    return error.status() == Status::no_kernels ? 77 : 1;
}
