// How a batch-invariant plan cuts a request: into pieces of so many tiles, of which the last has others. `InvariantCuts` in
// src/schedule.rs is the same, and says why.
#pragma once

namespace flashmla {

struct InvariantCut {
    int tiles, pieces, piece_tiles, last_tiles;

    // Into pieces of `least` tiles or more; `most` at most.
    __device__ __forceinline__ InvariantCut(int tiles, int least, int most)
        : tiles(tiles), pieces(1), piece_tiles(tiles), last_tiles(tiles) {
        if (tiles <= least) return;
        piece_tiles = max(least, (tiles - 1) / most + 1);
        pieces = (tiles - 1) / piece_tiles + 1;
        last_tiles = tiles - (pieces - 1) * piece_tiles;
        if (last_tiles < piece_tiles / 4) last_tiles = (piece_tiles + last_tiles) / 2;
    }

    __device__ __forceinline__ int begin(int piece) const {
        return piece < pieces - 1 ? piece * piece_tiles : tiles - last_tiles;
    }
    __device__ __forceinline__ int end(int piece) const { return piece < pieces - 1 ? begin(piece + 1) : tiles; }
    // The longest of them. (Only the two last ones differ.)
    __device__ __forceinline__ int longest() const { return max(pieces > 2 ? piece_tiles : begin(1), last_tiles); }
};

}  // namespace flashmla
