// Where a token lies in a page of a latent cache. A warp moves a token: a lane takes every 32nd chunk of 8 elements,
// 16 bytes of BF16, so that neighbouring lanes touch neighbouring bytes.
#pragma once
#include "common/divide.cuh"
#include <cstdint>

namespace flashmla {

constexpr int kChunk = 8;

// Rows of 16-bit elements.
struct Plain {
    static constexpr int kQuantized = 0;
};

// 512 e4m3, 4 FP32 scales, 64 BF16; tokens one after another.
struct V32 {
    static constexpr int kQuantized = 512, kGroup = 128, kElements = 576;

    __device__ static uint8_t* codes(uint8_t* page, int, int i) { return page + i * int64_t(656); }
    __device__ static uint8_t* scales(uint8_t* page, int, int i) { return page + i * int64_t(656) + 512; }
    __device__ static uint8_t* rope(uint8_t* page, int, int i) { return page + i * int64_t(656) + 528; }
};

// Rows of 448 e4m3 and 64 BF16, then, for the whole page, rows of 7 e8m0 scales and an unused byte.
struct V4 {
    static constexpr int kQuantized = 448, kGroup = 64, kElements = 512;

    __device__ static uint8_t* codes(uint8_t* page, int, int i) { return page + i * int64_t(576); }
    __device__ static uint8_t* scales(uint8_t* page, int page_block_size, int i) {
        return page + page_block_size * int64_t(576) + i * int64_t(8);
    }
    __device__ static uint8_t* rope(uint8_t* page, int, int i) { return page + i * int64_t(576) + 448; }
};

// A page and the position in it.
struct Place {
    int64_t page;
    int offset;
};

// `slot` is page * page_block_size + offset.
__device__ __forceinline__ Place place_of(int64_t slot, int page_block_size, uint32_t magic, uint32_t shift) {
    if (slot < INT64_C(1) << 31) {
        const int page = divide(int(slot), magic, shift);
        return {page, int(slot) - page * page_block_size};
    }
    const int64_t page = slot / page_block_size;
    return {page, int(slot - page * page_block_size)};
}

}  // namespace flashmla
