// The batch-invariant plan of a split-KV decode: the same integers as src/schedule.rs, which defines and explains them.
//
// One thread block. The requests are dealt out in contiguous runs, one to a thread, and a scan over the runs tells where
// the pieces of each lie. So many pieces at a time as fit shared memory are sorted by size, then given to the
// partitions, a thread each: the next piece goes to the partition with the least load. Many do so at once, since those with
// the next larger loads would take their turns before any of these came again.
#include "any/plan_sums.cuh"
#include "common/grid_dependency.cuh"
#include "common/lengths.cuh"
#include "common/named_barrier.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

// How a request is cut: into pieces of so many tiles, of which the last has others.
struct Cut {
    int tiles, pieces, piece_tiles, last_tiles;

    __device__ __forceinline__ int begin(int piece) const {
        return piece < pieces - 1 ? piece * piece_tiles : tiles - last_tiles;
    }
};

__device__ __forceinline__ Cut cut(const PlanParams& p, int request) {
    const int tiles = unit_tiles(p, request);
    if (tiles <= p.invariant_tiles) return {tiles, 1, tiles, tiles};
    const int piece = max(p.invariant_tiles, (tiles - 1) / p.invariant_most + 1);
    const int pieces = (tiles - 1) / piece + 1, rest = tiles - (pieces - 1) * piece;
    return {tiles, pieces, piece, rest < piece / 4 ? (piece + rest) / 2 : rest};
}

constexpr int kDealing = 1;  // number of a barrier

// What is summed over requests: tiles, pieces, and of requests that are split, accumulators and how many they are.
enum { kTiles, kPieces, kSlots, kSplits, kSums };

// A piece in what is sorted: the largest first, those as large in the order of the requests.
struct Key {
    uint32_t bits;

    static constexpr int kIndexBits = 10;
    static_assert(1 << kIndexBits == kDealtPieces && kMostCost <= 1 << (31 - kIndexBits), "a cost and an index fit");

    Key() = default;
    __device__ __forceinline__ Key(int cost, int index) : bits(uint32_t(kMostCost - cost) << kIndexBits | index) {}
    __device__ __forceinline__ int cost() const { return kMostCost - int(bits >> kIndexBits); }
    __device__ __forceinline__ int index() const { return bits & (kDealtPieces - 1); }

    static __device__ __forceinline__ Key behind_all() { return Key(0, 0); }
};

// Sorts `n` keys, a power of two, by all threads: bitonic. What a warp compares in steps of up to 32 lies in 64 keys that are
// its own.
__device__ __forceinline__ void sort(Key* keys, int n) {
#pragma unroll 1
    for (int size = 2; size <= n; size *= 2) {
#pragma unroll 1
        for (int step = size / 2; step > 0; step /= 2) {
#pragma unroll 1
            for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
                const int low = 2 * i - (i & (step - 1));
                const Key a = keys[low], b = keys[low + step];
                if ((a.bits > b.bits) == ((low & size) == 0)) keys[low] = b, keys[low + step] = a;
            }
            if (step > 32 || (step == 1 && size > 32)) {
                __syncthreads();
            } else {
                __syncwarp();
            }
        }
    }
    __syncthreads();
}

// The loads of the partitions in shared memory, four to a word; behind the last they are larger than any.
struct Loads {
    uint4 words[kMaxPartitions / 4];

    __device__ __forceinline__ uint32_t* begin() { return reinterpret_cast<uint32_t*>(words); }
};

// The partition of a thread, if there is one: the piece it was given last, and how much all of them are.
struct Partition {
    int last = -1;
    int load = 0;  // less what all have
};

// Gives the pieces out of `keys`, which are those from `begin` on. By the first `threads`, whole warps that have a partition.
__device__ __forceinline__ void deal(const PlanParams& p, const Key* keys, int begin, int n, Partition& mine, Loads& loads,
                                     int threads) {
    DealtPiece* const pieces = reinterpret_cast<DealtPiece*>(p.pieces);
    const int thread = threadIdx.x;
    const bool active = thread < p.partitions;
    // Loads that are as large are ordered by partition. They fit: they are less than what all have and twice a cost.
    static_assert(2 * int64_t(kMostCost) * kMaxPartitions <= int64_t(1) << 31);
    const auto ordered = [](int load, int partition) { return uint32_t(load) * kMaxPartitions + partition; };
#pragma unroll 1
    for (int done = 0; done < n;) {
        const uint32_t own = ordered(mine.load, thread);
        if (active) loads.begin()[thread] = own;
        named_barrier_sync(kDealing, threads);
        uint32_t least = own;
        int before = 0;
#pragma unroll 4
        for (int i = 0; i < p.partitions; i += 4) {
            const uint4 others = loads.words[i / 4];
            before += (others.x < own) + (others.y < own) + (others.z < own) + (others.w < own);
            least = min(min(min(least, others.x), min(others.y, others.z)), others.w);
        }
        if (active) mine.load -= least / kMaxPartitions;
        const int next = done + before;
        bool given = false;
        if (active && next < n) {
            // With less than that, nobody who took a piece before would come again before this one: he would have as
            // much at least.
            const int cost = keys[next].cost();
            given = mine.load < cost;
            if (given) {
                mine.load += cost;
                if (mine.last >= 0) pieces[mine.last].next = begin + next;
                mine.last = begin + next;
            }
        }
        done += named_barrier_count(kDealing, threads, given);
    }
}

