// Combines the pieces of split requests: with lse_i the base-2 logarithm of a piece's sum,
//   lse = log2(sum_i 2^lse_i),  out = sum_i 2^(lse_i - lse) out_i,
// a piece with lse_i = -inf being empty. Pieces are added in an order that follows from their number and the
// rows of a request alone, so the bits of the result depend on nothing else. A sink takes its part of the weights, and
// lse does not see it.
//
// The split requests of the plan are cut into items, which the thread blocks take in turn. What counts is
// latency, so that all loads of an item are in flight at once:
//   few pieces    an item is kWarps rows, a warp computes one of them
//   many pieces   an item is a row, or a quarter of one where rows are few, and the warps share the pieces too
#pragma once
#include "common/lengths.cuh"
#include "common/numeric.cuh"
#include "common/plan.cuh"
#include "common/sink.cuh"
#include "flashmla_params.h"

namespace flashmla {

constexpr int kCombineColumns = 512;
constexpr int kCombineFewPieces = 12;
// With fewer rows than this the columns of a row are shared out, too.
constexpr int kCombineFewRows = 48;
// With more there is enough to do for every warp.
constexpr int kCombineManyRows = 4096;
// Where pieces may be many a lane keeps the lse of so many in registers: of 160 pieces a row, more than an H100 has
// multiprocessors.
constexpr int kHeldOfMany = 5;

// What differs between operations: which query tokens a request of the plan has, and sinks.
__device__ __forceinline__ Unit unit_of(const CombineParams& p, int request) { return {request, p.tokens}; }
__device__ __forceinline__ Unit unit_of(const DenseDecodeParams&, int request) { return {request, 1}; }
__device__ __forceinline__ float sink_weight(const CombineParams& p, int64_t head, float reference) {
    if (p.attn_sink == 0) return 0.f;
    return exp2_approx(sink_log2(p, head, reference));
}
__device__ __forceinline__ float sink_weight(const DenseDecodeParams&, int64_t, float) { return 0.f; }
// Requests that the plan's list of split ones has room for, as PlanLayout (src/workspace.rs) has it.
__device__ __forceinline__ int most_splits(const CombineParams& p) { return p.most_splits; }
__device__ __forceinline__ int most_splits(const DenseDecodeParams& p) {
    return p.pieces != 0 ? p.b : min(p.b, p.partitions - 1);
}

// `Params` is that of any kernel that writes pieces; `ready(split)`, by all threads, waits until those of a request are there.
template <class T, int kWarps, class Params, class Ready>
class Combine {
  public:
    // Scratch: the sums of all warps but the first of each part.
    static constexpr int kScratchBytes = kWarps * 128 * 4;

    __device__ __forceinline__ Combine(const Params& p, float4* scratch, Ready& ready)
        : p_(p), scratch_(scratch), ready_(ready), rows_(p.h_kv * p.rows), lane_(threadIdx.x % 32),
          warp_(threadIdx.x / 32), list_(reinterpret_cast<const SplitPlan*>(p.splits)), splits_(list_[0].request),
          mine_{} {
        // With the header, not after it.
        if (lane_ < most_splits(p)) mine_ = list_[1 + lane_];
    }

    // Requests that the plan splits.
    __device__ __forceinline__ int splits() const { return splits_; }

    // Every `blocks`-th item from number `block` on.
    __device__ __forceinline__ void run(int block, int blocks) {
        // A plan that was never written may hold any number: nothing beyond the list's room is read.
        const int n = min(splits_, most_splits(p_));
        int64_t item = block, before = 0;
#pragma unroll 1
        for (int base = 0; base < n;) {
            SplitPlan mine = mine_;
            int end = base + lane_ < n && valid(mine) ? items(mine.pieces) : 0;
#pragma unroll 1
            for (int step = 1; step < 32; step *= 2) {
                const int left = __shfl_up_sync(~0u, end, step);
                if (lane_ >= step) end += left;
            }
#pragma unroll 1
            for (; item < before + __shfl_sync(~0u, end, 31); item += blocks) {
                const int owner = __popc(__ballot_sync(~0u, before + end <= item));
                const SplitPlan split = {__shfl_sync(~0u, mine.request, owner),
                                         __shfl_sync(~0u, mine.pieces, owner),
                                         __shfl_sync(~0u, mine.first_slot, owner),
                                         __shfl_sync(~0u, mine.rest_slot, owner)};
                const int first = __shfl_sync(~0u, end, owner) - items(split.pieces);
                compute(split, int(item - before) - first);
            }
            before += __shfl_sync(~0u, end, 31);
            base += 32;
            if (base + lane_ < n) mine_ = list_[1 + base + lane_];
        }
    }

