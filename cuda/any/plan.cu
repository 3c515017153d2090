// The default plan of a split-KV decode: the same integers as src/schedule.rs, which defines and explains them.
//
// One thread block. The requests are dealt out in contiguous runs, one to a thread; a scan over the runs gives each
// thread the position on the line at which its run begins. Then a thread a stretch looks up in which run, and in it in
// which request, the stretch begins. The split requests are listed by the threads of their last cuts.
//
// What a plan takes is instructions: a warp's each take a slot of their scheduler, and the first time they come from
// memory, too. So there are no more threads than partitions and few requests a thread ask for (src/gpu/plan.rs), what
// happens twice is a loop around one copy of its code, and nothing is unrolled.
#include "any/plan_sums.cuh"
#include "common/grid_dependency.cuh"
#include "common/lengths.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

// How many threads up to this one say yes, and in `total` all that do.
__device__ __forceinline__ int inclusive_count(bool yes, int& total) {
    __shared__ int warp_counts[kMaxThreads / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t votes = __ballot_sync(~0u, yes);
    if (lane == 0) warp_counts[warp] = __popc(votes);
    __syncthreads();
    const int theirs = lane < warps() ? warp_counts[lane] : 0;
    total = __reduce_add_sync(~0u, theirs);
    return __reduce_add_sync(~0u, lane < warp ? theirs : 0) + __popc(votes & (~0u >> (31 - lane)));
}

// Where position `offset` of a request's stretch of the line cuts it: at its end if not before its last tile.
__device__ __forceinline__ int64_t tile_at(const PlanParams& p, int tiles, int64_t offset, int64_t stretch) {
    const int64_t least = min(int64_t(kMinPieceTiles), stretch);
    const int64_t tile = max(offset - p.request_cost, int64_t(0));
    if (tile < least) return 0;
    return tiles - tile < least || tiles < kMinSplitTiles ? tiles : tile;
}

// The requests that have cuts, by the threads of the cuts 1 .. partitions - 1.
__device__ __forceinline__ void list_splits(const PlanParams& p, const Border* borders, SplitPlan* splits) {
    __shared__ int first_cuts[kMaxPartitions];
    const int cut = threadIdx.x;
    bool first = false, last = false;
    int request = 0;
    if (cut > 0 && cut < p.partitions) {
        const Border at = borders[cut], before = borders[cut - 1];
        request = at.request;
        // Cuts inside a request follow one another: no partition between them is empty.
        first = at.tile > 0 && !(before.request == request && before.tile > 0);
        last = at.tile > 0 && borders[cut + 1].request != request;
    }
    int count;
    const int index = inclusive_count(first, count) - 1;
    if (first) first_cuts[index] = cut;
    __syncthreads();
    if (last) {
        const int before = first_cuts[index] - 1;
        splits[1 + index] = {request, cut - before + 1, slot_of(p.b, p.partitions, request, before, 0), before};
    }
    if (cut == 0) splits[0] = {count};
}

__device__ __forceinline__ void make_plan(const PlanParams& p) {
    __shared__ Border borders[kMaxPartitions + 1];
    __shared__ int64_t run_starts[kMaxThreads];
    // No fewer than partitions.
    const int threads = blockDim.x, thread = threadIdx.x;
    static_assert(kMaxPartitions <= kMaxThreads);
    const int run = p.run;
    const int begin = min(thread * run, p.b), run_end = begin + min(run, p.b - begin);
    grid_dependency_launch();
    grid_dependency_wait();

    // Twice along requests: each thread along its run, for the sums; and that of a border from the run in which the border
    // lies, at `x` of the line, to the request.
    Sums<1> sums = {};
    int request = begin, end = run_end, tokens = 0, most_tiles = 0, plan_tiles = 0;
    int piece_begin = -1;  // where requests are cut into equal pieces: `x` is the request's start, and this its piece's
    int64_t line = 0, x = INT64_MAX, tile = 0, stretch = 0;
#pragma unroll 1
    for (int pass = 0;; ++pass) {
#pragma unroll 1
        for (; request < end; ++request) {
            const Unit unit(request, p.tokens);
            tokens = first_tokens(p, unit);
            const int tiles = tiles_of(tokens) + tiles_of(extra_tokens(p, unit));
            const int64_t next = line + tiles + p.request_cost;
            if (x < next) {
                tile = tile_at(p, tiles, x - line, stretch);
                if (tile == 0 || tile < tiles) break;
                // At the end of a request: the next one's start.
                x = next, tile = 0;
            }
            line = next;
            sums.of[0] += tiles + p.request_cost;
            most_tiles = max(most_tiles, tiles);
        }
        if (pass == 1) break;

        Sums<1> total;
        run_starts[thread] = exclusive_scan(sums, total).of[0];
        const int64_t all = total.of[0];
        stretch = max(over_partitions(p, all), int64_t(kMinStretch));
        const int longest = largest(most_tiles), each = p.partitions_each;
        const int64_t cost = longest + p.request_cost, whole = over_partitions(p, p.b) * cost;
        if (p.b * cost != all) {
            // Not all are as long as the longest.
        } else if (whole <= stretch + kSplitCost) {
            // Whole requests, unless splitting them saves more than it costs.
            stretch = whole;
        } else if (each >= 2 && longest >= kMinSplitTiles) {
            // Pieces of equal length, one a partition, where the longest is no longer than a stretch.
            const int most = max((longest - 1) / each + 1, int(min(int64_t(kMinPieceTiles), stretch)));
            if (most <= stretch) {
                const int pieces = (longest - 1) / most + 1, piece = thread % pieces;
                x = thread / pieces * cost;
                // piece * longest / pieces, which might not fit.
                piece_begin = piece * (longest / pieces) + piece * (longest % pieces) / pieces;
            }
        }
        plan_tiles = int(min(all - p.request_cost * p.b, int64_t(INT32_MAX)));
        // The border of this thread's partition, if there is one and work for it.
        if (piece_begin < 0) x = thread * stretch;
        if (thread >= p.partitions) break;
        request = p.b;
        if (x >= all) break;
        const int at = run_at(run_starts, min(p.b, threads), x);
        request = at * run, end = p.b, line = run_starts[at];
    }
    const Border line_end = {p.b, 0, 0, plan_tiles};
    Border* const to = reinterpret_cast<Border*>(p.borders);
    if (thread < p.partitions) {
        const Border at = request < p.b ? Border{request, int(tile) + max(piece_begin, 0), tokens, plan_tiles} : line_end;
        borders[thread] = at;
        to[thread] = at;
    }
    if (thread == 0) borders[p.partitions] = to[p.partitions] = line_end;

    __syncthreads();
    list_splits(p, borders, reinterpret_cast<SplitPlan*>(p.splits));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1) flashmla_plan(const __grid_constant__ PlanParams p) {
    make_plan(p);
}

}  // namespace flashmla
