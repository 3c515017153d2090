// Sums over the threads of the block that makes a plan, each of which has a run of requests.
#pragma once
#include <cstdint>

namespace flashmla {

constexpr int kMaxThreads = 1024;

__device__ __forceinline__ int warps() { return blockDim.x / 32; }

template <int kCount>
struct Sums {
    int64_t of[kCount];

    // Of threads before this one in the warp and this one.
    __device__ __forceinline__ Sums scan(int lane) const {
        Sums x = *this;
#pragma unroll 1
        for (int step = 1; step < 32; step *= 2) {
            for (int64_t& sum : x.of) {
                const int64_t left = __shfl_up_sync(~0u, sum, step);
                sum += lane >= step ? left : 0;
            }
        }
        return x;
    }
};

// Sums over the threads before this one; and in `total` over all.
template <int kCount>
__device__ __forceinline__ Sums<kCount> exclusive_scan(Sums<kCount> mine, Sums<kCount>& total) {
    __shared__ Sums<kCount> warp_sums[kMaxThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Sums<kCount> x = mine, within;
#pragma unroll 1
    for (int level = 0;; ++level) {
        x = x.scan(lane);
        if (level == 1) break;
        if (lane == 31) warp_sums[warp] = x;
        __syncthreads();
        within = x;
        x = lane < warps() ? warp_sums[lane] : Sums<kCount>{};
    }
    for (int i = 0; i < kCount; ++i) {
        total.of[i] = __shfl_sync(~0u, x.of[i], 31);
        const int64_t before = __shfl_sync(~0u, x.of[i], max(warp - 1, 0));
        within.of[i] += (warp > 0 ? before : 0) - mine.of[i];
    }
    return within;
}

}  // namespace flashmla
