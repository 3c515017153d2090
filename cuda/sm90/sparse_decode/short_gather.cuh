// Short pieces: from indices to the K tiles of a step.
//
// A warp's 16 tokens are four *quads* of neighbouring ones: the first two of the step's first tile, the others of its
// second. Lane l below 16 owns token l % 4 of quad l / 4: it looks its row up, asks for it to come to L2, and loads its
// scales. Then the warp takes one quad after the other, its loads being under way while the one before is converted: each
// load takes 256 columns of two neighbouring tokens, as in gather.cuh.
#pragma once
#include "common/fp8.cuh"
#include "common/global.cuh"
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/tma.cuh"
#include "sm90/sparse_decode/short_config.cuh"
#include "sm90/sparse_decode/tiles.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class ShortGather {
    static constexpr bool kV32 = Layout::kScalesInRow;
    static constexpr int kQuads = kWarpTokens / 4;

  public:
    __device__ __forceinline__ ShortGather(const SparseDecodeParams& p, uint32_t shared)
        : p_(p), shared_(shared), lane_(thread_now() % 32), warp_(thread_now() / 32) {}

    struct Quad {
        uint32_t fp8[2][2][4];  // of two pairs of tokens, columns 0 .. 255 and the others
        uint32_t rope[4];
    };

    // A step that has been asked for.
    struct Step {
        uint32_t scales[kV32 ? 4 : 2];  // of the lane's token
        uint32_t valid;                 // the warp's
        int quads;
        Quad first;
    };

    // What is listed of the lane's token, of the tiles of `piece` from `tile` on.
    __device__ __forceinline__ int entry(const Piece& piece, int tile) const {
        const Token token(*this, piece, tile);
        if (!token.exists) return -1;
        if (p_.block_table != 0) {
            const int* table = reinterpret_cast<const int*>(p_.block_table) + piece.request * p_.block_table_strides[0];
            return __ldg(table + divide(token.at, p_.page_magic, p_.page_shift) * p_.block_table_strides[1]);
        }
        const int64_t* strides = token.extra ? p_.extra_indices_strides : p_.indices_strides;
        const int* list = reinterpret_cast<const int*>(token.extra ? p_.extra_indices : p_.indices) +
                          piece.request * strides[0] + piece.token * strides[1];
        return __ldg(list + token.at);
    }

    // Asks for the tiles of `piece` from `tile` on, two or the last one, that `entry` is of.
    __device__ __forceinline__ Step begin(const Piece& piece, int tile, int entry) const {
        Step step;
        load_scales(step.scales, look_up(piece, tile, entry, step.valid));
        step.quads = tile + 1 < piece.tile_end ? kQuads : kQuads / 2;
        load(step.first, rows_at());
        return step;
    }

    // Converts them.
    __device__ __forceinline__ void finish(Step& step) const {
        if (lane_ == 0) store_shared_u16(FLASHMLA_SHORT_SHARED(shared_, valid) + warp_ * 2, step.valid);
        if (leave_scales(step.scales)) {
            convert_all<true>(step.first, step.quads);
        } else {
            convert_all<false>(step.first, step.quads);
        }
        fence_proxy_async();
    }

  private:
    // The last FP8 load of V4 is that of three column tiles.
    static constexpr int kLastTiles = Layout::kFp8 / kColumnTile - 4;

    __device__ __forceinline__ uint32_t rows_at() const {
        return FLASHMLA_SHORT_SHARED(shared_, rows) + warp_ * (kWarpTokens * 8);
    }

    // The lane's token.
    struct Token {
        int at;  // in its list
        bool extra, exists;

        __device__ __forceinline__ Token(const ShortGather& g, const Piece& piece, int tile) {
            const int first_tiles = tiles_of(piece.tokens);
            tile += g.lane_ % 16 / 8;
            extra = tile >= first_tiles;
            const int in_tile = (g.lane_ / 4 % 2 * 2 + g.warp_ / 4) * kGroupTokens + g.warp_ % 4 * 4 + g.lane_ % 4;
            at = (extra ? tile - first_tiles : tile) * kTokens + in_tile;
            exists = tile < piece.tile_end && at < (extra ? piece.extra_tokens : piece.tokens);
        }
    };

    // Returns where the scales of the lane's token are.
    __device__ __forceinline__ const uint8_t* look_up(const Piece& piece, int tile, int entry, uint32_t& valid) const {
        const Token token(*this, piece, tile);
        const bool extra = token.extra;
        bool exists = token.exists;
        const uint8_t* row = reinterpret_cast<const uint8_t*>(kZeroRow);
        const uint8_t* scales_at = row;
        if (exists) {
            const int size = extra ? p_.extra_page_block_size : p_.page_block_size;
            int page, offset;
            bool readable;
            if (p_.block_table != 0) {
                page = entry;
                offset = token.at - divide(token.at, p_.page_magic, p_.page_shift) * size;
                readable = uint32_t(page) < uint32_t(p_.num_blocks);
            } else {
                exists = readable = uint32_t(entry) < (extra ? p_.extra_index_limit : p_.index_limit);
                page = divide(entry, extra ? p_.extra_page_magic : p_.page_magic,
                              extra ? p_.extra_page_shift : p_.page_shift);
                offset = entry - page * size;
            }
            if (readable) {
                const uint8_t* page_at = reinterpret_cast<const uint8_t*>(extra ? p_.extra_kv_cache : p_.kv_cache) +
                                         page * (extra ? p_.extra_page_stride : p_.page_stride);
                row = page_at + offset * int64_t(Layout::kRowBytes);
                scales_at =
                    kV32 ? row + Layout::kFp8 : page_at + size * int64_t(Layout::kRowBytes) + offset * int64_t(8);
                // 128 bytes at a time, half of the row by each lane of the token.
#pragma unroll
                for (int i = 0; i < 3; ++i) {
                    if (384 + i * 128 < Layout::kRowBytes || lane_ < 16)
                        prefetch_l2_line(row + lane_ / 16 * 384 + i * 128);
                }
            }
        }
        // All lanes have read what lay here.
        __syncwarp();
        if (lane_ < 16)
            store_shared_8(rows_at() + lane_ * 8, reinterpret_cast<uint64_t>(row));
        valid = __ballot_sync(~0u, exists) & 0xffff;
        __syncwarp();
        return scales_at;
    }

    static __device__ __forceinline__ void load_scales(uint32_t (&words)[kV32 ? 4 : 2], const uint8_t* from) {
        if constexpr (kV32) {
            load_global_16(words, reinterpret_cast<uint64_t>(from));
        } else {
            asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "l"(from) : "memory");
        }
    }

    // Leaves the scales for those who convert the rows, and says whether all are exact.
    __device__ __forceinline__ bool leave_scales(uint32_t (&words)[kV32 ? 4 : 2]) const {
        const uint32_t to = FLASHMLA_SHORT_SHARED(shared_, scales) + (warp_ * kWarpTokens + lane_ % 16) * 16;
        if constexpr (kV32) {
            uint32_t split[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) split[i] = split_scale(__uint_as_float(words[i]));
            const bool exact = __all_sync(~0u, is_exact(split[0] | split[1] | split[2] | split[3]));
            // As they are where one of them is odd.
            if (lane_ < 16) {
                store_shared_16(to, exact ? split[0] : words[0], exact ? split[1] : words[1],
                                exact ? split[2] : words[2], exact ? split[3] : words[3]);
            }
            __syncwarp();
            return exact;
        } else {
            // The eighth byte may be anything.
            words[1] &= 0xffffff;
            const bool exact = __all_sync(~0u, is_exact_e8m0(words[0], words[1]));
            uint32_t two[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // Of the lower and of the upper four blocks of columns.
                two[i] = scales_e8m0(words[0], words[1], i, exact);
            }
            if (lane_ < 16) store_shared_16(to, two[0], two[1], two[2], two[3]);
            __syncwarp();
            return exact;
        }
    }

    // A quad, of which the addresses of rows lie at `rows_at`.
    __device__ __forceinline__ void load(Quad& quad, uint32_t rows_at) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            uint64_t from;
            load_shared_8(from, rows_at + (pair * 2 + lane_ / 4 % 2) * 8);
            from += (lane_ / 8 * 4 + lane_ % 4) * 16;
            load_global_16(quad.fp8[pair][0], from);
            load_global_16(quad.fp8[pair][1], from + 256);
        }
        uint64_t from;
        load_shared_8(from, rows_at + lane_ / 8 * 8);
        load_global_16(quad.rope, from + Layout::kRopeAt + lane_ % 8 * 16);
    }

    template <bool kExact>
    __device__ __forceinline__ void convert_all(Quad& next, int quads) const {
        uint32_t rows_at = this->rows_at();
        const uint32_t parity = lane_ / 4 % 2, k_at = FLASHMLA_SHORT_SHARED(shared_, k);
        const uint32_t first = warp_ / 4 * kGroupTokens * 128;
        uint32_t latent_at = k_at + lane_ / 8 * kKTileBytes + swizzle_128b(warp_ % 4 * 4 + parity, lane_ % 4 * 2) + first;
        uint32_t rope_at = k_at + Layout::kFp8 / kColumnTile * kKTileBytes +
                           swizzle_128b(warp_ % 4 * 4 + lane_ / 8, lane_ % 8) + first;
        // Of V32 a word each scale, of V4 two in one.
        uint32_t scales_at = FLASHMLA_SHORT_SHARED(shared_, scales) + warp_ * (kWarpTokens * 16) + parity * 16 +
                             lane_ / (kV32 ? 16 : 8) * 4;
#pragma unroll 1
        for (int i = 0; i < quads; ++i) {
            const Quad quad = next;
            rows_at += 32;
            // After the last one, none.
            if (i + 1 < quads) load(next, rows_at);
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
                const uint32_t two = kV32 ? 0 : load_shared(scales_at + pair * 32);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const uint32_t word = kV32 ? load_shared(scales_at + pair * 32 + half * 8) : two;
                    uint32_t out[8];
                    if constexpr (kExact || !kV32) {
                        dequantise_16<kExact>(quad.fp8[pair][half], scale<kExact>(word, half), out);
                    } else {
                        dequantise_16(quad.fp8[pair][half], __uint_as_float(word), out);
                    }
                    if (half == 0 || kLastTiles == 4 || lane_ / 8 < kLastTiles) {
                        const uint32_t offset = half * 4 * kKTileBytes + pair * 2 * 128;
                        store_shared_16((latent_at ^ (pair * 32)) + offset, out[0], out[1], out[2], out[3]);
                        store_shared_16((latent_at ^ (pair * 32 + 16)) + offset, out[4], out[5], out[6], out[7]);
                    }
                }
            }
            store_shared_16(rope_at, quad.rope[0], quad.rope[1], quad.rope[2], quad.rope[3]);
            // The next but one group of 16 tokens; the tiles of a step follow one another.
            latent_at += 2 * kGroupTokens * 128;
            rope_at += 2 * kGroupTokens * 128;
            scales_at += 64;
        }
    }

    template <bool kExact>
    __device__ __forceinline__ Scale scale(uint32_t word, int half) const {
        if constexpr (kV32) {
            return Scale::exact(word);
        } else {
            return Scale::e8m0<kExact>(word, half != 0);
        }
    }

    const SparseDecodeParams& p_;
    const uint32_t shared_, lane_, warp_;
};

}  // namespace flashmla::sm90::sparse_decode
