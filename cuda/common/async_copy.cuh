// Copies from global to shared memory of 16 bytes a thread that do not wait (cp.async), for rows that the copy
// engine cannot gather on SM90.
#pragma once
#include <cstdint>

namespace flashmla {

// Past L1. If not `valid`, 16 zeros arrive and nothing is read.
__device__ __forceinline__ void cp_async_16(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// One of the arrivals that the barrier expects, when all copies that this thread began have landed.
__device__ __forceinline__ void cp_async_mbarrier_arrive(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

}  // namespace flashmla
