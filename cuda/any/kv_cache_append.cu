// Append: BF16 rows into slots of a latent cache. In FP8 pages a group of elements shares a scale,
//   scale = max |x| / 448, or the least power of two that is not below it,  code = e4m3(x / scale),
// where max runs over the group. src/cpu/fp8.rs defines the same numbers.
//
// A warp stores a row, which is on its way before it is known where it goes: two chunks of 8 elements a lane, whose
// magnitudes are compared as 16-bit integers (NaN above infinity above all numbers), both chunks' maxima in one register
// on their way through the group's lanes. (Two rows a warp are no faster.)
#include "common/e4m3.cuh"
#include "common/grid_dependency.cuh"
#include "common/latent_page.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

__device__ __forceinline__ int64_t load_slot(const KvCacheAppendParams& p, int row) {
    const int64_t at = row * p.slot_stride;
    return p.wide_slots ? reinterpret_cast<const int64_t*>(p.slots)[at] : reinterpret_cast<const int*>(p.slots)[at];
}

// The scale of a group of which `bits` is the largest magnitude, as BF16.
__device__ __forceinline__ float scale_of(uint32_t bits, bool exact) {
    if (bits >= 0x7f80u) return __uint_as_float(0x7fffffffu);
    const float wanted = __fdiv_rn(__uint_as_float(bits << 16), 448.f);
    if (exact) return fmaxf(wanted, 0x1p-126f);
    // Up to the next power of two unless it is one.
    const uint32_t power = (__float_as_uint(fmaxf(wanted, 0x1p-13f)) + 0x7fffffu) & ~0x7fffffu;
    return __uint_as_float(power);
}

__device__ __forceinline__ uint32_t magnitudes(uint4 x) {
    const uint32_t mask = 0x7fff7fffu;
    return __vmaxu2(__vmaxu2(x.x & mask, x.y & mask), __vmaxu2(x.z & mask, x.w & mask));
}

// The codes of two elements, `bits` being their BF16.
__device__ __forceinline__ uint32_t encode(uint32_t bits, float scale, float inverse, bool exact) {
    const float low = __uint_as_float(bits << 16), high = __uint_as_float(bits & 0xffff0000u);
    if (exact) return to_e4m3x2(__fdiv_rn(low, scale), __fdiv_rn(high, scale));
    return to_e4m3x2(low * inverse, high * inverse);
}

__device__ __forceinline__ uint2 encode(uint4 x, float scale, bool exact) {
    // Of a power of two exact, and so is the product: the quotient, rounded once.
    const float inverse = __uint_as_float(0x7f000000u - __float_as_uint(scale));
    const float factor = scale == scale ? inverse : scale;
    return {encode(x.x, scale, factor, exact) | encode(x.y, scale, factor, exact) << 16,
            encode(x.z, scale, factor, exact) | encode(x.w, scale, factor, exact) << 16};
}

// A row as a warp holds it: chunks `lane`, `lane + 32`, and for the first lanes `lane + 64`.
struct Row {
    uint4 x[2], rest;
};

__device__ __forceinline__ Row load_row(const KvCacheAppendParams& p, int row) {
    const uint4* from =
        reinterpret_cast<const uint4*>(reinterpret_cast<const uint16_t*>(p.rows) + row * p.row_stride);
    const int lane = threadIdx.x % 32;
    Row r;
    r.x[0] = __ldcs(from + lane);
    r.x[1] = __ldcs(from + lane + 32);
    if (lane + 64 < p.chunks) r.rest = __ldcs(from + lane + 64);
    return r;
}

template <class Layout>
__device__ __forceinline__ void store_row(const KvCacheAppendParams& p, const Row& r, uint8_t* page, Place place) {
    constexpr int kLanes = Layout::kGroup / kChunk;  // of a group
    const int lane = threadIdx.x % 32;
    const uint32_t m0 = magnitudes(r.x[0]), m1 = magnitudes(r.x[1]);
    // Of each chunk one half: the first chunk's maximum, and the second's.
    uint32_t highest = __vmaxu2(__byte_perm(m0, m1, 0x5410), __byte_perm(m0, m1, 0x7632));
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2)
        highest = __vmaxu2(highest, __shfl_xor_sync(~0u, highest, step));

    uint8_t* codes = Layout::codes(page, p.page_block_size, place.offset);
    uint8_t* scales = Layout::scales(page, p.page_block_size, place.offset);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int chunk = i * 32 + lane, group = chunk / kLanes;
        if (chunk >= Layout::kQuantized / kChunk) continue;
        const float scale = scale_of(i == 0 ? highest & 0xffffu : highest >> 16, p.exact_scales);
        *reinterpret_cast<uint2*>(codes + chunk * kChunk) = encode(r.x[i], scale, p.exact_scales);
        if (chunk % kLanes != 0) continue;
        if constexpr (Layout::kGroup == V32::kGroup) {
            reinterpret_cast<float*>(scales)[group] = scale;
        } else {
            scales[group] = scale == scale ? uint8_t(__float_as_uint(scale) >> 23) : uint8_t(255);
        }
    }
    constexpr int kRopeChunks = (Layout::kElements - Layout::kQuantized) / kChunk;
    uint4* rope = reinterpret_cast<uint4*>(Layout::rope(page, p.page_block_size, place.offset));
    if constexpr (Layout::kElements > 64 * kChunk) {
        if (lane < kRopeChunks) rope[lane] = r.rest;
    } else {
        // The last of the chunks that are not quantised.
        if (lane >= 32 - kRopeChunks) rope[lane - (32 - kRopeChunks)] = r.x[1];
        if (lane == 0) scales[7] = 0;
    }
}

template <>
__device__ __forceinline__ void store_row<Plain>(const KvCacheAppendParams& p, const Row& r, uint8_t* page,
                                                 Place place) {
    uint4* to = reinterpret_cast<uint4*>(page + place.offset * p.token_stride);
    const int lane = threadIdx.x % 32;
    to[lane] = r.x[0];
    to[lane + 32] = r.x[1];
    if (lane + 64 < p.chunks) to[lane + 64] = r.rest;
}

template <class Layout>
__device__ __forceinline__ void run(const KvCacheAppendParams& p) {
    const int row = blockIdx.x * kWarps + threadIdx.x / 32;
    grid_dependency_wait();
    if (row >= p.n) return;
    const int64_t slot = load_slot(p, row);
    const Row values = load_row(p, row);
    if (slot < 0 || slot >= p.slot_limit) return;
    const Place place = place_of(slot, p.page_block_size, p.page_magic, p.page_shift);
    uint8_t* page = reinterpret_cast<uint8_t*>(p.kv_cache) + place.page * p.page_stride;
    store_row<Layout>(p, values, page, place);
}

}  // namespace
}  // namespace flashmla

#define FLASHMLA_APPEND(name, layout)                                         \
    extern "C" __global__ void __launch_bounds__(flashmla::kThreads)          \
        name(const __grid_constant__ flashmla::KvCacheAppendParams params) {  \
        flashmla::run<flashmla::layout>(params);                              \
    }
FLASHMLA_APPEND(flashmla_kv_cache_append_plain, Plain)
FLASHMLA_APPEND(flashmla_kv_cache_append_v32, V32)
FLASHMLA_APPEND(flashmla_kv_cache_append_v4, V4)
