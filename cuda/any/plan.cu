// The plan of a split-KV decode: the same integers as src/schedule.rs, which defines and explains them.
//
// One thread block. The requests are dealt out in contiguous runs, one to a thread; a scan over the
// runs gives each thread the position on the line at which its run begins. The thread in whose request
// a stretch begins writes that border, so that no thread looks anything up. Then each request finds the
// stretches of its first and last tile in the borders.
#include "common/grid_dependency.cuh"
#include "common/lengths.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kThreads = 1024;

// What a request takes on the line, and how many accumulators.
struct Extent {
    int64_t line;
    int slots;
};

__device__ __forceinline__ Extent operator+(Extent a, Extent b) { return {a.line + b.line, a.slots + b.slots}; }

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
    return {tiles + int64_t(kRequestCost) * c.pieces, c.pieces > 1 ? c.pieces : 0};
}

// Where position `offset` of a request's stretch of the line cuts it.
__device__ Border border_at(int request, int tiles, Cut c, bool batch_invariant, int64_t offset) {
    int64_t tile;
    if (batch_invariant) {
        const int64_t step = c.piece_tiles + kRequestCost;
        tile = (offset + step / 2) / step * c.piece_tiles;
    } else {
        tile = max(offset - kRequestCost, int64_t(0));
        if (tile < kMinPieceTiles) {
            tile = 0;
        } else if (tiles - tile < kMinPieceTiles) {
            tile = tiles;
        }
    }
    if (tile > 0 && tile >= tiles) return {request + 1, 0};
    return {request, int(tile)};
}

// Sums over the threads before this one; `total` of all.
__device__ Extent exclusive_scan(Extent mine, Extent& total) {
    __shared__ Extent warp_sums[kThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto scan_warp = [lane](Extent x) {
        for (int step = 1; step < 32; step *= 2) {
            const Extent left = {__shfl_up_sync(~0u, x.line, step), __shfl_up_sync(~0u, x.slots, step)};
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
    const Extent before = warp == 0 ? Extent{0, 0} : warp_sums[warp - 1];
    return {before.line + inclusive.line - mine.line, before.slots + inclusive.slots - mine.slots};
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

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 1)
    flashmla_plan(const __grid_constant__ PlanParams p) {
    __shared__ Border borders[kMaxPartitions + 1];
    const bool invariant = p.batch_invariant != 0;
    const int run = (p.b + kThreads - 1) / kThreads;
    const int begin = min(int64_t(threadIdx.x) * run, int64_t(p.b)), end = min(begin + run, p.b);
    // Borders that no request's thread writes lie behind the last request.
    for (int i = threadIdx.x; i <= p.partitions; i += kThreads) borders[i] = {p.b, 0};
    grid_dependency_launch();
    grid_dependency_wait();

    Extent sum = {0, 0};
    const int first_tiles = unit_tiles(p, 0);
    bool uniform = true;
    for (int i = begin; i < end; ++i) {
        const int tiles = unit_tiles(p, i);
        uniform &= tiles == first_tiles;
        sum = sum + extent(tiles, cut(tiles, invariant));
    }
    Extent total;
    const Extent start = exclusive_scan(sum, total);
    int64_t stretch = max((total.line + p.partitions - 1) / p.partitions, int64_t(kMinStretch));
    uniform = __syncthreads_and(uniform);
    if (uniform && !invariant) {
        // Whole requests, unless splitting them saves more than it costs.
        const int64_t whole = ((int64_t(p.b) + p.partitions - 1) / p.partitions) * (first_tiles + int64_t(kRequestCost));
        if (whole <= stretch + kSplitCost) stretch = whole;
    }

    Extent at = start;
    for (int i = begin; i < end; ++i) {
        const int tiles = unit_tiles(p, i);
        const Cut c = cut(tiles, invariant);
        const Extent next = at + extent(tiles, c);
        for (int64_t part = (at.line + stretch - 1) / stretch; part < p.partitions && part * stretch < next.line; ++part)
            borders[part] = border_at(i, tiles, c, invariant, part * stretch - at.line);
        at = next;
    }
    __syncthreads();

    for (int i = threadIdx.x; i <= p.partitions; i += kThreads) reinterpret_cast<Border*>(p.borders)[i] = borders[i];
    int slots = start.slots;
    for (int i = begin; i < end; ++i) {
        RequestPlan plan;
        plan.first_partition = last_not_after(borders, p.partitions, {i, 0});
        // The last border before the next request: none lies at tile 2^31 - 1.
        plan.last_partition = last_not_after(borders, p.partitions, {i, INT32_MAX});
        plan.slot_base = plan.piece_tiles = 0;
        if (invariant) {
            const int tiles = unit_tiles(p, i);
            const Cut c = cut(tiles, invariant);
            plan.slot_base = slots;
            plan.piece_tiles = c.pieces > 1 ? c.piece_tiles : 0;
            slots += extent(tiles, c).slots;
        }
        reinterpret_cast<RequestPlan*>(p.requests)[i] = plan;
    }
}

}  // namespace flashmla
