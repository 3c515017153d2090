// Combines the pieces of split requests: with lse_i the base-2 logarithm of a piece's sum,
//   lse = log2(sum_i 2^lse_i),  out = sum_i 2^(lse_i - lse) out_i,
// a piece with lse_i = -inf being empty. Pieces are added in the order of their tokens, so the bits of
// the result depend on the plan alone.
//
// A sink takes its part of the weights, and lse does not see it.
//
// A warp computes a row of 512 columns: its lanes first fetch 32 pieces' lse at once, then the weights go
// round and the loads of several pieces are in flight together. Units of work: in a default plan the cuts
// (a request is combined by the unit of its first cut, the others leave at once), in a batch-invariant
// plan the requests.
#pragma once
#include "common/grid_dependency.cuh"
#include "common/lengths.cuh"
#include "common/numeric.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {

constexpr int kCombineColumns = 512;
constexpr int kCombineWarps = 8;

// The accumulator slots of one request: `first`, then `count - 1` in a row from `rest` on.
struct Slots {
    int request, count, first, rest;

    __device__ __forceinline__ int operator[](int i) const { return i == 0 ? first : rest + i - 1; }
};

// Which request a unit combines; count 0: none.
__device__ __forceinline__ Slots find_slots(const CombineParams& p, int unit) {
    const Border* borders = reinterpret_cast<const Border*>(p.borders);
    const RequestPlan* requests = reinterpret_cast<const RequestPlan*>(p.requests);
    Slots none = {0, 0, 0, 0};
    if (p.batch_invariant) {
        const RequestPlan plan = requests[unit];
        if (plan.piece_tiles <= 0) return none;
        const int pieces = (unit_tiles(p, unit) + plan.piece_tiles - 1) / plan.piece_tiles;
        return {unit, pieces, plan.slot_base, plan.slot_base + 1};
    }
    const int cut = unit + 1;
    const Border at = borders[cut], before = borders[cut - 1];
    if (at.tile <= 0 || at.request < 0 || at.request >= p.b) return none;
    if (before.request == at.request && before.tile > 0) return none;
    // Cuts inside a request follow one another: no partition between them is empty.
    const int last = min(requests[at.request].last_partition, p.partitions - 1);
    return {at.request, last - cut + 2, slot_of({}, p.b, p.partitions, at.request, cut - 1, 0), cut - 1};
}

template <class T>
__device__ __forceinline__ void combine(const CombineParams& p) {
    const int rows = p.h_kv * p.rows;
    const int blocks_per_unit = (rows + kCombineWarps - 1) / kCombineWarps;
    const int unit = blockIdx.x / blocks_per_unit;
    const int row = blockIdx.x % blocks_per_unit * kCombineWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    grid_dependency_wait();
    if (row >= rows) return;
    const Slots slots = find_slots(p, unit);
    // A plan for other lengths may name accumulators that do not exist.
    if (slots.count <= 0 || slots.first < 0 || slots.first >= p.slots || slots.rest < 0 ||
        slots.count - 1 > p.slots - slots.rest)
        return;

    const float* split_lse = reinterpret_cast<const float*>(p.split_lse);
    const float4* split_out = reinterpret_cast<const float4*>(p.split_out);
    const auto load_lse = [&](int i) {
        return i < slots.count ? split_lse[int64_t(slots[i]) * rows + row] : -INFINITY;
    };
    float highest = -INFINITY;
    for (int i = lane; i < slots.count; i += 32) highest = fmaxf(highest, load_lse(i));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, step));
    // Any finite reference serves where all pieces are empty: every weight is 0 then.
    const float reference = highest == -INFINITY ? 0.f : highest;

    float sum = 0.f;
    float4 out[4] = {};
    for (int base = 0; base < slots.count; base += 32) {
        const float mine = exp2f(load_lse(base + lane) - reference);
        const int n = min(32, slots.count - base);
#pragma unroll 4
        for (int i = 0; i < n; ++i) {
            const float weight = __shfl_sync(~0u, mine, i);
            const float4* from = split_out + (int64_t(slots[base + i]) * rows + row) * (kCombineColumns / 4) + lane;
            sum += weight;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const float4 x = from[k * 32];
                out[k].x += weight * x.x;
                out[k].y += weight * x.y;
                out[k].z += weight * x.z;
                out[k].w += weight * x.w;
            }
        }
    }
    const Unit place(slots.request, p.tokens);
    const int kv_head = row / p.rows, query = row % p.rows;
    const int64_t token = place.token + query / p.group, head = kv_head * p.group + query % p.group;
    // What a sink takes: out * exp(lse) / (exp(lse) + exp(sink)).
    float weights = sum;
    if (p.attn_sink != 0)
        weights += exp2f(reinterpret_cast<const float*>(p.attn_sink)[head * p.attn_sink_stride] * kLog2E - reference);
    const float scale = sum == 0.f ? 0.f : 1.f / weights;  // NaN stays
    uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + place.request * p.out_strides[0] + token * p.out_strides[1] +
                   head * p.out_strides[2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const uint2 packed = {T::pack(out[k].x * scale, out[k].y * scale), T::pack(out[k].z * scale, out[k].w * scale)};
        *reinterpret_cast<uint2*>(to + (k * 32 + lane) * 4) = packed;
    }
    if (lane == 0 && p.lse != 0) {
        float lse = (reference + log2f(sum)) * kLn2;
        if (sum == 0.f) lse = p.lse_empty_pos_inf ? INFINITY : -INFINITY;
        reinterpret_cast<float*>(p.lse)[place.request * p.lse_strides[0] + head * p.lse_strides[1] +
                                        token * p.lse_strides[2]] = lse;
    }
}

}  // namespace flashmla
