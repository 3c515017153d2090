// Barriers of some of a thread block's warps (bar). Number 0 is that of __syncthreads.
#pragma once

namespace flashmla {

__device__ __forceinline__ void named_barrier_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// The same; and how many of the threads say yes.
__device__ __forceinline__ int named_barrier_count(int barrier, int threads, bool yes) {
    int count;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.s32 p, %3, 0;\n"
        "bar.red.popc.u32 %0, %1, %2, p;\n"
        "}\n"
        : "=r"(count)
        : "r"(barrier), "r"(threads), "r"(int(yes))
        : "memory");
    return count;
}

}  // namespace flashmla
