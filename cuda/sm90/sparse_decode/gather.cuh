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

// What a list says of a token.
struct Entry {
    int value;   // sparse: the index; dense: the page
    int offset;  // dense: of the token in its page, -1 if there is none
    bool extra;  // the list
};

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

    // Where a token of the tile is to be looked up.
    __device__ __forceinline__ Entry entry(const SparseDecodeParams& p, int token) const {
        const int tiles = tiles_of(piece_.tokens);
        Entry entry = {-1, -1, tile_ >= tiles};
        const int at = (tile_ - (entry.extra ? tiles : 0)) * kTokens + token;
        if (at >= (entry.extra ? piece_.extra_tokens : piece_.tokens)) return entry;
        if (p.block_table != 0) {
            const int page = divide(at, p.page_magic, p.page_shift);
            entry.offset = at - page * p.page_block_size;
            entry.value = reinterpret_cast<const int*>(
                p.block_table)[piece_.request * p.block_table_strides[0] + page * p.block_table_strides[1]];
        } else {
            const int* list = reinterpret_cast<const int*>(entry.extra ? p.extra_indices : p.indices);
            const int64_t* strides = entry.extra ? p.extra_indices_strides : p.indices_strides;
            entry.value = list[piece_.request * strides[0] + piece_.token * strides[1] + at];
        }
        return entry;
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
        if (!tiles.next(p_)) return;
        Rows rows = look_up(tiles.entry(p_, token));
        bool more = tiles.next(p_);
        // Loads are issued together, after the rows before were stored, and waited for together: in a loop the
        // compiler has them all counted by one scoreboard.
        Entry entry = {};
        if (more) entry = tiles.entry(p_, token);
        Quad quads[4];
        load_scales(rows);
        load<0>(quads[0], rows);
        load<1>(quads[1], rows);
        load<2>(quads[2], rows);
        load<3>(quads[3], rows);
        while (true) {
            prepare_scales(rows);
            const bool last = !more;
            Rows next = no_rows();
            if (more) {
                next = look_up(entry);
                more = tiles.next(p_);
            }
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8, ring_.phase ^ 1);
            store<0>(quads[0], rows);
            store<1>(quads[1], rows);
            store<2>(quads[2], rows);
            store<3>(quads[3], rows);
            finish_tile(rows);
            if (last) break;
            ring_.advance();
            rows = next;
            if (more) entry = tiles.entry(p_, token);
            load_scales(rows);
            load<0>(quads[0], rows);
            load<1>(quads[1], rows);
            load<2>(quads[2], rows);
            load<3>(quads[3], rows);
        }
    }

  private:
    static constexpr bool kV32 = Layout::kScalesInRow;
    // The last FP8 load of V4 is that of three column tiles.
    static constexpr int kLastTiles = Layout::kFp8 / kColumnTile - 4;

    // The rows of the warp's tokens of a tile, each in its owners.
    struct Rows {
        const uint8_t* row;
        const uint8_t* scales_at;  // null: none
        // V32: of columns 0 and 256 in the lower owner, 128 and 384 in the upper one, FP32, then split. V4: 8 x E8M0.
        uint32_t scales[2];
        // By token: whether it exists, and whether its scales need more than exact products.
        uint32_t valid, inexact;
    };

    struct Quad {
        uint32_t fp8[2][2][4];  // of two pairs of tokens, columns 0 .. 255 and the others
        uint32_t rope[4];
    };

    __device__ __forceinline__ Rows no_rows() const {
        return {reinterpret_cast<const uint8_t*>(kZeroRow), nullptr, {0, 0}, 0, 0};
    }

    __device__ __forceinline__ Rows look_up(const Entry& entry) const {
        Rows rows = no_rows();
        const bool extra = entry.extra;
        const int size = extra ? p_.extra_page_block_size : p_.page_block_size;
        int page = entry.value, offset = entry.offset;
        bool exists = true, readable;
        if (p_.block_table != 0) {
            exists = offset >= 0;
            readable = exists && uint32_t(page) < uint32_t(p_.num_blocks);
        } else {
            exists = readable = uint32_t(entry.value) < (extra ? p_.extra_index_limit : p_.index_limit);
            page = divide(entry.value, extra ? p_.extra_page_magic : p_.page_magic,
                          extra ? p_.extra_page_shift : p_.page_shift);
            offset = entry.value - page * size;
        }
        if (readable) {
            const uint8_t* at = reinterpret_cast<const uint8_t*>(extra ? p_.extra_kv_cache : p_.kv_cache) +
                                page * (extra ? p_.extra_page_stride : p_.page_stride);
            rows.row = at + offset * int64_t(Layout::kRowBytes);
            if constexpr (kV32) {
                rows.scales_at = rows.row + Layout::kFp8 + lane_ / 16 * 4;
            } else {
                rows.scales_at = at + size * int64_t(Layout::kRowBytes) + offset * int64_t(8);
            }
        }
        rows.valid = __ballot_sync(~0u, exists) & 0xffff;
        return rows;
    }

    __device__ __forceinline__ void load_scales(Rows& rows) const {
        if (rows.scales_at == nullptr) return;
        if constexpr (kV32) {
            rows.scales[0] = __ldg(reinterpret_cast<const uint32_t*>(rows.scales_at));
            rows.scales[1] = __ldg(reinterpret_cast<const uint32_t*>(rows.scales_at + 8));
        } else {
            const uint2 loaded = __ldg(reinterpret_cast<const uint2*>(rows.scales_at));
            rows.scales[0] = loaded.x;
            rows.scales[1] = loaded.y;
        }
    }

    // When the scales are here.
    __device__ __forceinline__ void prepare_scales(Rows& rows) const {
        if constexpr (kV32) {
#pragma unroll
            for (int i = 0; i < 2; ++i) rows.scales[i] = split_scale(__uint_as_float(rows.scales[i]));
            const uint32_t inexact = __ballot_sync(~0u, !is_exact(rows.scales[0] | rows.scales[1]));
            rows.inexact = inexact | inexact >> 16;
        } else {
            bool large = false;
#pragma unroll
            for (int i = 0; i < 7; ++i) large |= (rows.scales[i / 4] >> (i % 4 * 8) & 0xff) >= kLargeE8m0;
            rows.inexact = __ballot_sync(~0u, large);
        }
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
