// Programmatic dependent launch: a kernel may be set up while its predecessor on the stream runs. GPUs before SM90
// have none, and need none of this.
#pragma once

namespace flashmla {

// Waits until the kernels before this one have finished and their writes are visible. Without the
// launch attribute it returns at once.
__device__ __forceinline__ void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel be set up as soon as every block of this one got here.
__device__ __forceinline__ void grid_dependency_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace flashmla
