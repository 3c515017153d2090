// FP8 (e4m3) to BF16, times a scale.
//
// Two codes become two BF16 by three instructions: their bytes are spread into halves of a word with the sign
// in front (a byte permutation), shifted left by four, and masked. The bits then are s000 0eee emmm 0000: the
// value times 2^-120, subnormals of e4m3 included. (NaN, 0x7f and 0xff, comes out as +-480: to look for it would take
// three quarters of an instruction an element more, a quarter of the time of the whole kernel.) The multiplication that applies the scale makes up for it:
//
//   value * scale = (value * 2^-120) * (scale * 2^120)       for scale < 2^8; beyond, scale * 2^120 is no BF16, so
//                 = (value * 2^-120 * 2^120) * scale
//
// A power of two is a BF16, and the product is exact. Any other FP32 scale is split into two BF16, high + low, the
// first rounded towards zero. Their sum is the scale to 2^-16 of the last place of `high`, and
//
//   fma(value, high, value * low)
//
// the product rounded to BF16 once, but for an error of less than 2^-7 of its last place.
#pragma once
#include <cstdint>

namespace flashmla {

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

// The codes in bytes 0 and 1 (`kHigh`: 2 and 3) of a word, times 2^-120.
template <bool kHigh>
__device__ __forceinline__ uint32_t spread_e4m3(uint32_t codes) {
    // A selector with bit 3 set repeats the byte's sign (which __byte_perm does not offer).
    uint32_t spread;
    asm("prmt.b32 %0, %1, 0, %2;" : "=r"(spread) : "r"(codes), "n"(kHigh ? 0xb3a2 : 0x9180));
    return (spread << 4) & 0x87f087f0;
}

// Scales from this on are not multiplied by 2^120.
constexpr float kLargeScale = 256.f;
// Exponent of E8M0 of that.
constexpr uint32_t kLargeE8m0 = 127 + 8;

// An FP32 scale as (high, low) in the halves of a word. Bit 0, worth 2^-24 of the scale at most, says if it is large.
__device__ __forceinline__ uint32_t split_scale(float scale) {
    const bool large = !(scale < kLargeScale);
    if (!large) scale *= 0x1p120f;
    const uint32_t high = __float_as_uint(scale) & 0xffff0000;
    uint32_t low;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(low) : "f"(0.f), "f"(scale - __uint_as_float(high)));
    return high | (low & 0xfffe) | uint32_t(large);
}

// Whether scales, combined by or, are BF16 and not large: then `Scale::exact` will do.
__device__ __forceinline__ bool is_exact(uint32_t split) { return (split & 0xffff) == 0; }

// A scale of E8M0, 2^(e - 127), as the upper half of a split scale; the sign says if it is large. 255 is NaN.
__device__ __forceinline__ uint32_t scale_e8m0(uint32_t e) {
    if (e < kLargeE8m0) return (e + 120) << 7;
    return e == 255 ? 0xffff : 0x8000 | e << 7;
}

// Whether none of eight scales of E8M0 is large: e + 121 carries into the ninth bit.
__device__ __forceinline__ bool is_exact_e8m0(uint32_t a, uint32_t b) {
    static_assert(kLargeE8m0 == 256 - 121);
    const uint32_t carries = (((a & 0x7f7f7f7f) + 0x79797979) & a) | (((b & 0x7f7f7f7f) + 0x79797979) & b);
    return (carries & 0x80808080) == 0;
}

// `scale_e8m0` of byte `i` of `a` and, in the upper half, of `b`, neither of which is large.
__device__ __forceinline__ uint32_t exact_scales_e8m0(uint32_t a, uint32_t b, int i) {
    const uint32_t two = __byte_perm(a, b, i | (4 + i) << 8) & 0x00ff00ff;
    return (two + 0x00780078) << 7;
}

// A scale as the packed multiplications take it, each value twice.
struct Scale {
    uint32_t high, low, factor;

    static __device__ __forceinline__ Scale exact(uint32_t split) { return {__byte_perm(split, 0, 0x3232), 0, 0}; }
    static __device__ __forceinline__ Scale any(uint32_t split) {
        return {__byte_perm(split, 0, 0x3232), __byte_perm(split, 0, 0x1010), split & 1 ? 0x7b807b80u : 0x3f803f80u};
    }
    // Of two scales of E8M0 the lower one or the upper one.
    template <bool kUpper>
    static __device__ __forceinline__ Scale exact_e8m0(uint32_t two) {
        return {__byte_perm(two, 0, kUpper ? 0x3232 : 0x1010), 0, 0};
    }
    template <bool kUpper>
    static __device__ __forceinline__ Scale any_e8m0(uint32_t two) {
        const uint32_t high = __byte_perm(two, 0, kUpper ? 0x3232 : 0x1010);
        return {high & 0x7fff7fff, 0, high & 0x8000 ? 0x7b807b80u : 0x3f803f80u};
    }
};

// 16 codes to 16 BF16.
template <bool kExact>
__device__ __forceinline__ void dequantise_16(const uint32_t (&codes)[4], Scale scale, uint32_t (&out)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        uint32_t value = i % 2 ? spread_e4m3<true>(codes[i / 2]) : spread_e4m3<false>(codes[i / 2]);
        if constexpr (kExact) {
            out[i] = multiply_bf16x2(value, scale.high);
        } else {
            value = multiply_bf16x2(value, scale.factor);
            out[i] = fma_bf16x2(value, scale.high, multiply_bf16x2(value, scale.low));
        }
    }
}

}  // namespace flashmla
