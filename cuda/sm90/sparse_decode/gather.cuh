// The gather warps: from indices to K tiles in shared memory.
//
// Of each group of 16 tokens a warp takes four, a *quad*. Lanes l and l + 16 own the warp's token l of a
// tile: 4 (l / 4) + l % 4 is its quad and its place therein. They look its row up and hold its scales until
// it is converted.
//
// The copies of a quad: each load of FP8 takes 256 columns of two neighbouring tokens, 16 bytes a lane, four lanes
// in a row for one token, then four for the other: what eight lanes then store at a time lies in eight different
// 16-byte columns of the swizzled tile, since the rows' numbers differ in the last bit. RoPE: a token every eight lanes.
#pragma once
#include "common/fp8.cuh"
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/tma.cuh"
#include "sm90/sparse_decode/work.cuh"

namespace flashmla::sm90::sparse_decode {

// What a token that does not exist is read from.
__device__ const uint4 kZeroRow[48] = {};

// Walks the tiles of a partition's pieces.
class Tiles {
  public:
    __device__ __forceinline__ Tiles(const SparseDecodeParams& p, const Place& place) : pieces_(p, place.partition) {
        piece_.tile_end = tile_ = 0;
    }

    // Goes to the next tile; at the end of the work it says false, and again.
    __device__ __forceinline__ bool next(const SparseDecodeParams& p) {
        ++tile_;
        while (tile_ >= piece_.tile_end) {
            if (!pieces_.next(p, piece_)) {
                piece_.tile_end = 0;
                tile_ = 0;
                return false;
            }
            tile_ = piece_.tile_begin;
        }
        return true;
    }

    __device__ __forceinline__ bool extra() const { return tile_ >= tiles_of(piece_.tokens); }

    // The index of a token of the tile; -1: it has none.
    __device__ __forceinline__ int index(const SparseDecodeParams& p, int token) const {
        const bool extra = this->extra();
        const int at = (tile_ - (extra ? tiles_of(piece_.tokens) : 0)) * kTokens + token;
        if (at >= (extra ? piece_.extra_tokens : piece_.tokens)) return -1;
        const int* list = reinterpret_cast<const int*>(extra ? p.extra_indices : p.indices);
        const int64_t* strides = extra ? p.extra_indices_strides : p.indices_strides;
        return list[piece_.request * strides[0] + piece_.token * strides[1] + at];
    }

  private:
    Pieces pieces_;
    Piece piece_;
    int tile_;
};

template <class Layout>
class Gather {
  public:
    __device__ __forceinline__ Gather(const SparseDecodeParams& p, Shared<Layout>& s)
        : p_(p), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4) {
        const uint32_t parity = lane_ / 4 % 2, row = warp_ * 4 + parity;
        latent_at_ = FLASHMLA_SPARSE_SHARED(shared_, k) + lane_ / 8 * kKTileBytes + swizzle_128b(row, lane_ % 4 * 2);
        rope_at_ = FLASHMLA_SPARSE_SHARED(shared_, k) + Layout::kFp8 / kColumnTile * kKTileBytes +
                   swizzle_128b(warp_ * 4 + lane_ / 8, lane_ % 8);
    }

    __device__ __forceinline__ void run() {
        Tiles tiles(p_, Place(p_));
        const int token = lane_ / 4 % 4 * kGroupTokens + warp_ * 4 + lane_ % 4;
        bool more = tiles.next(p_);
        if (!more) return;
        int index = tiles.index(p_, token);
        bool extra = tiles.extra();
        bool more_after = tiles.next(p_);
        int index_after = more_after ? tiles.index(p_, token) : -1;
        bool extra_after = tiles.extra();
        Rows rows = look_up(index, extra);
        Quad a, b;
        load<0>(a, rows);
        load<1>(b, rows);
        while (true) {
            // Of the tile after this one the indices are here by now.
            const Rows next = more_after ? look_up(index_after, extra_after) : no_rows();
            const bool more_next = more_after;
            more_after = more_after && tiles.next(p_);
            index_after = more_after ? tiles.index(p_, token) : -1;
            extra_after = tiles.extra();

            store<0>(a, rows);
            load<2>(a, rows);
            store<1>(b, rows);
            load<3>(b, rows);
            store<2>(a, rows);
            load<0>(a, next);
            store<3>(b, rows);
            load<1>(b, next);
            finish_tile(rows);
            if (!more_next) break;
            rows = next;
            ring_.advance();
        }
    }

  private:
    static constexpr bool kV32 = Layout::kScalesInRow;
    // The last FP8 load of V4 is that of three column tiles.
    static constexpr int kLastTiles = Layout::kFp8 / kColumnTile - 4;

    // The rows of the warp's tokens of a tile, each in its owners.
    struct Rows {
        const uint8_t* row;
        // V32: split scales, of columns 0 and 256 in the lower owner, 128 and 384 in the upper one. V4: 8 x E8M0.
        uint32_t scales[2];
        // By token: whether it exists, and whether its scales need more than exact products.
        uint32_t valid, inexact;
    };

    struct Quad {
        uint32_t fp8[2][2][4];  // of two pairs of tokens, columns 0 .. 255 and the others
        uint32_t rope[4];
    };

    __device__ __forceinline__ Rows no_rows() const {
        return {reinterpret_cast<const uint8_t*>(kZeroRow), {0, 0}, 0, 0};
    }