  private:
    // A plan for other lengths may name what does not exist.
    __device__ __forceinline__ bool valid(const SplitPlan& s) const {
        return s.request >= 0 && s.request < p_.b && s.pieces > 0 && s.first_slot >= 0 && s.first_slot < p_.slots &&
               s.rest_slot >= 0 && s.pieces - 1 <= p_.slots - s.rest_slot;
    }

    __device__ __forceinline__ bool few(int pieces) const {
        return pieces <= kCombineFewPieces || rows_ > kCombineManyRows;
    }

    __device__ __forceinline__ int items(int pieces) const {
        if (pieces <= 0) return 0;
        if (few(pieces)) return (rows_ + kWarps - 1) / kWarps;
        return rows_ < kCombineFewRows ? rows_ * 4 : rows_;
    }

    __device__ __forceinline__ void compute(const SplitPlan& split, int item) {
        const bool alone = few(split.pieces), quarter = rows_ < kCombineFewRows;
        ready_(split);
        const int row = alone ? item * kWarps + warp_ : quarter ? item / 4 : item;
        if (row >= rows_) return;
        if (alone) {
            whole_row(split, row);
        } else {
            shared_row(split, row, quarter ? item % 4 : 0, quarter ? 1 : 4);
        }
    }

    static __device__ __forceinline__ int slot(const SplitPlan& s, int i) {
        return i == 0 ? s.first_slot : s.rest_slot + i - 1;
    }
    __device__ __forceinline__ float load_lse(const SplitPlan& s, int i, int row) const {
        return i < s.pieces ? reinterpret_cast<const float*>(p_.split_lse)[int64_t(slot(s, i)) * rows_ + row] : -INFINITY;
    }
    // Four columns of a piece: those of this lane in part `part` of 128.
    __device__ __forceinline__ float4 load_out(const SplitPlan& s, int i, int row, int part) const {
        return reinterpret_cast<const float4*>(
            p_.split_out)[(int64_t(slot(s, i)) * rows_ + row) * (kCombineColumns / 4) + part * 32 + lane_];
    }

    static __device__ __forceinline__ void add(float4& sum, float weight, float4 x) {
        sum.x += weight * x.x;
        sum.y += weight * x.y;
        sum.z += weight * x.z;
        sum.w += weight * x.w;
    }

    // The reference of a row's weights, any finite one where all pieces are empty, and the sum of the weights.
    struct Total {
        float reference, sum;
    };
    // All at once, as far as that goes: of as many pieces as 32 lanes hold `kHeld` of each.
    template <int kHeld>
    __device__ __forceinline__ Total total(const SplitPlan& s, int row) const {
        float held[kHeld];
#pragma unroll
        for (int k = 0; k < kHeld; ++k) held[k] = load_lse(s, lane_ + 32 * k, row);
        float highest = held[0];
#pragma unroll
        for (int k = 1; k < kHeld; ++k) highest = fmaxf(highest, held[k]);
#pragma unroll 1
        for (int i = lane_ + 32 * kHeld; i < s.pieces; i += 32) highest = fmaxf(highest, load_lse(s, i, row));
#pragma unroll
        for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
        const float reference = highest == -INFINITY ? 0.f : highest;
        float sum = 0.f;
#pragma unroll
        for (int k = 0; k < kHeld; ++k) sum += exp2_approx(held[k] - reference);
#pragma unroll 1
        for (int i = lane_ + 32 * kHeld; i < s.pieces; i += 32) sum += exp2_approx(load_lse(s, i, row) - reference);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        return {reference, sum};
    }

