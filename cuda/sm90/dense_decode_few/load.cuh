// The warp that walks the pieces and copies K.
#pragma once
#include "common/mbarrier.cuh"
#include "common/shared.cuh"
#include "sm90/dense_decode/copies.cuh"
#include "sm90/dense_decode_few/config.cuh"

namespace flashmla::sm90::dense_decode_few {

template <class Layout, class Pieces>
class Loader {
  public:
    __device__ __forceinline__ Loader(const DenseDecodeParams& p, const Maps& maps, uint32_t shared)
        : p_(p), maps_(maps), shared_(shared), lane_(threadIdx.x % 32), place_(p) {}

    __device__ __forceinline__ void run() {
        Pieces pieces(p_, place_.partition);
        once_ = pieces.reads_little(p_);
        bool more;
#pragma unroll 1
        do {
            Piece piece;
            more = pieces.next(p_, piece);
            if (!more) piece.request = -1;
            // On the way while the others are told.
            PagedRow first = {};
            if (more) first = locate(p_, piece, uint32_t(piece.tile_begin) * kTokens + lane_ * p_.kv_box_tokens);
            tell(piece);
            if (more) load(piece, first);
        } while (more);
    }

  private:
    using Shared = typename Layout::Shared;

    __device__ __forceinline__ void tell(const Piece& piece) {
        mbarrier_wait(FLASHMLA_SHARED(shared_, piece_empty) + told_.place * 8, told_.phase ^ 1);
        if (lane_ == 0) {
            const uint32_t at = FLASHMLA_SHARED(shared_, piece) + told_.place * sizeof(Piece);
            store_shared(at + offsetof(Piece, request), uint32_t(piece.request));
            store_shared(at + offsetof(Piece, tokens), uint32_t(piece.tokens));
            store_shared(at + offsetof(Piece, tile_begin), uint32_t(piece.tile_begin));
            store_shared(at + offsetof(Piece, tile_end), uint32_t(piece.tile_end));
            store_shared(at + offsetof(Piece, flags), uint32_t(piece.flags));
            store_shared(at + offsetof(Piece, slot), uint32_t(piece.slot));
            mbarrier_arrive(FLASHMLA_SHARED(shared_, piece_full) + told_.place * 8);
        }
        __syncwarp();
        told_.advance();
    }

    // Box after box of tokens that lie together in the cache: 64, or fewer where pages are smaller. Each lane looks up one box
    // of a window of 32, a window ahead.
    __device__ __forceinline__ void load(const Piece& piece, PagedRow following) {
        const int size = p_.kv_box_tokens, step = min(kTokens >> (31 - __clz(size)), 32);
        const uint32_t begin = uint32_t(piece.tile_begin) * kTokens, end = uint32_t(piece.tile_end) * kTokens;
        PagedRow mine;
        int in_window = 0;
#pragma unroll 1
        for (uint32_t token = begin; token < end; token += step * size) {
            if (in_window == 0) {
                mine = following;
                following = locate(p_, piece, token + (32 + lane_) * size);
            }
            const uint32_t box = lane_ - in_window;  // of those of this turn
            const uint32_t at = (token % kTokens + box * size) * 128;
            in_window = (in_window + step) % 32;
            // Pages of one token: the tile's second window goes where the first one went.
            const bool begins = token % kTokens == 0, ends = (token + step * size) % kTokens == 0;
            Turn<Layout::kHalves> half = half_;
            // The rotary part last: it may have to wait for the tile before.
#pragma unroll 1
            for (int item = 0; item < 2 + Layout::kRope; ++item) {
                const bool rope = item == 2;
                const TensorMap* map = rope ? maps_.kv_rope : maps_.kv;
                const uint32_t to =
                    rope ? FLASHMLA_SHARED(shared_, rope) + rope_.place * kTileBytes
                         : FLASHMLA_SHARED(shared_, half) + half.place * kHalfBytes;
                const uint32_t full = rope ? FLASHMLA_SHARED(shared_, rope_full) + rope_.place * 8
                                           : FLASHMLA_SHARED(shared_, half_full) + half.place * 8;
                if (begins) {
                    mbarrier_wait(rope ? FLASHMLA_SHARED(shared_, rope_empty) + rope_.place * 8
                                       : FLASHMLA_SHARED(shared_, half_empty) + half.place * 8,
                                  (rope ? rope_.phase : half.phase) ^ 1);
                    if (lane_ == 0) mbarrier_arrive_expect_tx(full, rope ? kTileBytes : kHalfBytes);
                }
                if (box < step) {
                    const int copies = rope || size == kTokens ? 1 : kHalfTiles;
#pragma unroll 1
                    for (int c = 0; c < copies; ++c)
                        copy_k(map, mine, place_.kv_head, rope ? 0 : item * kHalfTiles + c, to + c * kTileBytes + at, full,
                               once_);
                }
                if (!rope) half.advance();
            }
            if (ends) {
                half_ = half;
                rope_.advance();
            }
        }
    }

    const DenseDecodeParams& p_;
    const Maps maps_;
    const uint32_t shared_;
    const int lane_;
    const Place place_;
    bool once_;
    Turn<kPieces> told_;
    Turn<Layout::kHalves> half_;
    Turn<Layout::kRopes> rope_;
};

}  // namespace flashmla::sm90::dense_decode_few
