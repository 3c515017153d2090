// Division by a number that the host knows: a multiplication and a shift, where the compiler's own would
// be forty instructions.
#pragma once
#include <cstdint>

namespace flashmla {

// `magic` is ceil(2^shift / divisor) with shift = 31 + ceil(log2(divisor)), made by the host
// (src/gpu/params.rs); exact for 0 <= x < 2^31.
__device__ __forceinline__ int divide(int x, uint32_t magic, uint32_t shift) {
    return int((uint64_t(uint32_t(x)) * magic) >> shift);
}

}  // namespace flashmla