    __device__ __forceinline__ Rows look_up(int index, bool extra) const {
        Rows rows = no_rows();
        const bool valid = uint32_t(index) < (extra ? p_.extra_index_limit : p_.index_limit);
        const uint8_t* scales_at = nullptr;
        if (valid) {
            const int size = extra ? p_.extra_page_block_size : p_.page_block_size;
            const int page = divide(index, extra ? p_.extra_page_magic : p_.page_magic,
                                    extra ? p_.extra_page_shift : p_.page_shift);
            const int offset = index - page * size;
            const uint8_t* at = reinterpret_cast<const uint8_t*>(extra ? p_.extra_kv_cache : p_.kv_cache) +
                                page * (extra ? p_.extra_page_stride : p_.page_stride);
            rows.row = at + offset * int64_t(Layout::kRowBytes);
            if constexpr (kV32) {
                scales_at = rows.row + Layout::kFp8 + lane_ / 16 * 4;
            } else {
                scales_at = at + size * int64_t(Layout::kRowBytes) + offset * int64_t(8);
            }
            if (lane_ < 16) prefetch_l2(rows.row, Layout::kRowBytes);
        }
        if constexpr (kV32) {
            if (valid) {
                rows.scales[0] = split_scale(load_float(scales_at));
                rows.scales[1] = split_scale(load_float(scales_at + 8));
            }
            const uint32_t inexact = __ballot_sync(~0u, !is_exact(rows.scales[0] | rows.scales[1]));
            rows.inexact = inexact | inexact >> 16;
        } else {
            if (valid) {
                const uint2 loaded = __ldg(reinterpret_cast<const uint2*>(scales_at));
                rows.scales[0] = loaded.x;
                rows.scales[1] = loaded.y & 0xffffff;
            }
            // An exponent from kLargeE8m0 on leaves bit 7 set when what is missing to 256 is taken from it.
            bool large = false;
#pragma unroll
            for (int i = 0; i < 7; ++i) large |= (rows.scales[i / 4] >> (i % 4 * 8) & 0xff) >= kLargeE8m0;
            rows.inexact = __ballot_sync(~0u, large);
        }
        rows.valid = __ballot_sync(~0u, valid) & 0xffff;
        return rows;
    }

    template <int kQuad>
    __device__ __forceinline__ void load(Quad& quad, const Rows& rows) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint8_t* from = row_of(rows, kQuad * 4 + pair * 2 + lane_ / 4 % 2) + (lane_ / 8 * 4 + lane_ % 4) * 16;
            load_16(quad.fp8[pair][0], from);
            load_16(quad.fp8[pair][1], from + 256);
        }
        load_16(quad.rope, row_of(rows, kQuad * 4 + lane_ / 8) + Layout::kRopeAt + lane_ % 8 * 16);
    }

    __device__ __forceinline__ const uint8_t* row_of(const Rows& rows, int token) const {
        const uint64_t row = __shfl_sync(~0u, reinterpret_cast<uint64_t>(rows.row), token);
        return reinterpret_cast<const uint8_t*>(row);
    }

    template <int kQuad>
    __device__ __forceinline__ void store(const Quad& quad, const Rows& rows) {
        if constexpr (kQuad == 0)
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8, ring_.phase ^ 1);
        if ((rows.inexact >> (kQuad * 4) & 0xf) == 0) {
            convert<kQuad, true>(quad, rows);
        } else {
            convert<kQuad, false>(quad, rows);
        }
    }

    template <int kQuad, bool kExact>
    __device__ __forceinline__ void convert(const Quad& quad, const Rows& rows) const {
        const uint32_t to = ring_.stage * kStageRowBytes + kQuad * kGroupTokens * 128;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint32_t at = latent_at_ + to;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint32_t out[8];
                dequantise_16<kExact>(quad.fp8[pair][half], scale<kExact>(rows, kQuad * 4 + pair * 2, half), out);
                if (half == 0 || kLastTiles == 4 || lane_ / 8 < kLastTiles) {
                    const uint32_t offset = half * 4 * kKTileBytes + pair * 2 * 128;
                    store_shared_16((at ^ (pair * 32)) + offset, out[0], out[1], out[2], out[3]);
                    store_shared_16((at ^ (pair * 32 + 16)) + offset, out[4], out[5], out[6], out[7]);
                }
            }
        }
        store_shared_16(rope_at_ + to, quad.rope[0], quad.rope[1], quad.rope[2], quad.rope[3]);
    }

    // The scale of this lane's columns of a pair of tokens.
    template <bool kExact>
    __device__ __forceinline__ Scale scale(const Rows& rows, int token, int half) const {
        token += lane_ / 4 % 2;
        if constexpr (kV32) {
            const uint32_t split = __shfl_sync(~0u, rows.scales[half], token + lane_ / 16 * 16);
            return kExact ? Scale::exact(split) : Scale::any(split);
        } else {
            const uint32_t four = __shfl_sync(~0u, rows.scales[half], token);
            const uint32_t e = four >> (lane_ / 8 * 8) & 0xff;
            return kExact ? Scale::exact_e8m0(e) : Scale::any_e8m0(e);
        }
    }

    __device__ __forceinline__ void finish_tile(const Rows& rows) {
        fence_proxy_async();
        __syncwarp();
        if (lane_ == 0) {
            store_shared_u16(FLASHMLA_SPARSE_SHARED(shared_, valid) + ring_.stage * 8 + warp_ * 2, rows.valid);
            mbarrier_arrive(FLASHMLA_SPARSE_SHARED(shared_, k_full) + ring_.stage * 8);
        }
        __syncwarp();
    }

    static __device__ __forceinline__ float load_float(const uint8_t* from) {
        return __ldg(reinterpret_cast<const float*>(from));
    }

    static __device__ __forceinline__ void load_16(uint32_t (&to)[4], const uint8_t* from) {
        asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "l"(from));
    }

    const SparseDecodeParams& p_;
    const uint32_t shared_;
    const uint32_t lane_, warp_;
    uint32_t latent_at_, rope_at_;
    Ring ring_;
};

}  // namespace flashmla::sm90::sparse_decode
