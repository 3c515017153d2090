// How much each request of a plan attends to. In sparse decode, and in dense decode over pages of FP8, a request
// of the plan is one query token of a request (a unit): its entries are those of two index lists, or the tokens of
// the request that it sees.
//
// `P` is any parameter struct with the members lens, lens_strides, extra_lens, extra_lens_strides, tokens, max_tokens,
// extra_max_tokens and causal: a length that is not given (an address of 0) is the largest.
#pragma once
#include "common/divide.cuh"
#include "common/plan.cuh"

namespace flashmla {

struct Unit {
    int request, token;

    // `tokens` units a request.
    __device__ __forceinline__ Unit(int unit, int tokens)
        : request(tokens == 1 ? unit : unit / tokens), token(tokens == 1 ? 0 : unit - request * tokens) {}
    // Where the host knows how to divide by `tokens`.
    __device__ __forceinline__ Unit(int unit, int tokens, uint32_t magic, uint32_t shift)
        : request(divide(unit, magic, shift)), token(unit - request * tokens) {}
};

// Entries of the first list.
template <class P>
__device__ __forceinline__ int first_tokens(const P& p, Unit unit) {
    int tokens = p.max_tokens;
    if (p.lens != 0) {
        const int* lens = reinterpret_cast<const int*>(p.lens);
        tokens = clamp_tokens(lens[unit.request * p.lens_strides[0] + unit.token * p.lens_strides[1]], p.max_tokens);
    }
    // The mask is aligned to the bottom right.
    return p.causal ? max(tokens - (p.tokens - 1 - unit.token), 0) : tokens;
}

// Entries of the second list.
template <class P>
__device__ __forceinline__ int extra_tokens(const P& p, Unit unit) {
    if (p.extra_max_tokens == 0 || p.extra_lens == 0) return p.extra_max_tokens;
    const int* lens = reinterpret_cast<const int*>(p.extra_lens);
    const int64_t at = unit.request * p.extra_lens_strides[0] + unit.token * p.extra_lens_strides[1];
    return clamp_tokens(lens[at], p.extra_max_tokens);
}

// Each list is cut into tiles by itself, and the second follows the first.
template <class P>
__device__ __forceinline__ int unit_tiles(const P& p, int index) {
    const Unit unit(index, p.tokens);
    return tiles_of(first_tokens(p, unit)) + tiles_of(extra_tokens(p, unit));
}

}  // namespace flashmla