__device__ __forceinline__ void make_plan(const PlanParams& p) {
    __shared__ Key keys[kDealtPieces];
    __shared__ DealtPiece in_order[kDealtPieces];
    __shared__ Loads loads;
    const int threads = blockDim.x, thread = threadIdx.x, dealing = (p.partitions + 31) / 32 * 32;
    static_assert(kMaxPartitions <= kMaxThreads);
    const int begin = min(thread * p.run, p.b), end = begin + min(p.run, p.b - begin);
    if (thread >= p.partitions && thread < kMaxPartitions) loads.begin()[thread] = ~0u;
    grid_dependency_launch();
    grid_dependency_wait();

    Sums<kSums> sums = {}, total;
#pragma unroll 1
    for (int request = begin; request < end; ++request) {
        const Cut c = cut(p, request);
        sums.of[kTiles] += c.tiles;
        sums.of[kPieces] += c.pieces;
        sums.of[kSlots] += c.pieces > 1 ? c.pieces : 0;
        sums.of[kSplits] += c.pieces > 1;
    }
    const Sums<kSums> start = exclusive_scan(sums, total);

    SplitPlan* const splits = reinterpret_cast<SplitPlan*>(p.splits);
    DealtPiece* const pieces = reinterpret_cast<DealtPiece*>(p.pieces);
    Border* const borders = reinterpret_cast<Border*>(p.borders);
    const int all = int(total.of[kPieces]);
    // Of the run's next piece: its number of all, and in its request.
    int at = int(start.of[kPieces]), request = begin, piece = 0;
    int slot = int(start.of[kSlots]), split = int(start.of[kSplits]);
    Partition mine;
#pragma unroll 1
    for (int first = 0; first < all; first += kDealtPieces) {
        const int n = min(kDealtPieces, all - first);
#pragma unroll 1
        while (request < end && at < first + n) {
            const Cut c = cut(p, request);
            if (piece == 0 && c.pieces > 1) splits[1 + split++] = {request, c.pieces, slot, slot + 1};
#pragma unroll 1
            for (; piece < c.pieces && at < first + n; ++piece, ++at) {
                const int tile = c.begin(piece), stop = piece + 1 < c.pieces ? c.begin(piece + 1) : c.tiles;
                in_order[at - first] = {request, tile, stop, c.pieces > 1 ? slot++ : -1, -1};
                keys[at - first] = Key(min(stop - tile + int(p.request_cost), kMostCost), at - first);
            }
            if (piece < c.pieces) break;
            ++request, piece = 0;
        }
        int padded = n;
        if (n & (n - 1)) padded = 1 << (32 - __clz(n));
#pragma unroll 1
        for (int i = n + thread; i < padded; i += threads) keys[i] = Key::behind_all();
        __syncthreads();
        sort(keys, padded);
#pragma unroll 1
        for (int i = thread; i < n; i += threads) pieces[first + i] = in_order[keys[i].index()];
        // What is written of a piece again is its successor.
        __syncthreads();
        if (first == 0) {
            // The largest go to the partitions in order, before any is given a second one.
            Border at = {p.b, 0, 0, int(min(total.of[kTiles], int64_t(INT32_MAX)))};
            if (thread == 0) borders[p.partitions] = at;
            if (thread < n) {
                const DealtPiece& dealt = in_order[keys[thread].index()];
                at.request = dealt.request, at.tile = dealt.tile_begin;
                at.tokens = first_tokens(p, Unit(dealt.request, p.tokens));
            }
            if (thread < p.partitions) borders[thread] = at;
        }
        if (thread < dealing) deal(p, keys, first, n, mine, loads, dealing);
        __syncthreads();
    }
    if (thread == 0) splits[0] = {int(total.of[kSplits])};
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1)
    flashmla_plan_batch_invariant(const __grid_constant__ PlanParams p) {
    make_plan(p);
}

}  // namespace flashmla
