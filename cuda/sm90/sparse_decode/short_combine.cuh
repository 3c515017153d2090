// Short pieces: combines those of split units, in blocks behind those of the partitions, which get multiprocessors as the first of
// these end:
//   R = max_i r_i,  out = sum_i 2^(r_i - R) acc_i / sum_i 2^(r_i - R) s_i,
// acc_i being the accumulator of a piece, relative to the reference r_i of the row, and s_i the sum of its weights. Pieces
// are added in an order that follows from their number alone, so the bits of the result depend on nothing else. A sink
// takes its part of the weights, and lse does not see it.
//
// Accumulators lie in memory as the matrix units have them in registers: a *fragment* is the four numbers that a thread
// holds of 8 columns in two rows. A warp combines one fragment of each of its lanes, 16 rows x 8 columns, of all pieces, so
// that what it loads lies together, and the loads of many pieces are in flight at once.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/numeric.cuh"
#include "common/rendezvous.cuh"
#include "common/sink.cuh"
#include "sm90/sparse_decode/short_config.cuh"

namespace flashmla::sm90::sparse_decode {

constexpr int kFragmentRows = 16;
constexpr int kFragments = kLatent / 2 / 8;  // of a thread
// Blocks of 16 rows of a unit.
__device__ __forceinline__ int fragment_rows(const SparseDecodeParams& p) {
    return (p.h_q + kFragmentRows - 1) / kFragmentRows;
}

// Where a warp's fragments of a piece lie, of rows 16 `rows` .. in the left or the right half of the columns.
__device__ __forceinline__ float4* fragments(const SparseDecodeParams& p, int slot, int rows, int half) {
    return reinterpret_cast<float4*>(p.split_out) +
           ((int64_t(slot) * fragment_rows(p) + rows) * 2 + half) * (kFragments * 32);
}

// Reference and sum of a row of a piece.
__device__ __forceinline__ float2* piece_sums(const SparseDecodeParams& p, int slot, int row) {
    return reinterpret_cast<float2*>(p.split_lse) + (int64_t(slot) * fragment_rows(p) * kFragmentRows + row);
}

class Combine {
  public:
    __device__ __forceinline__ explicit Combine(const SparseDecodeParams& p) : p_(p), lane_(threadIdx.x % 32) {}

    // Every `warps`-th item from number `warp` on.
    __device__ __forceinline__ void run(int splits, int warp, int warps) {
        const int items = fragment_rows(p_) * (2 * kFragments);  // of a unit
        for (int64_t item = warp; item < int64_t(splits) * items; item += warps) {
            const int number = int(item / items);
            const SplitPlan split = reinterpret_cast<const SplitPlan*>(p_.splits)[1 + number];
            if (valid(split)) compute(split, int(item - int64_t(number) * items));
        }
    }

  private:
    static constexpr int kAtOnce = 16;

    // A plan for other lengths may name what does not exist.
    __device__ __forceinline__ bool valid(const SplitPlan& s) const {
        return s.request >= 0 && s.request < p_.units && s.pieces > 0 && s.first_slot >= 0 && s.first_slot < p_.slots &&
               s.rest_slot >= 0 && s.pieces - 1 <= p_.slots - s.rest_slot;
    }

