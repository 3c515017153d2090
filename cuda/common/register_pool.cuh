// Registers move between warpgroups: each role gets what it needs (setmaxnreg).
#pragma once

namespace flashmla {

template <int kRegisters>
__device__ __forceinline__ void register_pool_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void register_pool_acquire() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace flashmla
