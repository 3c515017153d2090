// The plan of a split-KV decode: the same integers as src/schedule.rs, which defines and explains them.
//
// One thread block. The requests are dealt out in contiguous runs, one to a thread; a scan over the
// runs gives each thread the position on the line at which its run begins. Then a thread a stretch looks up
// in which run, and in it in which request, the stretch begins. The split requests are listed by the threads of
// their first cuts, or in a batch-invariant plan by their own.
#include "common/grid_dependency.cuh"
#include "common/lengths.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kThreads = 1024;

// What a request takes on the line, its tiles, how many accumulators, and whether its own length splits it.
struct Extent {
    int64_t line, tiles;
    int slots, splits;
};

__device__ __forceinline__ Extent operator+(Extent a, Extent b) {
    return {a.line + b.line, a.tiles + b.tiles, a.slots + b.slots, a.splits + b.splits};
}

// How a request is cut by a batch-invariant plan; by others it counts as one piece.
struct Cut {
    int pieces, piece_tiles;
};

__device__ Cut cut(int tiles, bool batch_invariant) {
    if (!batch_invariant) return {1, max(tiles, 1)};
    const int wanted = min(max((tiles + kInvariantPieceTiles - 1) / kInvariantPieceTiles, 1), kInvariantMaxPieces);
    const int piece_tiles = max((tiles + wanted - 1) / wanted, 1);
    return {max((tiles + piece_tiles - 1) / piece_tiles, 1), piece_tiles};
}

__device__ Extent extent(int tiles, Cut c) {
    return {tiles + int64_t(kRequestCost) * c.pieces, tiles, c.pieces > 1 ? c.pieces : 0, c.pieces > 1};
}

// Where position `offset` of a request's stretch of the line cuts it: at its end if not before its last tile.
__device__ int64_t tile_at(int tiles, Cut c, bool batch_invariant, int64_t offset, int64_t stretch) {
    int64_t tile;
    if (batch_invariant) {
        const int64_t step = c.piece_tiles + kRequestCost;
        tile = (offset + step / 2) / step * c.piece_tiles;
    } else {
        const int64_t least = min(int64_t(kMinPieceTiles), stretch);
        tile = max(offset - kRequestCost, int64_t(0));
        if (tile < least) {
            tile = 0;
        } else if (tiles - tile < least || tiles < kMinSplitTiles) {
            tile = tiles;
        }
    }
    return tile;
}

