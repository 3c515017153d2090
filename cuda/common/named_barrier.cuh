// Barriers of a part of a thread block.
#pragma once

namespace flashmla {

// `kId` is 1 .. 15; 0 is __syncthreads().
template <int kId, int kThreads>
__device__ __forceinline__ void named_barrier_sync() {
    asm volatile("bar.sync %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

}  // namespace flashmla
