// What the gather warps do alike, alone and in a pair: rows of the cache to registers, and from there as BF16 to K tiles.
//
// A warp's 16 tokens of a turn come in four *quads*. Lanes l and l + 16 own token l % 4 of quad l / 4. They look its row
// up, load its scales, and leave both in shared memory for the lanes that copy it.
//
// The copies of a quad: each load of FP8 takes 256 columns (a half) of two neighbouring tokens (a *pair*), 16 bytes a
// lane, four lanes in a row for one token, then four for the other: what eight lanes then store at a time lies in eight
// different 16-byte columns of the swizzled tile, since the rows' numbers differ in the last bit. RoPE: a token every
// eight lanes.
#pragma once
#include "common/fp8.cuh"
#include "common/global.cuh"
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "sm90/sparse_decode/tiles.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class Rows {
  protected:
    static constexpr bool kV32 = Layout::kScalesInRow;
    static_assert(Layout::kLookAhead == 1);
    static constexpr int kQuads = 4;  // of a turn
    // The last FP8 load of V4 is that of three column tiles.
    static constexpr int kLastTiles = Layout::kFp8 / kColumnTile - 4;
    static constexpr int kRightBlock = Shared<Layout>::kRightBlock;
    // The half of the columns that RoPE goes with.
    static constexpr int kRopeHalf = Shared<Layout>::kRopeBlock >= kRightBlock;
    static constexpr int kOctetBytes = Shared<Layout>::kOctetBytes, kStageBytes = Shared<Layout>::kStageBytes;
    static constexpr int kRowsBytes = sizeof(Shared<Layout>::rows[0][0]);
    static constexpr int kScalesBytes = sizeof(Shared<Layout>::scales[0]);
    static constexpr int kPairScales = Layout::kScaleWords * 4, kLaneScales = 8 * kPairScales;

    // Of the token that a lane owns.
    struct Row {
        const uint8_t* scales_at;  // null: it has none
        // V32: of columns 0 and 256 in the lower owner, 128 and 384 in the upper one. V4: in the lower owner 8 x E8M0.
        uint32_t scales[2];
        uint32_t valid;  // of all tokens, whether they exist
    };

    struct Quad {
        uint32_t fp8[2][2][4];  // of two pairs of tokens, columns 0 .. 255 and the others
        uint32_t rope[4];
    };

    // What a lane needs of the scales of a turn: of the pairs 2 i and 2 i + 1 in `words[i]` (V32) or of four (V4).
    struct LaneScales {
        uint32_t words[kQuads * Layout::kScaleWords / 2][4];
    };

    // Where a lane finds its parts of a quad.
    struct Addresses {
        uint64_t fp8[2], rope;
    };

    // `first` is the first token of a tile that is the warp's.
    __device__ __forceinline__ Rows(const SparseDecodeParams& p, Shared<Layout>& s, uint32_t first)
        : p_(p), shared_(smem_base(&s)), lane_(Layout::kKeepsLane ? kept_lane() : threadIdx.x % 32),
          warp_(kept_here(threadIdx.x / 32 % 4)) {
        const uint32_t row = first + lane_ / 4 % 2, rope_row = first + lane_ / 8;
        const uint32_t k = FLASHMLA_SPARSE_SHARED(shared_, k) + first / 8 * kOctetBytes;
        latent_at_ = kept_here(k + lane_ / 8 * kBlockBytes + swizzle_128b(row % 8, lane_ % 4 * 2));
        rope_at_ = kept_here(k + Shared<Layout>::kRopeBlock * kBlockBytes + swizzle_128b(rope_row % 8, lane_ % 8));
        rows_at_ = kept_here(FLASHMLA_SPARSE_SHARED(shared_, rows) + warp_ * kRowsBytes);
        scales_at_ = kept_here(FLASHMLA_SPARSE_SHARED(shared_, scales) + warp_ * kScalesBytes);
    }

    // Leaves the row's address for those who copy it, and asks for the row to come to L2.
    __device__ __forceinline__ Row look_up(const Entry& entry) const {
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
            result.scales_at = kV32 ? row + Layout::kFp8 + lane_ / 16 * 4
                                    : at + size * int64_t(Layout::kRowBytes) + offset * int64_t(8);
            // 128 bytes at a time, half of the row by each owner.
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                if (384 + i * 128 < Layout::kRowBytes || lane_ < 16)
                    prefetch_l2_line(row + lane_ / 16 * 384 + i * 128);
            }
        }
        // All lanes have read what lay here.
        __syncwarp();
        if (lane_ < 16) store_shared_8(rows_at_ + place_of(lane_) * 8, reinterpret_cast<uint64_t>(row));
        result.valid = __ballot_sync(~0u, exists) & 0xffff;
        __syncwarp();
        return result;
    }

    // Tokens are kept by parity and pair.
    static __device__ __forceinline__ uint32_t place_of(uint32_t token) { return token % 2 * 8 + token / 2; }

    __device__ __forceinline__ void load_scales(Row& row) const {
        row.scales[0] = row.scales[1] = 0;
        if (row.scales_at == nullptr) return;
        if constexpr (kV32) {
            asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(row.scales[0]) : "l"(row.scales_at));
            asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(row.scales[1]) : "l"(row.scales_at + 8));
        } else {
            asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];"
                         : "=r"(row.scales[0]), "=r"(row.scales[1])
                         : "l"(row.scales_at));
        }
    }

    // Leaves the scales for those who convert the rows, and says whether all are exact.
    __device__ __forceinline__ bool leave_scales(const Row& row) const {
        const uint32_t to = scales_at_ + lane_ % 2 * (kScalesBytes / 2) + lane_ % 16 / 2 * kPairScales;
        bool exact = true;
        if constexpr (kV32) {
            const uint32_t s0 = split_scale(__uint_as_float(row.scales[0]));
            const uint32_t s1 = split_scale(__uint_as_float(row.scales[1]));
            exact = __all_sync(~0u, is_exact(s0 | s1));
            // As they are where one of them is odd.
            store_shared_8(to + lane_ / 16 * kLaneScales, exact ? s0 : row.scales[0], exact ? s1 : row.scales[1]);
            return exact;
        } else if (lane_ < 16) {
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

    __device__ __forceinline__ Addresses addresses(int i) const {
        Addresses a;
        const uint32_t at = rows_at_ + i * 16;
        load_shared_16(a.fp8, at + lane_ / 4 % 2 * 64);
        load_shared_8(a.rope, at + lane_ / 8 % 2 * 64 + lane_ / 16 * 8);
        return a;
    }

    __device__ __forceinline__ void load(Quad& quad, const Addresses& a) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            load_global_16(quad.fp8[pair][0], a.fp8[pair] + (lane_ / 8 * 4 + lane_ % 4) * 16);
            load_global_16(quad.fp8[pair][1], a.fp8[pair] + (lane_ / 8 * 4 + lane_ % 4) * 16 + 256);
        }
        load_global_16(quad.rope, a.rope + Layout::kRopeAt + lane_ % 8 * 16);
    }

    template <int kHalf>
    __device__ __forceinline__ void load_half(Quad& quad, const Addresses& a) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair)
            load_global_16(quad.fp8[pair][kHalf], a.fp8[pair] + (lane_ / 8 * 4 + lane_ % 4) * 16 + kHalf * 256);
        if (kHalf == kRopeHalf) load_global_16(quad.rope, a.rope + Layout::kRopeAt + lane_ % 8 * 16);
    }

    __device__ __forceinline__ LaneScales lane_scales() const {
        LaneScales scales;
        const uint32_t at = scales_at_ + lane_ / 4 % 2 * (kScalesBytes / 2) +
                            lane_ / (32 / Layout::kScaleLanes) * kLaneScales;
#pragma unroll
        for (int i = 0; i < kQuads * Layout::kScaleWords / 2; ++i) load_shared_16(scales.words[i], at + i * 16);
        return scales;
    }

    // The columns of quad `i`, one half or both, to `to` behind the warp's first octet of the first stage. `flip`: what the
    // rows are swizzled by beyond those of the first quad.
    template <bool kExact, int kFirstHalf, int kLastHalf>
    __device__ __forceinline__ void convert(const Quad& quad, const LaneScales& scales, int i, uint32_t to,
                                            uint32_t flip) const {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
            for (int half = kFirstHalf; half <= kLastHalf; ++half) {
                uint32_t out[8];
                if constexpr (kExact || !kV32) {
                    dequantise_16<kExact>(quad.fp8[pair][half], scale<kExact>(scales, i * 2 + pair, half), out);
                } else {
                    dequantise_16(quad.fp8[pair][half], __uint_as_float(scale_word(scales, i * 2 + pair, half)), out);
                }
                if (half == 0 || kLastTiles == 4 || lane_ / 8 < kLastTiles) {
                    const uint32_t offset = to + half * kRightBlock * kBlockBytes + pair * 2 * 128;
                    store_shared_16((latent_at_ ^ (pair * 32 ^ flip)) + offset, out[0], out[1], out[2], out[3]);
                    store_shared_16((latent_at_ ^ (pair * 32 ^ 16 ^ flip)) + offset, out[4], out[5], out[6], out[7]);
                }
            }
        }
        if (kFirstHalf <= kRopeHalf && kRopeHalf <= kLastHalf)
            store_shared_16((rope_at_ ^ flip) + to, quad.rope[0], quad.rope[1], quad.rope[2], quad.rope[3]);
    }

    // Of V32.
    __device__ __forceinline__ uint32_t scale_word(const LaneScales& scales, int pair, int half) const {
        return scales.words[pair / 2][pair % 2 * 2 + half];
    }

    template <bool kExact>
    __device__ __forceinline__ Scale scale(const LaneScales& scales, int pair, int half) const {
        if constexpr (kV32) {
            return Scale::exact(scale_word(scales, pair, half));
        } else {
            const uint32_t two = scales.words[pair / 4][pair % 4];
            return Scale::e8m0<kExact>(two, half != 0);
        }
    }

    const SparseDecodeParams& p_;
    const uint32_t shared_;
    const uint32_t lane_, warp_;

  private:
    static __device__ __forceinline__ uint32_t kept_here(uint32_t value) {
        return Layout::kKeepsLane ? kept(value) : value;
    }

    uint32_t latent_at_, rope_at_, rows_at_, scales_at_;
};

}  // namespace flashmla::sm90::sparse_decode
