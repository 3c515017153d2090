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
// A power of two is a BF16, and the product is exact. With any other FP32 scale the product is that of FP32, rounded to
// BF16: the codes' BF16 are FP32 with zeros behind them.
#pragma once
#include <cstdint>

namespace flashmla {

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
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

// An FP32 scale times 2^120 where that is a BF16, in the upper half; something in the lower one where it is not.
__device__ __forceinline__ uint32_t split_scale(float scale) {
    if (!(scale < kLargeScale)) return 1;
    return __float_as_uint(scale * 0x1p120f);
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

// The same of any, `exact` saying that none of the eight is large.
__device__ __forceinline__ uint32_t scales_e8m0(uint32_t a, uint32_t b, int i, bool exact) {
    return exact ? exact_scales_e8m0(a, b, i) : scale_e8m0(a >> (i * 8) & 0xff) | scale_e8m0(b >> (i * 8) & 0xff) << 16;
}

// A scale as the packed multiplications take it, each value twice: exact ones, and those of E8M0 that are large, too.
struct Scale {
    uint32_t high, factor;

    static __device__ __forceinline__ Scale exact(uint32_t split) { return {__byte_perm(split, 0, 0x3232), 0}; }
    // Of two scales of E8M0 the lower one or the upper one.
    template <bool kUpper>
    static __device__ __forceinline__ Scale exact_e8m0(uint32_t two) {
        return {__byte_perm(two, 0, kUpper ? 0x3232 : 0x1010), 0};
    }
    template <bool kUpper>
    static __device__ __forceinline__ Scale any_e8m0(uint32_t two) {
        const uint32_t high = __byte_perm(two, 0, kUpper ? 0x3232 : 0x1010);
        return {high & 0x7fff7fff, high & 0x8000 ? 0x7b807b80u : 0x3f803f80u};
    }
    template <bool kExact>
    static __device__ __forceinline__ Scale e8m0(uint32_t two, bool upper) {
        if (!upper) return kExact ? exact_e8m0<false>(two) : any_e8m0<false>(two);
        return kExact ? exact_e8m0<true>(two) : any_e8m0<true>(two);
    }
};

// Two codes of four, as `spread_e4m3` gives them.
__device__ __forceinline__ uint32_t spread_pair(const uint32_t (&codes)[4], int i) {
    return i % 2 ? spread_e4m3<true>(codes[i / 2]) : spread_e4m3<false>(codes[i / 2]);
}

// 16 codes to 16 BF16.
template <bool kExact>
__device__ __forceinline__ void dequantise_16(const uint32_t (&codes)[4], Scale scale, uint32_t (&out)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const uint32_t value = spread_pair(codes, i);
        out[i] = multiply_bf16x2(kExact ? value : multiply_bf16x2(value, scale.factor), scale.high);
    }
}

// The same with any FP32 scale.
__device__ __forceinline__ void dequantise_16(const uint32_t (&codes)[4], float scale, uint32_t (&out)[8]) {
    const bool large = !(scale < kLargeScale);
    const float first = large ? 0x1p120f : 1.f, second = large ? scale : scale * 0x1p120f;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const uint32_t value = spread_pair(codes, i);
        const float low = __uint_as_float(value << 16) * first * second;
        const float high = __uint_as_float(value & 0xffff0000) * first * second;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out[i]) : "f"(high), "f"(low));
    }
}

}  // namespace flashmla
