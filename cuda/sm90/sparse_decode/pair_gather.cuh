// The gather warps of a thread block in a pair: each block converts half of the tokens of a tile, and the copy engine
// hands them to the other block.
//
// A turn is two tiles, one in each stage, of each of which a warp takes an octet of tokens: as many in all as alone. The
// columns of an octet lie in one piece of shared memory, so that a warp's part of a tile goes over in two copies: the
// columns that the left warpgroup reads (and those that only the scores read), and the right one's, each as soon as both
// blocks are done with what was there. What takes time is the way to the other block: 20 bytes a clock.
#pragma once
#include "sm90/sparse_decode/rows.cuh"

namespace flashmla::sm90::sparse_decode {

template <class Layout>
class PairGather : Rows<Layout> {
    using typename Rows<Layout>::Row;
    using typename Rows<Layout>::Quad;
    using typename Rows<Layout>::LaneScales;
    using typename Rows<Layout>::Addresses;
    using Rows<Layout>::p_;
    using Rows<Layout>::shared_;
    using Rows<Layout>::lane_;
    using Rows<Layout>::kOctetBytes;
    using Rows<Layout>::kStageBytes;

    using Tiles = TilesOf<PiecesOf<Layout>>;
    using List = typename Tiles::List;

  public:
    __device__ __forceinline__ PairGather(const SparseDecodeParams& p, Shared<Layout>& s)
        : Rows<Layout>(p, s, octet_of_warp() * 8), octet_(kept(octet_of_warp())), other_(way_to_other(shared_)) {}

    __device__ __forceinline__ void run() {
        static_assert(kStages == 2);
        Tiles tiles(p_, Place(p_));
        Entry entry;
        bool second, second_after = false;
        if (!next_two(tiles, entry, second)) return;
        Row row = this->look_up(entry);
        bool more = next_two(tiles, entry, second_after);
        // Of one tile: while it is converted, what the other tile of the turn, or of the next, needs is loaded.
        Quad quads[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) this->load(quads[i], this->addresses(i));
        this->load_scales(row);
        uint32_t phase = 1;
        while (true) {
            const bool exact = this->leave_scales(row);
            const uint32_t valid = row.valid;
            const bool last = !more;
            __syncwarp();
            fill<0>(quads, exact, phase, valid & 0xff);
            if (!second) break;
            if (more) {
                row = this->look_up(entry);
                this->load_scales(row);
                second = second_after;
                more = next_two(tiles, entry, second_after);
            }
            fill<1>(quads, exact, phase, valid >> 8);
            if (last) break;
            phase ^= 1;
        }
    }

  private:
    // The one of a tile that is this warp's.
    static __device__ __forceinline__ uint32_t octet_of_warp() { return cluster_rank() * 4 + threadIdx.x / 32 % 4; }

    // What two tiles, of which this block of the pair converts half of the tokens each, are looked up by; `second` says
    // whether there are two. False at the end of the work.
    __device__ __forceinline__ bool next_two(Tiles& tiles, Entry& entry, bool& second) const {
        second = false;
        if (!tiles.next(p_)) return false;
        List list = tiles.list();
        second = tiles.next(p_);
        if (lane_ & 8) list = second ? tiles.list() : List();
        entry = list.entry(p_, octet_ * 8 + lane_ % 8);
        return true;
    }

    // This block's part of a tile, of the turn's first or second.
    template <int kStage>
    __device__ __forceinline__ void fill(Quad (&quads)[2], bool exact, uint32_t phase, uint32_t valid) const {
        const LaneScales scales = this->lane_scales();
        fill_half<kStage, 0>(quads, scales, exact, phase, valid);
        fill_half<kStage, 1>(quads, scales, exact, phase, valid);
    }

    // Half of its columns: converts them, hands them to the other block, and loads those of the next tile.
    template <int kStage, int kHalf>
    __device__ __forceinline__ void fill_half(Quad (&quads)[2], const LaneScales& scales, bool exact, uint32_t phase,
                                              uint32_t valid) const {
        const uint32_t full = FLASHMLA_SPARSE_SHARED(shared_, k_full) + (kHalf * kStages + kStage) * 8;
        mbarrier_wait(FLASHMLA_SPARSE_SHARED(shared_, k_empty) + (kHalf * kStages + kStage) * 8, phase);
        __syncwarp();
        if (exact) {
            convert_octet<true, kStage, kHalf>(quads, scales);
        } else {
            convert_octet<false, kStage, kHalf>(quads, scales);
        }
        fence_proxy_async();
        __syncwarp();
        const uint32_t valid_at =
            FLASHMLA_SPARSE_SHARED(shared_, valid) + kStage * Shared<Layout>::kValidBytes + octet_ * 4;
        constexpr uint32_t kBytes = (kHalf ? kColumnTilesRight : Shared<Layout>::kRightBlock) * kBlockBytes;
        const uint32_t from = FLASHMLA_SPARSE_SHARED(shared_, k) + kStage * kStageBytes + octet_ * kOctetBytes +
                              kHalf * Shared<Layout>::kRightBlock * kBlockBytes;
        if (elect_one()) {
            copy_to_cluster(from + other_, from, kBytes, full + other_);
            // With the first half goes the word that says which of the tokens exist.
            if (kHalf == 0) {
                store_to_cluster(valid_at + other_, valid, full + other_);
                store_shared(valid_at, valid);
            }
            mbarrier_arrive_expect_tx(full, kBytes + (kHalf == 0 ? 4 : 0));
        } else if (kArrivalsOfWarp > 1) {
            mbarrier_arrive(full);
        }
        __syncwarp();
        // After the fence, which waits for loads, too; after the last tile, some rows in vain.
#pragma unroll
        for (int i = 0; i < 2; ++i) this->template load_half<kHalf>(quads[i], this->addresses((kStage ^ 1) * 2 + i));
    }

    template <bool kExact, int kStage, int kHalf>
    __device__ __forceinline__ void convert_octet(const Quad (&quads)[2], const LaneScales& scales) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            // The second quad is the second half of the octet, whose rows are swizzled otherwise.
            this->template convert<kExact, kHalf, kHalf>(quads[i], scales, kStage * 2 + i,
                                                         kStage * kStageBytes + i * 512, i * 64);
        }
    }

    const uint32_t octet_;  // of a tile, this warp's
    const uint32_t other_;  // from an address to the other block's
};

}  // namespace flashmla::sm90::sparse_decode
