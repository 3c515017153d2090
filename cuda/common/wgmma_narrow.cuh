// Matrix products of a warpgroup with few columns: D (64 x N) += A B, both from shared memory, B K innermost. See
// wgmma.cuh for fragments and descriptors. `kTransposed`: A lies with M innermost. `accumulate` 0 overwrites D.
#pragma once
#include "common/wgmma.cuh"
#include <type_traits>

namespace flashmla {

#define FLASHMLA_WGMMA_NARROW(n, type, registers, operands, accumulates, transposed, ...)                            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " accumulates ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, " operands         \
                 ", p, 1, 1, " transposed ", 0;\n}\n"                                                                \
                 : __VA_ARGS__                                                                                       \
                 : "l"(a), "l"(b), "r"(accumulate), "n"(int(kTransposed)))

#define FLASHMLA_OUTPUTS_8 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define FLASHMLA_OUTPUTS_16                                                                                         \
    FLASHMLA_OUTPUTS_8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), \
        "+f"(d[15])

template <class T, bool kTransposed>
__device__ __forceinline__ void wgmma_m64n16k16_ss(float (&d)[8], uint64_t a, uint64_t b, int accumulate) {
#define FLASHMLA_PRODUCT(type)                                                                                       \
    FLASHMLA_WGMMA_NARROW("16", type, "%0, %1, %2, %3, %4, %5, %6, %7", \
                          "%8, %9", "%10", "%11", FLASHMLA_OUTPUTS_8)
    if constexpr (std::is_same_v<T, Bf16>) {
        FLASHMLA_PRODUCT("bf16");
    } else {
        FLASHMLA_PRODUCT("f16");
    }
#undef FLASHMLA_PRODUCT
}

template <class T, bool kTransposed>
__device__ __forceinline__ void wgmma_m64n32k16_ss(float (&d)[16], uint64_t a, uint64_t b, int accumulate) {
#define FLASHMLA_PRODUCT(type)                                                                                       \
    FLASHMLA_WGMMA_NARROW("32", type, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", \
                          "%16, %17", "%18", "%19", FLASHMLA_OUTPUTS_16)
    if constexpr (std::is_same_v<T, Bf16>) {
        FLASHMLA_PRODUCT("bf16");
    } else {
        FLASHMLA_PRODUCT("f16");
    }
#undef FLASHMLA_PRODUCT
}

#undef FLASHMLA_OUTPUTS_16
#undef FLASHMLA_OUTPUTS_8
#undef FLASHMLA_WGMMA_NARROW

// By the accumulator's size.
template <class T, bool kTransposed>
__device__ __forceinline__ void wgmma_narrow(float (&d)[8], uint64_t a, uint64_t b, int accumulate) {
    wgmma_m64n16k16_ss<T, kTransposed>(d, a, b, accumulate);
}
template <class T, bool kTransposed>
__device__ __forceinline__ void wgmma_narrow(float (&d)[16], uint64_t a, uint64_t b, int accumulate) {
    wgmma_m64n32k16_ss<T, kTransposed>(d, a, b, accumulate);
}

}  // namespace flashmla
