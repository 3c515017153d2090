// The pieces of work of a thread block by a batch-invariant plan (hand_over in src/schedule.rs).
#pragma once
#include "sm90/dense_decode/pieces.cuh"

namespace flashmla::sm90::dense_decode {

// Walks a partition's chain of pieces, then completes what the partition before left. Nothing is kept that can be read again:
// it lies at hand.
//
// Whether a piece changes hands the start of the partition that begins it alone tells, and both do as it says: as damaged as a
// plan may be, nobody waits in vain. And as in `Pieces` nothing leads outside the tensors: all numbers are clamped, as unsigned
// ones, and chains only lead on.
class InvariantPieces {
  public:
    static constexpr bool kHandsOver = true;

    InvariantPieces() = default;
    __device__ __forceinline__ InvariantPieces(const DenseDecodeParams& p, int partition) : partition_(partition) {
        const Start own = start(p, partition);
        index_ = max(own.piece, own.tile > 0 ? 0 : kLeft);
    }

    __device__ __forceinline__ bool next(const DenseDecodeParams& p, Piece& piece) {
        if (index_ == kNone) return false;
        Start from = start(p, partition_);
        const bool resumes = index_ == kLeft;
        if (resumes) {
            index_ = kNone;
            if (partition_ == 0) return false;
            from = start(p, partition_ - 1);
            if (from.tile <= 0) return false;
        }
        const int index = resumes ? from.piece : index_;
        const DealtPiece read = reinterpret_cast<const DealtPiece*>(p.pieces)[least(index, p.last_piece)];
        const bool suspends = !resumes && from.tile > 0 && index == max(from.piece, 0);
        if (!resumes) index_ = read.next > index ? read.next : kLeft;
        piece.request = least(read.request, p.b - 1);
        piece.tokens = least(read.tokens, p.max_tokens);
        piece.tile_end = least(suspends ? from.tile : read.tile_end, tiles_of(piece.tokens));
        piece.tile_begin = least(resumes ? from.tile : read.tile_begin, piece.tile_end);
        piece.slot = read.slot < p.slots ? read.slot : -1;
        piece.flags = (read.slot < 0 ? Piece::kWhole : 0) | (resumes ? Piece::kResumes : 0) |
                      (suspends ? Piece::kSuspends : 0);
        return true;
    }

    __device__ __forceinline__ bool reads_little(const DenseDecodeParams& p) const {
        return dense_decode::reads_little(p, start(p, partition_).plan_tiles);
    }

  private:
    // What may follow the chain; the end.
    static constexpr int kLeft = -1, kNone = -2;

    static __device__ __forceinline__ Start start(const DenseDecodeParams& p, int partition) {
        Start at = reinterpret_cast<const Start*>(p.borders)[partition];
        // Behind the last there is none, and short pieces have no records.
        if (partition == p.partitions - 1 || p.handovers == 0) at.tile = 0;
        return at;
    }
    static __device__ __forceinline__ int least(int x, int most) { return int(min(uint32_t(x), uint32_t(most))); }

    int partition_;
    int index_;  // of the next piece
};

}  // namespace flashmla::sm90::dense_decode
