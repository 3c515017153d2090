// The two ceilings of a device, for the benchmark: what no kernel exceeds. Not part of the library.
#include "common/mbarrier.cuh"
#include "common/wgmma.cuh"

// Reads `vectors` 16-byte words; `sink` keeps the compiler from dropping them.
extern "C" __global__ void __launch_bounds__(512) flashmla_bench_read(const uint4* data, uint64_t vectors, uint32_t* sink) {
    constexpr int kUnroll = 8;
    const uint64_t step = uint64_t(gridDim.x) * blockDim.x;
    uint32_t mixed = 0;
    uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i + (kUnroll - 1) * step < vectors; i += kUnroll * step) {
        uint4 x[kUnroll];
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) x[k] = __ldcs(data + i + k * step);
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) mixed ^= x[k].x ^ x[k].y ^ x[k].z ^ x[k].w;
    }
    for (; i < vectors; i += step) mixed ^= __ldcs(data + i).x;
    if (mixed == 0x9e3779b9) *sink = mixed;
}

// Products of 64 x 256 x 16 on random BF16 operands in shared memory, three warpgroups, eight products an
// iteration each.
extern "C" __global__ void __launch_bounds__(384, 1) flashmla_bench_wgmma(uint32_t iterations, float* sink) {
    __shared__ alignas(1024) uint8_t operands[5 * 8192];
    uint32_t state = blockIdx.x * 384 + threadIdx.x + 1;
    for (int i = threadIdx.x; i < int(sizeof(operands) / 4); i += 384) {
        uint32_t word = 0;
        for (int half = 0; half < 2; ++half) {
            state = state * 1664525u + 1013904223u;
            // Sign and mantissa random, magnitude 2^-4 .. 2^-1.
            word |= ((state >> 16 & 0x80ff) | (123 + (state >> 9 & 3)) << 7) << (16 * half);
        }
        reinterpret_cast<uint32_t*>(operands)[i] = word;
    }
    flashmla::fence_proxy_async();
    __syncthreads();
    const uint64_t a = flashmla::wgmma_descriptor(flashmla::smem_address(operands), 1024, 0);
    const uint64_t b = flashmla::wgmma_descriptor(flashmla::smem_address(operands) + 8192, 1024, 8192);
    float d[128] = {};
    for (uint32_t i = 0; i < iterations; ++i) {
        flashmla::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 8; ++k)
            flashmla::wgmma_m64n256k16_sv<flashmla::Bf16>(d, a + k % 4 * 2, b + k % 4 * (2048 >> 4), 1);
        flashmla::wgmma_commit();
        flashmla::wgmma_wait<0>();
    }
    flashmla::pin(d);
    float sum = 0.f;
    for (int i = 0; i < 128; ++i) sum += d[i];
    if (sum == 12345.678f) *sink = sum;
}
