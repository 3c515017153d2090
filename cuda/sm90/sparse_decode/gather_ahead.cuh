// The gather warps of V4 alone, which look rows up two tiles ahead: when they are loaded, they are in L2. Each quad of the
// next tile is asked for as soon as the registers of this one's are converted; after the fence was slower here.
//
// Of each group of 16 tokens a warp takes four, a *quad*; lanes, copies and stores are those of rows.cuh, written out:
// there is no register to spare here, and with rows.cuh and lists as tiles.cuh has them, or with K by octets, the assembler
// reads special registers 8 to 13 times a tile in the loop (cuda/NOTES.md).
#pragma once
#include "common/fp8.cuh"
#include "common/global.cuh"
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "common/tma.cuh"
#include "sm90/sparse_decode/tiles.cuh"

namespace flashmla::sm90::sparse_decode {

// As Tiles, with what a list is in members of its own.
template <class Pieces>
class TilesAhead {
  public:
    __device__ __forceinline__ TilesAhead(const SparseDecodeParams& p, const Place& place) : pieces_(p, place.partition) {
        piece_.tile_end = tile_ = 0;
    }

    // Goes to the next tile; at the end of the work it says false.
    __device__ __forceinline__ bool next(const SparseDecodeParams& p) {
        at_ += kTokens;
        if (++tile_ < piece_.tile_end) {
            if (tile_ == first_tiles_) begin_list(p, true);
            return true;
        }
        do {
            if (!pieces_.next(p, piece_)) {
                piece_.tile_end = 0;
                tile_ = 0;
                return false;
            }
        } while (Pieces::kMayBeEmpty && piece_.tile_begin == piece_.tile_end);
        tile_ = piece_.tile_begin;
        first_tiles_ = tiles_of(piece_.tokens);
        begin_list(p, tile_ >= first_tiles_);
        return true;
    }

    // Where a token of the tile is to be looked up.
    __device__ __forceinline__ Entry entry(const SparseDecodeParams& p, int token) const {
        Entry entry = {-1, -1, extra_};
        const int at = at_ + token;
        if (at >= tokens_) return entry;
        if (Pieces::kMayBeDense && p.block_table != 0) {
            const int page = divide(at, p.page_magic, p.page_shift);
            entry.offset = at - page * p.page_block_size;
            entry.value = __ldg(list_ + page * p.block_table_strides[1]);
        } else {
            entry.value = __ldg(list_ + at);
            // The entries of four tiles later, by two warps 32 each.
            const int later = at_ + 4 * kTokens + token % 8 / 4 * 32;
            if (later < tokens_) prefetch_l2_line(list_ + later);
        }
        return entry;
    }

  private:
    __device__ __forceinline__ void begin_list(const SparseDecodeParams& p, bool extra) {
        extra_ = extra;
        tokens_ = extra ? piece_.extra_tokens : piece_.tokens;
        at_ = (tile_ - (extra ? first_tiles_ : 0)) * kTokens;
        if (Pieces::kMayBeDense && p.block_table != 0) {
            list_ = reinterpret_cast<const int*>(p.block_table) + piece_.request * p.block_table_strides[0];
        } else if (extra) {
            list_ = reinterpret_cast<const int*>(p.extra_indices) + piece_.request * p.extra_indices_strides[0] +
                    piece_.token * p.extra_indices_strides[1];
        } else {
            list_ = reinterpret_cast<const int*>(p.indices) + piece_.request * p.indices_strides[0] +
                    piece_.token * p.indices_strides[1];
        }
    }

    Pieces pieces_;
    Piece piece_;
    int tile_, first_tiles_;
    // The list of the tile: where it is, its length, and the tile's first token therein.
    const int* list_;
    int tokens_, at_;
    bool extra_;
};

template <class Layout>
class GatherAhead {
  public:
    __device__ __forceinline__ GatherAhead(const SparseDecodeParams& p, Shared<Layout>& s)
        : p_(p), shared_(smem_base(&s)), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32 % 4) {
        const uint32_t parity = lane_ / 4 % 2, row = warp_ * 4 + parity;
        latent_at_ = FLASHMLA_SPARSE_SHARED(shared_, k) + lane_ / 8 * kBlockStride + swizzle_128b(row, lane_ % 4 * 2);
        rope_at_ = FLASHMLA_SPARSE_SHARED(shared_, k) + Layout::kFp8 / kColumnTile * kBlockStride +
                   swizzle_128b(warp_ * 4 + lane_ / 8, lane_ % 8);
        rows_at_ = FLASHMLA_SPARSE_SHARED(shared_, rows) + warp_ * kRowsBytes;
        scales_at_ = FLASHMLA_SPARSE_SHARED(shared_, scales) + warp_ * kScalesBytes;
    }

