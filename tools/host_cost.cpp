/*
 * What a call costs the host: nanoseconds of flashmla_dense_decode through C and through flashmla.hpp, in turns, on
 * the GPU where there is one (the launch included, the kernel not), and of the CPU backend's checks otherwise.
 *
 * Built with the examples; `run host_cost` in the bundle.
 */
#include "common/device.h"

#include <flashmla.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

/* Calls between two synchronisations are fewer than a stream queues, so that none waits for the GPU. */
constexpr int rounds = 201, calls = 200;

template <class Call>
static double nanoseconds(device* d, Call call) {
    device_synchronize(d);
    const auto began = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) call();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - began;
    return took.count() / calls;
}

static double median(std::vector<double>& times) {
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[rounds / 2];
}

/* A request of one tile in a cache of so many pages: where it can grow, it can be split, and a call launches the
 * combination of the parts, too. */
static void measure(device* d, const flashmla::Context& context, int pages) {
    const cudaStream_t stream = device_stream(d);

    /* On the CPU a batch of no request: everything is checked, nothing computed. */
    flashmla::Plan plan;
    flashmla::DenseDecodeParams p;
    p.b = device_is_gpu(d) ? 1 : 0, p.s_q = 1, p.h_q = 16, p.h_kv = 1, p.d_qk = 576;
    p.num_blocks = pages, p.page_block_size = 64, p.max_blocks_per_seq = pages;
    const std::int32_t tokens = 64;
    const std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
    const std::vector<std::uint16_t> zeros(static_cast<std::size_t>(pages) * 64 * 576);
    p.q.data = device_alloc(d, 16 * 576 * 2), p.kv_cache.data = device_alloc(d, zeros.size() * 2);
    p.block_table.data = device_alloc(d, table.size() * 4), p.cache_seqlens.data = device_alloc(d, 4);
    p.out.data = device_alloc(d, 16 * 512 * 2), p.plan = &plan;
    device_upload(d, const_cast<void*>(p.q.data), zeros.data(), 16 * 576 * 2);
    device_upload(d, const_cast<void*>(p.kv_cache.data), zeros.data(), zeros.size() * 2);
    device_upload(d, const_cast<void*>(p.block_table.data), table.data(), table.size() * 4);
    device_upload(d, const_cast<void*>(p.cache_seqlens.data), &tokens, 4);
    plan.size = context.dense_decode_plan_size(p);
    p.workspace_size = context.dense_decode_workspace_size(p);
    plan.data = device_alloc(d, plan.size), p.workspace = device_alloc(d, p.workspace_size);
    context.dense_decode_plan(p, stream);

    flashmla_plan_t c_plan;
    flashmla_dense_decode_params_t c;
    static_assert(sizeof c == sizeof p && sizeof c_plan == sizeof plan);
    std::memcpy(&c, &p, sizeof c), std::memcpy(&c_plan, &plan, sizeof c_plan);
    c.plan = &c_plan;

    std::vector<double> through_c, through_cpp;
    for (int i = 0; i < rounds; ++i) {
        through_c.push_back(nanoseconds(
            d, [&] { check(flashmla_dense_decode(context.get(), &c, stream), "flashmla_dense_decode"); }));
        through_cpp.push_back(nanoseconds(d, [&] { context.dense_decode(p, stream); }));
    }
    device_synchronize(d);
    std::printf("host cost of a call of %s: C %.0f ns, C++ %.0f ns (medians of %d rounds of %d calls)\n",
                !device_is_gpu(d)         ? "no kernel"
                : p.workspace_size == 0   ? "whole requests"
                                          : "requests that may be split",
                median(through_c), median(through_cpp), rounds, calls);
    for (const void* memory : {p.q.data, p.kv_cache.data, p.block_table.data, p.cache_seqlens.data})
        device_free(d, const_cast<void*>(memory));
    for (void* memory : {p.out.data, plan.data, p.workspace}) device_free(d, memory);
}

int main() try {
    device* d = device_open();
    if (d == nullptr) return 1;
    const flashmla::Context context(device_is_gpu(d) ? 0 : flashmla::cpu_device);
    measure(d, context, 1);
    if (device_is_gpu(d)) measure(d, context, 64);
    device_close(d);
    return 0;
} catch (const flashmla::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
