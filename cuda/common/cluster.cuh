// Thread blocks of a cluster: each other's shared memory, and waiting for each other.
//
// Barriers here have the default scope: cluster scope would empty L1 at every wait and drain all writes at every
// arrival (cuda/NOTES.md). What passes between blocks is data of the copy engine, which counts on a barrier, and "this
// buffer is free".
#pragma once
#include <cstdint>

namespace flashmla {

// What `address` of this block is called in block `rank` of the cluster.
__device__ __forceinline__ uint32_t cluster_address(uint32_t address, uint32_t rank) {
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// All threads of all blocks of the cluster, in two halves.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.aligned;" ::: "memory"); }

// The same, but it says no more than that this thread got here: for where all has been read, and what others are to see
// counts on a barrier. (The other one waits for all writes, hundreds of clocks.)
__device__ __forceinline__ void cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

// Arrives at a barrier of any block of the cluster.
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// From this block's shared memory to another's, by the copy engine; the bytes count on a barrier there.
__device__ __forceinline__ void copy_to_cluster(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "r"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

// A word, whose four bytes count likewise.
__device__ __forceinline__ void store_to_cluster(uint32_t to, uint32_t value, uint32_t barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(to), "r"(value),
                 "r"(barrier)
                 : "memory");
}

// 16 bytes, which count likewise.
__device__ __forceinline__ void store_to_cluster_16(uint32_t to, float a, float b, float c, float d, uint32_t barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to), "f"(a),
        "f"(b), "f"(c), "f"(d), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void store_to_cluster_16(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d,
                                                    uint32_t barrier) {
    store_to_cluster_16(to, __uint_as_float(a), __uint_as_float(b), __uint_as_float(c), __uint_as_float(d), barrier);
}

// 8 bytes, to be read after a barrier of the cluster.
__device__ __forceinline__ void store_shared_cluster_8(uint32_t to, uint32_t a, uint32_t b) {
    asm volatile("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(to), "r"(a), "r"(b) : "memory");
}

}  // namespace flashmla