    __device__ __forceinline__ void run() {
        TilesAhead<PiecesOf<Layout>> tiles(p_, place_in_grid<Layout>(p_));
        const int token = lane_ / 4 % 4 * kGroupTokens + warp_ * 4 + lane_ % 4;
        if (!tiles.next(p_)) return;
        // Whether there is a tile after the one to convert, and one after that. `entry` is of the tile that is looked up next.
        bool more, more_after = false;
        Entry entry = {};
        Row row, next = {};
        const Entry first = tiles.entry(p_, token), none = {-1, -1, false};
        more = tiles.next(p_);
        const Entry second = more ? tiles.entry(p_, token) : none;
        row = look_up(first, 0);
        next = look_up(second, 1);
        more_after = more && tiles.next(p_);
        if (more_after) entry = tiles.entry(p_, token);
        Quad quads[kQuads];
#pragma unroll
        for (int i = 0; i < kQuads; ++i) load(quads[i], addresses(i, 0));
        load_scales(row);
        while (true) {
            const bool exact = leave_scales(row);
            const uint32_t valid = row.valid;
            const bool last = !more;
            row = next;
            load_scales(row);
            more = more_after;
            if (more) {
                next = look_up(entry, ring_.stage);
                more_after = tiles.next(p_);
                if (more_after) entry = tiles.entry(p_, token);
            }
            mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + ring_.stage * 8, ring_.phase ^ 1);
            __syncwarp();
            const LaneScales scales = lane_scales();
            if (exact) {
                convert_and_load<true>(quads, scales);
            } else {
                convert_and_load<false>(quads, scales);
            }
            finish_tile(valid);
            if (last) break;
            ring_.advance();
        }
    }

  private:
    static constexpr int kBlockStride = Shared<Layout>::kBlockStride, kStageBytes = Shared<Layout>::kStageBytes;
    static constexpr int kGroupTokens = 16;
    static_assert(!Layout::kScalesInRow && Layout::kLookAhead == 2);
    static constexpr int kQuads = 4;  // of a tile, a warp's
    // The last FP8 load of V4 is that of three column tiles.
    static constexpr int kLastTiles = Layout::kFp8 / kColumnTile - 4;
    static constexpr int kTableBytes = sizeof(Shared<Layout>::rows[0]);
    static constexpr int kRowsBytes = sizeof(Shared<Layout>::rows[0][0]);
    static constexpr int kScalesBytes = sizeof(Shared<Layout>::scales[0]);
    static constexpr int kPairScales = Layout::kScaleWords * 4, kLaneScales = 8 * kPairScales;

    // Of the token that a lane owns.
    struct Row {
        const uint8_t* scales_at;  // null: it has none
        uint32_t scales[2];        // 8 x E8M0, in the lower owner
        uint32_t valid;  // of all tokens, whether they exist
    };

    struct Quad {
        uint32_t fp8[2][2][4];  // of two pairs of tokens, columns 0 .. 255 and the others
        uint32_t rope[4];
    };

    // Leaves the row's address in a table, and asks for the row to come to L2.
    __device__ __forceinline__ Row look_up(const Entry& entry, int table) const {
        Row result = {nullptr, {0, 0}, 0};
        const int value = entry.value;
        const bool extra = entry.extra;
        const int size = extra ? p_.extra_page_block_size : p_.page_block_size;
        int page = value, offset = entry.offset;
        bool exists = true, readable;
        if (PiecesOf<Layout>::kMayBeDense && p_.block_table != 0) {
            exists = offset >= 0;
            readable = exists && uint32_t(page) < uint32_t(p_.num_blocks);
        } else {
            exists = readable = uint32_t(value) < (extra ? p_.extra_index_limit : p_.index_limit);
            page = divide(value, extra ? p_.extra_page_magic : p_.page_magic,
                          extra ? p_.extra_page_shift : p_.page_shift);
            offset = value - page * size;
        }
        const uint8_t* row = reinterpret_cast<const uint8_t*>(kZeroRow);
        if (readable) {
            const uint8_t* at = reinterpret_cast<const uint8_t*>(extra ? p_.extra_kv_cache : p_.kv_cache) +
                                page * (extra ? p_.extra_page_stride : p_.page_stride);
            row = at + offset * int64_t(Layout::kRowBytes);
            result.scales_at = at + size * int64_t(Layout::kRowBytes) + offset * int64_t(8);
            // 128 bytes at a time, half of the row by each owner.
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                if (384 + i * 128 < Layout::kRowBytes || lane_ < 16)
                    prefetch_l2_line(row + lane_ / 16 * 384 + i * 128);
            }
            if (lane_ < 16) prefetch_l2_line(result.scales_at);
        }
        // All lanes have read what lay here.
        __syncwarp();
        if (lane_ < 16) store_shared_8(rows_at_ + table * kTableBytes + place_of(lane_) * 8, reinterpret_cast<uint64_t>(row));
        result.valid = __ballot_sync(~0u, exists) & 0xffff;
        __syncwarp();
        return result;
    }

    // Tokens are kept by parity and pair.
    static __device__ __forceinline__ uint32_t place_of(uint32_t token) { return token % 2 * 8 + token / 2; }

    __device__ __forceinline__ void load_scales(Row& row) const {
        row.scales[0] = row.scales[1] = 0;
        if (row.scales_at == nullptr) return;
        asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];"
                     : "=r"(row.scales[0]), "=r"(row.scales[1])
                     : "l"(row.scales_at));
    }

    // Leaves the scales for those who convert the rows, and says whether all are exact.
    __device__ __forceinline__ bool leave_scales(const Row& row) const {
        const uint32_t to = scales_at_ + lane_ % 2 * (kScalesBytes / 2) + lane_ % 16 / 2 * kPairScales;
        bool exact = true;
        if (lane_ < 16) {
            // The eighth byte may be anything.
            const uint32_t first = row.scales[0], rest = row.scales[1] & 0xffffff;
            exact = is_exact_e8m0(first, rest);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t two = scales_e8m0(first, rest, i, exact);
                store_shared(to + i * kLaneScales, two);
            }
        }
        return __all_sync(~0u, exact);
    }

    // Where a lane finds its parts of a quad.
    struct Addresses {
        uint64_t fp8[2], rope;
    };

    __device__ __forceinline__ Addresses addresses(int i, int table) const {
        Addresses a;
        const uint32_t at = rows_at_ + table * kTableBytes + i * 16;
        load_shared_16(a.fp8, at + lane_ / 4 % 2 * 64);
        load_shared_8(a.rope, at + lane_ / 8 % 2 * 64 + lane_ / 16 * 8);
        return a;
    }

    __device__ __forceinline__ void load(Quad& quad, const Addresses& a) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint64_t from = a.fp8[pair] + (lane_ / 8 * 4 + lane_ % 4) * 16;
            load_global_16(quad.fp8[pair][0], from);
            load_global_16(quad.fp8[pair][1], from + 256);
        }
        load_global_16(quad.rope, a.rope + Layout::kRopeAt + lane_ % 8 * 16);
    }

    // What a lane needs of the scales of a tile: of four pairs in `words[i]`.
    struct LaneScales {
        uint32_t words[kQuads * Layout::kScaleWords / 2][4];
    };

    __device__ __forceinline__ LaneScales lane_scales() const {
        LaneScales scales;
        const uint32_t at = scales_at_ + lane_ / 4 % 2 * (kScalesBytes / 2) +
                            lane_ / (32 / Layout::kScaleLanes) * kLaneScales;
#pragma unroll
        for (int i = 0; i < kQuads * Layout::kScaleWords / 2; ++i) load_shared_16(scales.words[i], at + i * 16);
        return scales;
    }

    // Converts a tile and loads the next one; after the last one, some rows in vain.
    template <bool kExact>
    __device__ __forceinline__ void convert_and_load(Quad (&quads)[kQuads], const LaneScales& scales) const {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
            const Addresses a = addresses(i, ring_.stage ^ 1);
            convert<kExact>(quads[i], scales, i);
            load(quads[i], a);
        }
    }

    template <bool kExact>
    __device__ __forceinline__ void convert(const Quad& quad, const LaneScales& scales, int i) const {
        const uint32_t to = ring_.stage * kStageBytes + i * kGroupTokens * 128;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint32_t at = latent_at_ + to;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint32_t out[8];
                dequantise_16<kExact>(quad.fp8[pair][half], scale<kExact>(scales, i * 2 + pair, half), out);
                if (half == 0 || lane_ / 8 < kLastTiles) {
                    const uint32_t offset = half * 4 * kBlockStride + pair * 2 * 128;
                    store_shared_16((at ^ (pair * 32)) + offset, out[0], out[1], out[2], out[3]);
                    store_shared_16((at ^ (pair * 32 + 16)) + offset, out[4], out[5], out[6], out[7]);
                }
            }
        }
        store_shared_16(rope_at_ + to, quad.rope[0], quad.rope[1], quad.rope[2], quad.rope[3]);
    }

    template <bool kExact>
    __device__ __forceinline__ Scale scale(const LaneScales& scales, int pair, int half) const {
        const uint32_t two = scales.words[pair / 4][pair % 4];
        return Scale::e8m0<kExact>(two, half != 0);
    }

    __device__ __forceinline__ void finish_tile(uint32_t valid) {
        fence_proxy_async();
        __syncwarp();
        if (arrives_for_warp(lane_)) {
            if (lane_ == 0) store_shared_u16(FLASHMLA_SPARSE_SHARED(shared_, valid) + ring_.stage * 8 + warp_ * 2, valid);
            mbarrier_arrive(FLASHMLA_SPARSE_SHARED(shared_, k_full) + ring_.stage * 8);
        }
        __syncwarp();
    }

    const SparseDecodeParams& p_;
    const uint32_t shared_;
    const uint32_t lane_, warp_;
    uint32_t latent_at_, rope_at_, rows_at_, scales_at_;
    Ring ring_;
};

}  // namespace flashmla::sm90::sparse_decode
