// Conversions to and from e4m3 where an instruction does it, or CUDA's own functions on older GPUs: exact, NaN
// included. (The attention kernels, which convert in the shadow of the matrix units, use fp8.cuh.)
#pragma once
#include "common/numeric.cuh"
#include <cuda_fp8.h>

namespace flashmla {

// Two values to their nearest codes, ties to even, `low` in the lower byte; larger ones than 448 become 448.
__device__ __forceinline__ uint32_t to_e4m3x2(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ float2 from_e4m3x2(uint32_t codes) {
    // Every e4m3 value is one of FP16's.
    const __half2_raw halves = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
    return __half22float2(__half2(halves));
}

// 2^(code - 127), the code of 255 being NaN.
__device__ __forceinline__ float from_e8m0(uint32_t code) {
    return __uint_as_float(code == 255 ? 0x7fffffffu : code == 0 ? 0x00400000u : code << 23);
}

}  // namespace flashmla
