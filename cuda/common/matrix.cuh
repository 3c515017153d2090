// 8x8 matrices of 16-bit elements between shared memory and the registers of a warp.
#pragma once
#include <cstdint>

namespace flashmla {

// Byte offset in a tile of rows of 128 bytes under the 128-byte swizzle: the 16-byte column is
// exclusive-ored with the row's number in its group of eight. Tiles begin at multiples of 1024.
__device__ __forceinline__ uint32_t swizzle_128b(uint32_t row, uint32_t column16) {
    return row * 128 + ((column16 ^ (row & 7)) << 4);
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void stmatrix_x4(uint32_t address, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r0), "r"(r1),
                 "r"(r2), "r"(r3)
                 : "memory");
}

// Transposes 4 x 4 words over the four threads of a quad: thread t ends with word t of each.
__device__ __forceinline__ void transpose_4x4(uint32_t (&x)[4], int lane) {
    const bool odd = lane & 1, high = lane & 2;
    const uint32_t a = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 1);
    const uint32_t b = __shfl_xor_sync(~0u, odd ? x[2] : x[3], 1);
    x[0] = odd ? a : x[0];
    x[1] = odd ? x[1] : a;
    x[2] = odd ? b : x[2];
    x[3] = odd ? x[3] : b;
    const uint32_t c = __shfl_xor_sync(~0u, high ? x[0] : x[2], 2);
    const uint32_t d = __shfl_xor_sync(~0u, high ? x[1] : x[3], 2);
    x[0] = high ? c : x[0];
    x[2] = high ? x[2] : c;
    x[1] = high ? d : x[1];
    x[3] = high ? x[3] : d;
}

}  // namespace flashmla
