// Barriers of some of a thread block's warps (bar). Number 0 is that of __syncthreads.
#pragma once

namespace flashmla {

__device__ __forceinline__ void named_barrier_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace flashmla
