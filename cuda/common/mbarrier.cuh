// Shared-memory transaction barriers (mbarrier), one PTX instruction a function.
#pragma once
#include <cstdint>

namespace flashmla {

__device__ __forceinline__ uint32_t smem_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The same, kept in a register: left to itself the compiler computes it anew at each use, which costs more
// than a register does.
__device__ __forceinline__ uint32_t smem_base(const void* pointer) {
    uint32_t base;
    asm volatile("mov.u32 %0, %1;" : "=r"(base) : "r"(smem_address(pointer)));
    return base;
}

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier, uint32_t count = 1) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

// Lanes that arrive for a warp: after __syncwarp the arrival of one orders what all of them did. That is what the
// memory model says; racecheck credits the arriving lane alone, so that a build for it lets every lane arrive
// (build.rs).
#ifdef FLASHMLA_RACECHECK
constexpr int kArrivalsOfWarp = 32;
#else
constexpr int kArrivalsOfWarp = 1;
#endif

__device__ __forceinline__ bool arrives_for_warp(uint32_t lane) { return kArrivalsOfWarp > 1 || lane == 0; }

// Arrives for the warp, once for each of kArrivalsOfWarp times `count` arrivals.
__device__ __forceinline__ void mbarrier_arrive_warp(uint32_t barrier, uint32_t lane, uint32_t count = 1) {
    if (arrives_for_warp(lane)) mbarrier_arrive(barrier, count);
}

// Waits until the phase of the given parity has completed.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Whether the phase of the given parity has completed.
__device__ __forceinline__ bool mbarrier_test(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// The same, after waiting for a while if it has not.
__device__ __forceinline__ bool mbarrier_try(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    return done;
}

// Orders this thread's ordinary shared-memory accesses before later ones of the copy engine and
// the matrix units (after a barrier that the writers pass).
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace flashmla