// Sums over the threads before this one; `total` of all.
__device__ Extent exclusive_scan(Extent mine, Extent& total) {
    __shared__ Extent warp_sums[kThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto scan_warp = [lane](Extent x) {
        for (int step = 1; step < 32; step *= 2) {
            const Extent left = {__shfl_up_sync(~0u, x.line, step), __shfl_up_sync(~0u, x.tiles, step),
                                 __shfl_up_sync(~0u, x.slots, step), __shfl_up_sync(~0u, x.splits, step)};
            if (lane >= step) x = x + left;
        }
        return x;
    };
    const Extent inclusive = scan_warp(mine);
    if (lane == 31) warp_sums[warp] = inclusive;
    __syncthreads();
    if (warp == 0) warp_sums[lane] = scan_warp(warp_sums[lane]);
    __syncthreads();
    total = warp_sums[kThreads / 32 - 1];
    const Extent before = warp == 0 ? Extent{} : warp_sums[warp - 1];
    return {before.line + inclusive.line - mine.line, before.tiles + inclusive.tiles - mine.tiles,
            before.slots + inclusive.slots - mine.slots, before.splits + inclusive.splits - mine.splits};
}

// How many threads before this one say yes, and in `total` all that do.
__device__ int exclusive_count(bool yes, int& total) {
    __shared__ int warp_counts[kThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t votes = __ballot_sync(~0u, yes);
    if (lane == 0) warp_counts[warp] = __popc(votes);
    __syncthreads();
    const int theirs = warp_counts[lane];
    total = __reduce_add_sync(~0u, theirs);
    return __reduce_add_sync(~0u, lane < warp ? theirs : 0) + __popc(votes & ((1u << lane) - 1));
}

// The last of the first `n` borders that is not behind `x`.
__device__ int last_not_after(const Border* borders, int n, Border x) {
    int low = 0, high = n;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (x < borders[middle]) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return low;
}

__device__ Border border_at(const PlanParams& p, int request, int64_t tile, int plan_tiles) {
    if (request >= p.b) return {p.b, 0, 0, plan_tiles};
    return {request, int(tile), first_tokens(p, Unit(request, p.tokens)), plan_tiles};
}

// Where position `x` of the line, which lies on it, cuts it. Thread t's run of requests begins at `run_starts[t]`.
__device__ Border border(const PlanParams& p, const int64_t* run_starts, int run, int64_t x, int64_t stretch,
                         bool invariant, int plan_tiles) {
    // The last run that does not begin behind x.
    int low = 0, high = kThreads;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (x < run_starts[middle]) {
            high = middle;
        } else {
            low = middle;
        }
    }
    int64_t start = run_starts[low];
    for (int i = low * run;; ++i) {
        const int tiles = unit_tiles(p, i);
        const Cut c = cut(tiles, invariant);
        const int64_t end = start + extent(tiles, c).line;
        if (x < end) {
            const int64_t tile = tile_at(tiles, c, invariant, x - start, stretch);
            return tile == 0 || tile < tiles ? border_at(p, i, tile, plan_tiles) : border_at(p, i + 1, 0, plan_tiles);
        }
        start = end;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    flashmla_plan(const __grid_constant__ PlanParams p) {
    __shared__ Border borders[kMaxPartitions + 1];
    __shared__ int64_t run_starts[kThreads];
    static_assert(kMaxPartitions <= kThreads);
    const bool invariant = p.batch_invariant != 0;
    const int run = (p.b + kThreads - 1) / kThreads;
    const int begin = min(int64_t(threadIdx.x) * run, int64_t(p.b)), end = min(begin + run, p.b);
    grid_dependency_launch();
    grid_dependency_wait();

    Extent sum = {};
    const int first_tiles = unit_tiles(p, 0);
    bool uniform = true;
    for (int i = begin; i < end; ++i) {
        const int tiles = unit_tiles(p, i);
        uniform &= tiles == first_tiles;
        sum = sum + extent(tiles, cut(tiles, invariant));
    }
    Extent total;
    const Extent start = exclusive_scan(sum, total);
    run_starts[threadIdx.x] = start.line;
    int64_t stretch = max((total.line + p.partitions - 1) / p.partitions, int64_t(kMinStretch));
    uniform = __syncthreads_and(uniform);
    int equal_pieces = 0;
    if (uniform && !invariant) {
        // Whole requests, unless splitting them saves more than it costs; or equal pieces.
        const int64_t whole = ((int64_t(p.b) + p.partitions - 1) / p.partitions) * (first_tiles + int64_t(kRequestCost));
        if (whole <= stretch + kSplitCost) {
            stretch = whole;
        } else if (first_tiles >= kMinSplitTiles && p.partitions / 2 >= p.b) {
            const int most = p.partitions / p.b;
            const int64_t longest = max(int64_t((first_tiles - 1) / most + 1), min(int64_t(kMinPieceTiles), stretch));
            if (longest <= stretch) equal_pieces = int((first_tiles - 1) / longest) + 1;
        }
    }

    const int plan_tiles = int(min(total.tiles, int64_t(INT32_MAX)));
    for (int part = threadIdx.x; part <= p.partitions; part += kThreads) {
        const int64_t x = part * stretch;
        Border at = border_at(p, p.b, 0, plan_tiles);
        if (equal_pieces > 0) {
            const int request = part / equal_pieces, piece = part - request * equal_pieces;
            if (part < p.partitions) at = border_at(p, request, int64_t(piece) * first_tiles / equal_pieces, plan_tiles);
        } else if (part < p.partitions && x < total.line) {
            at = border(p, run_starts, run, x, stretch, invariant, plan_tiles);
        }
        borders[part] = at;
        reinterpret_cast<Border*>(p.borders)[part] = at;
    }
    __syncthreads();

    SplitPlan* const splits = reinterpret_cast<SplitPlan*>(p.splits);
    if (!invariant) {
        // Where the first cut of a request is. Cuts inside a request follow one another: no partition between
        // them is empty.
        const int cut = threadIdx.x;
        bool first = false;
        if (cut > 0 && cut < p.partitions) {
            const Border at = borders[cut], before = borders[cut - 1];
            first = at.tile > 0 && !(before.request == at.request && before.tile > 0);
        }
        int count;
        const int index = exclusive_count(first, count);
        if (first) {
            const int request = borders[cut].request;
            // The last border before the next request: none lies at tile 2^31 - 1.
            const int last = last_not_after(borders, p.partitions, {request, INT32_MAX});
            splits[1 + index] = {request, last - cut + 2, slot_of({}, p.b, p.partitions, request, cut - 1, 0), cut - 1};
        }
        if (threadIdx.x == 0) splits[0] = {count};
        return;
    }
    int slots = start.slots, index = start.splits;
    for (int i = begin; i < end; ++i) {
        const Cut c = cut(unit_tiles(p, i), invariant);
        const bool split = c.pieces > 1;
        reinterpret_cast<RequestPlan*>(p.requests)[i] = {slots, split ? c.piece_tiles : 0};
        if (!split) continue;
        splits[1 + index++] = {i, c.pieces, slots, slots + 1};
        slots += c.pieces;
    }
    if (threadIdx.x == 0) splits[0] = {total.splits};
}

}  // namespace flashmla
