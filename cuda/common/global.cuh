// Global memory, where the compiler's own instructions are not what is wanted.
#pragma once
#include <cstdint>

namespace flashmla {

// 16 bytes that nobody reads soon, if `wanted`: a predicate, where a condition would part the warp.
__device__ __forceinline__ void store_streaming_16(void* to, const uint32_t (&x)[4], bool wanted) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %5, 0;\n"
        "@p st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};\n"
        "}\n" ::"l"(to),
        "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(int(wanted))
        : "memory");
}

}  // namespace flashmla
