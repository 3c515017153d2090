/* A small problem on the CPU backend for the C++ tests, and a way to count what is not as expected. */
#ifndef TESTS_PROBLEM_HPP
#define TESTS_PROBLEM_HPP

#include <flashmla.hpp>

#include <cstdio>
#include <cstring>

inline int failures = 0;

#define EXPECT(condition)                                                      \
    do {                                                                       \
        if (!(condition)) {                                                    \
            std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            ++failures;                                                        \
        }                                                                      \
    } while (0)

/* Two requests of 3 and 1 tokens, 16 heads; a cache of zeros, so that lse is ln(tokens). */
struct Problem {
    alignas(16) std::uint16_t q[2 * 16 * 576] = {}, cache[64 * 576] = {}, out[2 * 16 * 512] = {};
    float lse[2 * 16] = {};
    std::int32_t table[2] = {0, 0}, lens[2] = {3, 1};
    flashmla::Plan plan;
    flashmla::DenseDecodeParams params;

    Problem() {
        std::memset(out, 0xff, sizeof out);
        params.b = 2, params.s_q = 1, params.h_q = 16, params.h_kv = 1, params.d_qk = 576;
        params.num_blocks = 1, params.page_block_size = 64, params.max_blocks_per_seq = 1;
        params.q.data = q, params.kv_cache.data = cache;
        params.block_table.data = table, params.cache_seqlens.data = lens;
        params.out.data = out, params.lse.data = lse, params.plan = &plan;
    }
    Problem(const Problem&) = delete;

    /* Nothing was written. */
    bool untouched() const {
        for (const std::uint16_t x : out)
            if (x != 0xffff) return false;
        return true;
    }

    bool right() const {
        for (const std::uint16_t x : out)
            if (x != 0) return false;
        for (int h = 0; h < 16; ++h)
            if (!(lse[h] > 1.0985f && lse[h] < 1.0987f && lse[16 + h] == 0.0f)) return false;
        return true;
    }
};

#endif
