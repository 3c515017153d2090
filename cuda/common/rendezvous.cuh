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

__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* address) {
    uint64_t value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}

__device__ __forceinline__ void store_release(uint64_t* address, uint64_t value) {
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

// A few bytes from global to shared memory, by a thread that does not wait for them.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(smem_address(shared)), "l"(from), "n"(kBytes)
                 : "memory");
}
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

class Rendezvous {
  public:
    // `words`: the counter, then a word for each block of the grid.
    __device__ __forceinline__ Rendezvous(uint64_t words, uint64_t call)
        : words_(reinterpret_cast<uint64_t*>(words)), call_(call) {}

    // Reads the counter: by every block that tells or waits, and before it does. (A launch before this one wrote it.)
    __device__ __forceinline__ void begin() { count_ = load_relaxed(words_); }

    // The same for a thread that has other things to do meanwhile, and no register to spare: the counter goes to shared
    // memory, and is taken from there when it has arrived (copy_async_wait).
    __device__ __forceinline__ void begin_later(uint64_t* shared) const { copy_async<8>(shared, words_); }
    __device__ __forceinline__ void begin_now(const uint64_t* shared) { count_ = *shared; }

    // By one thread, after a barrier of those whose writes it vouches for.
    __device__ __forceinline__ void tell() { store_release(words_ + 1 + blockIdx.x, call_ + count_); }

    // The same by a block that wrote nothing.
    __device__ __forceinline__ void tell_only() {
        asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(words_ + 1 + blockIdx.x), "l"(call_ + count_) : "memory");
    }

    // Whether blocks `first`, `first + step` ... below `end` have told. By a whole warp, and few: each question takes
    // bandwidth from the blocks that are asked about.
    __device__ __forceinline__ bool there(int first, int end, int step) const {
        // Several words of a lane at once: one after the other they would take as many times the latency of memory.
        constexpr int kAtOnce = 5;
        bool mine = true;
#pragma unroll 1
        for (int base = first + threadIdx.x % 32 * step; base < end; base += 32 * kAtOnce * step) {
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int block = base + 32 * i * step;
                if (block < end) mine &= load_relaxed(words_ + 1 + block) == call_ + count_;
            }
        }
        const bool all = __all_sync(~0u, mine);
        // What they wrote before may be read now.
        if (all) asm volatile("fence.acq_rel.gpu;" ::: "memory");
        __syncwarp();
        return all;
    }

    __device__ __forceinline__ void wait(int first, int end, int step) const {
        while (!there(first, end, step)) __nanosleep(64);
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