    // A warp computes a row.
    __device__ __forceinline__ void whole_row(const SplitPlan& s, int row) {
        constexpr int kAtOnce = 4;
        float4 sum[4] = {};
        Total all;
#pragma unroll 1
        for (int base = 0; base < s.pieces; base += kAtOnce) {
            float4 x[kAtOnce][4];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                if (base + i >= s.pieces) continue;
#pragma unroll
                for (int k = 0; k < 4; ++k) x[i][k] = load_out(s, base + i, row, k);
            }
            // After the loads of the pieces, which need not wait for it.
            if (base == 0) all = total<1>(s, row);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                if (base + i >= s.pieces) continue;
                // Which is in L1 by now.
                const float weight = exp2_approx(load_lse(s, base + i, row) - all.reference);
#pragma unroll
                for (int k = 0; k < 4; ++k) add(sum[k], weight, x[i][k]);
            }
        }
        const At at(p_, s, row);
        const float scale = scale_of(at, all);
#pragma unroll
        for (int k = 0; k < 4; ++k) store(at, k, sum[k], scale);
        if (lane_ == 0) store_lse(at, all);
    }

    // The block computes one part of 128 columns of a row, or all four; the warps of a part share its pieces.
    __device__ __forceinline__ void shared_row(const SplitPlan& s, int row, int part, int parts) {
        constexpr int kAtOnce = 6;
        const int sharing = kWarps / parts, share = warp_ / parts;
        part += warp_ % parts;
        const int each = (s.pieces + sharing - 1) / sharing;
        const int begin = share * each, end = min(begin + each, s.pieces);
        float4 sum = {};
        Total all;
#pragma unroll 1
        for (int base = begin; base < begin + each; base += kAtOnce) {
            float4 x[kAtOnce];
            float lse[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                if (base + i >= end) continue;
                lse[i] = load_lse(s, base + i, row);
                x[i] = load_out(s, base + i, row, part);
            }
            // After the loads of the pieces, which need not wait for it.
            if (base == begin) all = total<kHeldOfMany>(s, row);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i) {
                if (base + i < end) add(sum, exp2_approx(lse[i] - all.reference), x[i]);
            }
        }
        scratch_[warp_ * 32 + lane_] = sum;
        __syncthreads();
        if (share == 0) {
#pragma unroll 1
            for (int i = 1; i < sharing; ++i) add(sum, 1.f, scratch_[(i * parts + warp_) * 32 + lane_]);
            const At at(p_, s, row);
            store(at, part, sum, scale_of(at, all));
            if (part == 0 && lane_ == 0) store_lse(at, all);
        }
        __syncthreads();
    }

    struct At {
        int64_t request, token, head;

        __device__ __forceinline__ At(const Params& p, const SplitPlan& s, int row) {
            const Unit unit = unit_of(p, s.request);
            const int kv_head = row / p.rows, query = row % p.rows;
            request = unit.request;
            token = unit.token + query / p.group;
            head = kv_head * p.group + query % p.group;
        }
    };

    __device__ __forceinline__ float scale_of(const At& at, Total all) const {
        return all.sum == 0.f ? 0.f : reciprocal_approx(all.sum + sink_weight(p_, at.head, all.reference));  // NaN stays
    }

    __device__ __forceinline__ void store(const At& at, int part, float4 x, float scale) const {
        uint16_t* to = reinterpret_cast<uint16_t*>(p_.out) + at.request * p_.out_strides[0] +
                       at.token * p_.out_strides[1] + at.head * p_.out_strides[2];
        const uint2 packed = {T::pack(x.x * scale, x.y * scale), T::pack(x.z * scale, x.w * scale)};
        *reinterpret_cast<uint2*>(to + (part * 32 + lane_) * 4) = packed;
    }

    __device__ __forceinline__ void store_lse(const At& at, Total all) const {
        if (p_.lse == 0) return;
        float lse = (all.reference + log2_approx(all.sum)) * kLn2;
        if (all.sum == 0.f) lse = p_.lse_empty_pos_inf ? INFINITY : -INFINITY;
        reinterpret_cast<float*>(
            p_.lse)[at.request * p_.lse_strides[0] + at.head * p_.lse_strides[1] + at.token * p_.lse_strides[2]] = lse;
    }

    const Params& p_;
    float4* scratch_;
    Ready& ready_;
    const int rows_, lane_, warp_;
    const SplitPlan* const list_;
    const int splits_;
    SplitPlan mine_;  // of this lane, of 32 of the list
};

}  // namespace flashmla
