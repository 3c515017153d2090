// The bulk tensor copy engine (TMA).
#pragma once
#include <cstdint>

namespace flashmla {

// Laid out by the driver (cuTensorMapEncodeTiled), passed as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

__device__ __forceinline__ void prefetch_tensor_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies a box at the given coordinates (innermost first) to shared memory; its bytes count on
// `barrier`. What lies outside the tensor arrives as zeros, and counts.
__device__ __forceinline__ void tma_load_5d(uint32_t to, const TensorMap* map, uint32_t barrier, int x0, int x1,
                                            int x2, int x3, int x4) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
        : "memory");
}

// What L2 should give up first, as createpolicy encodes it.
constexpr uint64_t kEvictFirst = 0x12f0000000000000;

// Copies a box from shared memory, what lies inside the tensor, as part of this thread's open group of copies.
__device__ __forceinline__ void tma_store_5d(const TensorMap* map, uint32_t from, int x0, int x1, int x2, int x3, int x4,
                                             uint64_t policy) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group.L2::cache_hint [%0, {%2, %3, %4, %5, %6}], [%1], %7;" ::"l"(
            map),
        "r"(from), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "l"(policy)
        : "memory");
}

// Closes this thread's group of copies from shared memory.
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all of this thread's groups have been read from shared memory.
__device__ __forceinline__ void tma_store_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// The same under a policy for L2.
__device__ __forceinline__ void tma_load_5d(uint32_t to, const TensorMap* map, uint32_t barrier, int x0, int x1,
                                            int x2, int x3, int x4, uint64_t policy) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, "
        "%4, %5, %6, %7}], [%2], %8;" ::"r"(to),
        "l"(map), "r"(barrier), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "l"(policy)
        : "memory");
}

// Policy: what is read makes room first.
__device__ __forceinline__ uint64_t l2_evict_first() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Brings a box into L2, for a copy to come.
__device__ __forceinline__ void tma_prefetch_5d(const TensorMap* map, int x0, int x1, int x2, int x3, int x4) {
    asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %2, %3, %4, %5}];" ::"l"(map), "r"(x0), "r"(x1),
                 "r"(x2), "r"(x3), "r"(x4)
                 : "memory");
}

// Brings the 128 bytes around an address into L2.
__device__ __forceinline__ void prefetch_l2_line(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from) : "memory");
}

// True in one thread of a converged warp; the compiler knows that it is one.
__device__ __forceinline__ bool elect_one() {
    uint32_t elected;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "elect.sync _|p, 0xffffffff;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(elected));
    return elected;
}

}  // namespace flashmla
