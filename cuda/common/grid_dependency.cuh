// Programmatic dependent launch: a kernel may be set up while its predecessor on the stream runs.
#pragma once

namespace flashmla {

// Waits until the kernels before this one have finished and their writes are visible. Without the
// launch attribute it returns at once.
__device__ __forceinline__ void grid_dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel be set up as soon as every block of this one got here.
__device__ __forceinline__ void grid_dependency_launch() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace flashmla
