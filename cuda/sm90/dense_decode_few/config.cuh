// Dense decode on SM90 for few query rows: what dense_decode/config.cuh computes, with the operands of both products
// swapped. The M of a product is 64, of which the heads of a tensor-parallel share would use 8 to 32; so the
// tokens (S^T = K Q^T) and the columns of V (O^T = V^T P^T) take M, and the rows are N:
//
//   S^T  64 tokens x rows       K as it lies in shared memory, Q^T beside it
//   O^T  8 x 64 columns x rows  V^T is the same tile of K, read with M innermost; P^T passes through shared memory
//
// Such a tile is bound by memory: its 72 KiB take 5700 clk of an SM's share, its products 1100 and all of its
// computation about 2000. So one warpgroup does everything in turn for 16 or 32 rows, and for 64 each of two warpgroups
// does everything for half of them, on the same K. That is little code, which counts where code that runs once a piece costs
// more than its arithmetic (cuda/NOTES.md). The accumulator is 32 registers a thread for every eight rows, and what Q
// leaves of shared memory is a ring of K tiles:
//
//   warps 0-3  (with 64 rows 4-7, too) S, softmax, O, and the store; Q is loaded by the first warp of a warpgroup
//   one more   walks the plan's pieces, tells the others, and copies K, as far ahead as the ring allows, over the ends of
//              pieces too
//   the rest   waits; where the thread block combines pieces it takes part
//
// The ring consists of halves of tiles, 64 tokens x 256 columns; the rotary part has a ring of its own.
#pragma once
#include "sm90/dense_decode/pieces.cuh"
#include <cstddef>

namespace flashmla::sm90::dense_decode_few {

using namespace dense_decode;

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kHalfTiles = kColumnTiles / 2;  // column tiles of half a tile
constexpr int kHalfBytes = kHalfTiles * kTileBytes;
constexpr int kPieces = 4;  // told ahead
constexpr int kSharedLimit = 232448;
// Rows of the output in shared memory: 1024 bytes, and 16 between them for the banks.
constexpr int kOutputPitch = kLatent * 2 + 16;

// `kRowsHere` rows for each of `kGroups` warpgroups that compute.
template <int kHeadDim, int kRowsHere, int kGroups>
struct Layout {
    static_assert(kRowsHere % 16 == 0);
    static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
    static constexpr int kWarps = kGroups * 4;  // that compute
    static constexpr bool kRope = kHeadDim > kLatent;
    static constexpr int kQBytes = kRowsHere * 128;  // of a column tile
    static constexpr int kQTiles = kHeadDim / kColumnTile;
    static constexpr int kQRoom = kRowsHere * (kQTiles * 128 > kOutputPitch ? kQTiles * 128 : kOutputPitch);
    static constexpr int kQAligned = (kQRoom + 1023) / 1024 * 1024;
    static constexpr int kPBytes = kRowsHere * 128;
    // What the rings have, the rest being small.
    static constexpr int kRoom = kSharedLimit - kGroups * (kQAligned + 2 * kPBytes + 5 * kRowsHere * 4) - 1024;
    static constexpr int kMostHalves = (kRoom - kRope * kTileBytes) / kHalfBytes;
    // Two rotary parts at least, where that leaves two tiles: where there is one alone, copies of the next tiles wait until
    // the scores of the tile at hand are done.
    static constexpr bool kOneRope = kRope && (kRoom - kMostHalves * kHalfBytes) / kTileBytes < 2;
    static constexpr int kHalves = kMostHalves - (kOneRope && kMostHalves > 4);
    static constexpr int kRopes = kRope ? (kRoom - kHalves * kHalfBytes) / kTileBytes : 1;

    struct Shared {
        alignas(1024) uint8_t half[kHalves][kHalfBytes];
        alignas(1024) uint8_t rope[kRope ? kRopes : 0][kTileBytes];
        // Q; at the end of a piece the output.
        alignas(1024) uint8_t q[kGroups][kQAligned];
        // By the parity of a tile's number.
        alignas(1024) uint8_t p[kGroups][2][kPBytes];
        // What the warps have to tell each other of each row; the last is its reference.
        float of_warp[kGroups][4 + 1][kRowsHere];
        Piece piece[kPieces];
        // Barriers at which one thread arrives, and those at which each warp that computes does.
        uint64_t half_full[kHalves], rope_full[kRopes], piece_full[kPieces], q_full[kGroups];
        uint64_t half_empty[kHalves], rope_empty[kRopes], piece_empty[kPieces];
        uint64_t calls;  // the rendezvous's counter
        int splits;      // requests that the plan splits
    };
    static constexpr int kFull = kHalves + kRopes + kPieces + kGroups, kEmpty = kHalves + kRopes + kPieces;
    static_assert(kHalves >= 4 && kRopes >= 1);
    static_assert(sizeof(Shared) <= kSharedLimit, "more than a thread block can have");
};

// A position in a ring.
template <int kPlaces>
struct Turn {
    int place = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void advance() {
        if (++place == kPlaces) {
            place = 0;
            phase ^= 1;
        }
    }
};

// Address of a member of Shared, given that of the struct.
#ifndef FLASHMLA_SHARED
#define FLASHMLA_SHARED(base, member) ((base) + uint32_t(offsetof(Shared, member)))
#endif

}  // namespace flashmla::sm90::dense_decode_few
