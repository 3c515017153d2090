// Map indices: positions of a request's tokens, through its block table, to indices into the cache; what names no
// token becomes -1. A thread maps four neighbours, with one load and one store where rows are aligned for that.
#include "common/divide.cuh"
#include "common/grid_dependency.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;

struct Request {
    const int* table;
    int64_t stride;
    int tokens;  // what a position must be below

    __device__ __forceinline__ Request(const MapIndicesParams& p, int request)
        : table(reinterpret_cast<const int*>(p.block_table) + request * p.block_table_strides[0]),
          stride(p.block_table_strides[1]), tokens(p.max_tokens) {
        if (p.cache_seqlens != 0)
            tokens = min(tokens, reinterpret_cast<const int*>(p.cache_seqlens)[request * p.cache_seqlens_stride]);
    }
};

__device__ __forceinline__ int map(const MapIndicesParams& p, const Request& request, int position) {
    if (position < 0 || position >= request.tokens) return -1;
    const int entry = divide(position, p.page_magic, p.page_shift);
    const int page = request.table[entry * request.stride];
    if (page < 0 || page >= p.num_blocks) return -1;
    const int64_t index = page * int64_t(p.page_block_size) + (position - entry * p.page_block_size);
    return index <= INT32_MAX ? int(index) : -1;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
    flashmla_map_indices(const __grid_constant__ MapIndicesParams p) {
    grid_dependency_wait();
    for (int64_t block = blockIdx.x; block < p.blocks; block += gridDim.x) {
        const int row = int(block / p.row_blocks);
        const int begin = (int(block % p.row_blocks) * kThreads + threadIdx.x) * kEach;
        if (begin >= p.topk || begin < 0) continue;
        const int i = row / p.s_q, t = row % p.s_q;
        const Request request(p, i);
        const int* from = reinterpret_cast<const int*>(p.positions) + i * p.positions_strides[0] +
                          t * p.positions_strides[1] + begin;
        int* to = reinterpret_cast<int*>(p.out) + i * p.out_strides[0] + t * p.out_strides[1] + begin;
        const bool aligned = (reinterpret_cast<uint64_t>(from) | reinterpret_cast<uint64_t>(to)) % 16 == 0;
        if (aligned && p.topk - begin >= kEach) {
            const int4 x = *reinterpret_cast<const int4*>(from);
            *reinterpret_cast<int4*>(to) = {map(p, request, x.x), map(p, request, x.y), map(p, request, x.z),
                                            map(p, request, x.w)};
        } else {
            for (int k = 0; k < min(kEach, p.topk - begin); ++k) to[k] = map(p, request, from[k]);
        }
    }
}

}  // namespace flashmla
