// Loads of global memory that nobody writes meanwhile.
#pragma once
#include <cstdint>

namespace flashmla {

// Volatile, so that loads stay in the order in which they are asked for.
__device__ __forceinline__ void load_global_16(uint32_t (&to)[4], uint64_t from) {
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from)
                 : "memory");
}

}  // namespace flashmla
