// How a thread block leaves a piece to another, in batch-invariant plans (hand_over in src/schedule.rs): the registers of each
// warp that computes go to memory, and a word tells the same warp of the block of the partition behind that they are there.
// What it continues with is what it would have had itself, bit by bit.
//
// A record of the workspace for each block: float4 [vectors][threads], vector after vector of all threads, so that a warp
// writes 512 bytes in a row; in its last 256 bytes a word for each warp. The word is the number of the call, which memory
// holds by chance once in 2^64. Who has read it clears it, so that a graph that is replayed does not find it again.
//
// Blocks start in the order of their indices, and the one that begins a piece has a lower one, and begins with it: it waits
// for nobody.
#pragma once
#include "common/rendezvous.cuh"
#include "sm90/dense_decode/pieces.cuh"

namespace flashmla::sm90::dense_decode {

constexpr int kHandoverWords = 256;   // bytes
constexpr int kHandoverNumbers = 64;  // of a row, beside its accumulator; the host makes room for them (src/workspace.rs)
__host__ __device__ constexpr int handover_vectors(int rows) { return rows * (kLatent + kHandoverNumbers) / 4 / 128; }

__device__ const float4 kNothing = {};

class Handover {
  public:
    // `first`: of the vectors of threads with the same number, those of this thread's warpgroup.
    __device__ __forceinline__ Handover(const DenseDecodeParams& p, int warp, int first, int thread)
        : p_(p), warp_(warp), at_((first * 128 + thread) * 16) {}

    // By a whole warp: registers for the partition behind, and that they are there.
    template <int kCount>
    __device__ __forceinline__ void give(const float (&x)[kCount], int vector) const {
        float4* const to = reinterpret_cast<float4*>(record(0) + at_) + vector * 128;
#pragma unroll
        for (int i = 0; i < kCount; i += 4) to[i / 4 * 128] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
    __device__ __forceinline__ void given() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) store_release(word(0), p_.call);
    }

    // Waits for those of the partition before, and takes them.
    __device__ __forceinline__ void wait() const {
        uint64_t* const word = this->word(1);
        while (!__all_sync(~0u, load_relaxed(word) == p_.call)) __nanosleep(64);
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
        if (threadIdx.x % 32 == 0) *word = 0;
        __syncwarp();
    }
    template <int kCount>
    __device__ __forceinline__ void take(float (&x)[kCount], int vector) const {
        const float4* const from = reinterpret_cast<const float4*>(record(1) + at_) + vector * 128;
#pragma unroll
        for (int i = 0; i < kCount; i += 4) {
            const float4 four = __ldcg(from + i / 4 * 128);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    }

    // What a piece begins with: what the partition before left, if the piece resumes that, or zeros. All are loaded, from one
    // address or from many: where code has a choice here, loops over tiles pay for it with registers.
    template <int kCount>
    __device__ __forceinline__ void begin(float (&x)[kCount], int vector, bool resumes) const {
        if (resumes) wait();
        const float4* from = &kNothing;
        int step = 0;
        if (resumes) {
            from = reinterpret_cast<const float4*>(record(1) + at_) + vector * 128;
            step = 128;
        }
#pragma unroll
        for (int i = 0; i < kCount; i += 4, from += step)
            asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(x[i]), "=f"(x[i + 1]), "=f"(x[i + 2]), "=f"(x[i + 3])
                         : "l"(from));
    }

  private:
    // That of this block, or of the same rows of the partition before.
    __device__ __forceinline__ uint8_t* record(int before) const {
        const int64_t block = int64_t(blockIdx.x) - before * (p_.h_kv * p_.row_blocks);
        return reinterpret_cast<uint8_t*>(p_.handovers) + block * p_.handover_bytes;
    }
    __device__ __forceinline__ uint64_t* word(int before) const {
        return reinterpret_cast<uint64_t*>(record(before) + p_.handover_bytes - kHandoverWords) + warp_;
    }

    const DenseDecodeParams& p_;
    const int warp_, at_;
};

}  // namespace flashmla::sm90::dense_decode