    __device__ __forceinline__ void compute(const SplitPlan& s, int item) const {
        const int fragment = item % kFragments, half = item / kFragments % 2, rows = item / (2 * kFragments);
        // Of the lane's two rows.
        float reference[2] = {kNoReference, kNoReference}, total[2] = {};
        float4 sum = {};
#pragma unroll 1
        for (int base = 0; base < s.pieces; base += kAtOnce) {
            float4 x[kAtOnce];
            // The four lanes of a row share out the sums of the pieces.
            float2 sums[kAtOnce / 4][2];
#pragma unroll
            for (int k = 0; k < kAtOnce / 4; ++k) {
                const int i = base + k * 4 + lane_ % 4;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    sums[k][h] = {kNoReference, 0.f};
                    if (i < s.pieces)
                        sums[k][h] = __ldcg(piece_sums(p_, slot(s, i), rows * kFragmentRows + h * 8 + lane_ / 4));
                }
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                x[i] = {};
                if (base + i < s.pieces)
                    x[i] = __ldcg(fragments(p_, slot(s, base + i), rows, half) + fragment * 32 + lane_);
            }
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float highest = sums[0][h].x;
#pragma unroll
                for (int k = 1; k < kAtOnce / 4; ++k) highest = fmaxf(highest, sums[k][h].x);
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                highest = fmaxf(highest, reference[h]);
                const float rescale = exp2_approx(reference[h] - highest);
                reference[h] = highest;
                float part = 0.f;
#pragma unroll
                for (int k = 0; k < kAtOnce / 4; ++k) {
                    // In place of the reference the weight.
                    sums[k][h].x = exp2_approx(sums[k][h].x - highest);
                    part += sums[k][h].x * sums[k][h].y;
                }
                part += __shfl_xor_sync(~0u, part, 1);
                part += __shfl_xor_sync(~0u, part, 2);
                total[h] = total[h] * rescale + part;
                (h ? sum.z : sum.x) *= rescale;
                (h ? sum.w : sum.y) *= rescale;
            }
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                const int from = lane_ / 4 * 4 + i % 4;
                const float low = __shfl_sync(~0u, sums[i / 4][0].x, from), high = __shfl_sync(~0u, sums[i / 4][1].x, from);
                sum.x += low * x[i].x;
                sum.y += low * x[i].y;
                sum.z += high * x[i].z;
                sum.w += high * x[i].w;
            }
        }
        const Unit unit(s.request, p_.tokens, p_.tokens_magic, p_.tokens_shift);
        uint16_t* out = reinterpret_cast<uint16_t*>(p_.out) + unit.request * p_.out_strides[0] +
                        unit.token * p_.out_strides[1] + half * (kLatent / 2) + fragment * 8 + lane_ % 4 * 2;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int head = rows * kFragmentRows + h * 8 + lane_ / 4;
            if (head >= p_.h_q) continue;
            float denominator = total[h];
            if (p_.attn_sink != 0) denominator += exp2_approx(sink_log2(p_, head, reference[h]));
            // NaN is not empty.
            const bool empty = total[h] == 0.f;
            const float scale = empty ? 0.f : reciprocal_approx(denominator);
            *reinterpret_cast<uint32_t*>(out + head * p_.out_strides[2]) =
                Bf16::pack((h ? sum.z : sum.x) * scale, (h ? sum.w : sum.y) * scale);
            if (p_.lse != 0 && fragment == 0 && half == 0 && lane_ % 4 == 0) {
                float lse = (reference[h] + log2_approx(total[h])) * kLn2;
                if (empty) lse = p_.lse_empty_pos_inf ? INFINITY : -INFINITY;
                reinterpret_cast<float*>(p_.lse)[unit.request * p_.lse_strides[0] + head * p_.lse_strides[1] +
                                                 unit.token * p_.lse_strides[2]] = lse;
            }
        }
    }

    static __device__ __forceinline__ int slot(const SplitPlan& s, int i) {
        return i == 0 ? s.first_slot : s.rest_slot + i - 1;
    }

    const SparseDecodeParams& p_;
    const int lane_;
};

// Combines what the blocks of the partitions wrote. `kWarps`: of a block.
template <int kWarps>
__device__ __forceinline__ void combine_pieces(const SparseDecodeParams& p, Rendezvous rendezvous) {
    const int block = blockIdx.x - p.blocks, blocks = gridDim.x - p.blocks - 1, warp = threadIdx.x / 32;
    grid_dependency_wait();
    // The plan's list of split units, of which a plan that was never written may hold any number: nothing beyond the
    // list's room is read, as PlanLayout (src/workspace.rs) has it. Where nothing is split, nobody waits.
    const int room = p.pieces != 0 ? p.units : min(p.units, p.partitions - 1);
    const int splits = min(*reinterpret_cast<const int*>(p.splits), room);
    if (splits <= 0) return;
    rendezvous.begin();
    if (block == blocks) {
        if (warp == 0) rendezvous.end();
        return;
    }
    if (threadIdx.x == 0) rendezvous.tell();
    if (warp == 0) rendezvous.wait(0, p.blocks, 1);
    __syncthreads();
    Combine(p).run(splits, warp * blocks + block, kWarps * blocks);
}

// A block of a partition says that its pieces are there: it begins before it computes them, and tells afterwards.
template <class Shared>
__device__ __forceinline__ void begin_telling(const SparseDecodeParams& p, const Rendezvous& rendezvous, Shared& s) {
    if (threadIdx.x == 0 && p.slots > 0) {
        rendezvous.begin_later(&s.calls);
        copy_async<4>(&s.splits, reinterpret_cast<const SplitPlan*>(p.splits));
    }
}

template <class Shared>
__device__ __forceinline__ void tell(const SparseDecodeParams& p, Rendezvous& rendezvous, Shared& s) {
    if (p.slots == 0) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        copy_async_wait();
        rendezvous.begin_now(&s.calls);
        if (s.splits > 0) rendezvous.tell();
    }
}

}  // namespace flashmla::sm90::sparse_decode
