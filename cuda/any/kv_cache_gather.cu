// Gather: tokens of a latent cache as BF16 rows, an element of FP8 pages being bf16(e4m3 * scale), the product in
// FP32. A warp reads a token; which one, indices say, or the ranges of requests through their block table.
#include "common/e4m3.cuh"
#include "common/grid_dependency.cuh"
#include "common/latent_page.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// Token of a row as an index into the cache; -1: zeros, -2: the row is nobody's.
__device__ __forceinline__ int64_t index_in_range(const KvCacheGatherParams& p, int row) {
    const int* cu_seqlens = reinterpret_cast<const int*>(p.cu_seqlens);
    // The last request that begins at or before the row.
    int low = 0, high = p.b;
    while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        if (cu_seqlens[middle * p.cu_seqlens_stride] <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const int first = p.b > 0 ? cu_seqlens[low * p.cu_seqlens_stride] : INT32_MAX;
    if (p.b == 0 || row < first || row >= cu_seqlens[(low + int64_t(1)) * p.cu_seqlens_stride]) return -2;
    int64_t token = int64_t(row) - first;
    if (p.seq_starts != 0) token += reinterpret_cast<const int*>(p.seq_starts)[low * p.seq_starts_stride];
    if (token < 0 || token >= p.max_tokens) return -1;
    const int entry = divide(int(token), p.page_magic, p.page_shift);
    const int* table = reinterpret_cast<const int*>(p.block_table);
    const int page = table[low * p.block_table_strides[0] + entry * p.block_table_strides[1]];
    if (page < 0 || page >= p.num_blocks) return -1;
    return page * int64_t(p.page_block_size) + (token - entry * int64_t(p.page_block_size));
}

__device__ __forceinline__ int64_t index_of(const KvCacheGatherParams& p, int row) {
    if (p.indices == 0) return index_in_range(p, row);
    const int index = reinterpret_cast<const int*>(p.indices)[row * p.indices_stride];
    return index < 0 || index >= p.index_limit ? -1 : index;
}

__device__ __forceinline__ uint32_t decode(uint32_t codes, float scale) {
    const float2 x = from_e4m3x2(codes & 0xffffu);
    return Bf16::pack(x.x * scale, x.y * scale);
}

template <class Layout>
__device__ __forceinline__ void gather(const KvCacheGatherParams& p, uint8_t* page, Place place, uint4* to) {
    constexpr int kLanes = Layout::kGroup / kChunk, kChunks = Layout::kQuantized / kChunk;
    constexpr int kRopeChunks = (Layout::kElements - Layout::kQuantized) / kChunk;
    const int lane = threadIdx.x % 32;
    const uint8_t* codes = Layout::codes(page, p.page_block_size, place.offset);
    const uint8_t* scales = Layout::scales(page, p.page_block_size, place.offset);
    const uint4* rope = reinterpret_cast<const uint4*>(Layout::rope(page, p.page_block_size, place.offset));
    uint2 x[2];
    float scale[2];
    // All loads before the first use.
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int chunk = i * 32 + lane;
        if (chunk >= kChunks) continue;
        x[i] = *reinterpret_cast<const uint2*>(codes + chunk * kChunk);
        if constexpr (Layout::kGroup == V32::kGroup) {
            scale[i] = reinterpret_cast<const float*>(scales)[chunk / kLanes];
        } else {
            scale[i] = from_e8m0(scales[chunk / kLanes]);
        }
    }
    if (lane >= 32 - kRopeChunks) to[kChunks + lane - (32 - kRopeChunks)] = rope[lane - (32 - kRopeChunks)];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int chunk = i * 32 + lane;
        if (chunk >= kChunks) continue;
        to[chunk] = {decode(x[i].x, scale[i]), decode(x[i].x >> 16, scale[i]), decode(x[i].y, scale[i]),
                     decode(x[i].y >> 16, scale[i])};
    }
}

template <class Layout>
__device__ __forceinline__ void run(const KvCacheGatherParams& p) {
    const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
    grid_dependency_wait();
    if (row >= p.n) return;
    const int64_t index = index_of(p, row);
    if (index == -2) return;
    uint4* to = reinterpret_cast<uint4*>(reinterpret_cast<uint16_t*>(p.rows) + row * p.row_stride);
    if (index < 0) {
        for (int chunk = lane; chunk < p.chunks; chunk += 32) to[chunk] = {0, 0, 0, 0};
        return;
    }
    const Place place = place_of(index, p.page_block_size, p.page_magic, p.page_shift);
    uint8_t* page = reinterpret_cast<uint8_t*>(p.kv_cache) + place.page * p.page_stride;
    if constexpr (Layout::kQuantized == 0) {
        const uint4* from = reinterpret_cast<const uint4*>(page + place.offset * p.token_stride);
        for (int chunk = lane; chunk < p.chunks; chunk += 32) to[chunk] = from[chunk];
    } else {
        gather<Layout>(p, page, place, to);
    }
}

}  // namespace
}  // namespace flashmla

#define FLASHMLA_GATHER(name, layout)                                         \
    extern "C" __global__ void __launch_bounds__(flashmla::kThreads)          \
        name(const __grid_constant__ flashmla::KvCacheGatherParams params) {  \
        flashmla::run<flashmla::layout>(params);                              \
    }
FLASHMLA_GATHER(flashmla_kv_cache_gather_plain, Plain)
FLASHMLA_GATHER(flashmla_kv_cache_gather_v32, V32)
FLASHMLA_GATHER(flashmla_kv_cache_gather_v4, V4)
