// Sums over the threads of the block that makes a plan, each of which has a run of requests.
#pragma once
#include "flashmla_params.h"
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

// The largest of all threads' numbers, none of which is negative.
__device__ __forceinline__ int largest(int mine) {
    __shared__ int warp_largest[kMaxThreads / 32];
    const int in_warp = __reduce_max_sync(~0u, mine);
    if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = in_warp;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    return __reduce_max_sync(~0u, lane < warps() ? warp_largest[lane] : 0);
}

// x / partitions, rounded up, for 0 <= x < 2^63.
__device__ __forceinline__ int64_t over_partitions(const PlanParams& p, int64_t x) {
    const uint64_t n = uint64_t(x) + uint32_t(p.partitions - 1);
    // At most one too small.
    const uint64_t q = __umul64hi(n, p.partitions_inverse);
    return int64_t(q + (n - q * uint32_t(p.partitions) >= uint32_t(p.partitions)));
}

// The last of the first `n` runs that does not begin behind x.
__device__ __forceinline__ int run_at(const int64_t* run_starts, int n, int64_t x) {
    int low = 0, high = n;
#pragma unroll 1
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        const bool behind = x < run_starts[middle];
        high = behind ? middle : high;
        low = behind ? low : middle;
    }
    return low;
}

}  // namespace flashmla
