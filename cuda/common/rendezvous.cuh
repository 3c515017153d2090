// How thread blocks of one launch wait for others that were started before them.
//
// The workspace holds a counter of calls, and a word for each thread block. A block tells that it got somewhere by
// writing a value to its word that no call before left there: the counter plus a number that the host drew for
// the call. The number makes a launch's values its own whatever memory held before; the counter does so for
// replays of a graph, in which the number is the same. So nothing needs to be cleared, by the caller or anyone. The last block
// advances the counter when all the others have written their words, and so have read it.
//
// Blocks start in the order of their indices, so a block may wait for those before it, which wait for
// nothing or for others before them.
#pragma once
#include "common/mbarrier.cuh"
#include <cstdint>

namespace flashmla {

__device__ __forceinline__ uint64_t load_acquire(const uint64_t* address) {
    uint64_t value;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}

__device__ __forceinline__ void store_release(uint64_t* address, uint64_t value) {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

class Rendezvous {
  public:
    // `words`: the counter, then a word for each block of the grid.
    __device__ __forceinline__ Rendezvous(uint64_t words, uint64_t call)
        : words_(reinterpret_cast<uint64_t*>(words)), call_(call) {}

    // Reads the counter: by every block that tells or waits, and before it does.
    __device__ __forceinline__ void begin() { count_ = load_acquire(words_); }

    // The same for a thread that has other things to do meanwhile, and no register to spare: into shared memory.
    __device__ __forceinline__ void begin_later(uint64_t* shared) const {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(smem_address(shared)), "l"(words_) : "memory");
    }
    __device__ __forceinline__ void begin_now(const uint64_t* shared) {
        asm volatile("cp.async.wait_all;" ::: "memory");
        count_ = *shared;
    }

    // By one thread, after a barrier of those whose writes it vouches for.
    __device__ __forceinline__ void tell() { store_release(words_ + 1 + blockIdx.x, call_ + count_); }

    // By a whole warp: blocks `first`, `first + step` ... below `end`.
    __device__ __forceinline__ void wait(int first, int end, int step) const {
        for (int base = first; base < end; base += 32 * step) {
            const int block = base + threadIdx.x % 32 * step;
            while (block < end && load_acquire(words_ + 1 + block) != call_ + count_) __nanosleep(40);
        }
        __syncwarp();
    }

    // By a warp of the last block.
    __device__ __forceinline__ void end() {
        wait(0, gridDim.x - 1, 1);
        if (threadIdx.x % 32 == 0) store_release(words_, count_ + 1);
    }

  private:
    uint64_t* words_;
    uint64_t call_, count_;
};

}  // namespace flashmla
