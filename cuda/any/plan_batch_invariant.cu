// The batch-invariant plan of a split-KV decode: the same integers as src/schedule.rs, which defines and explains them.
//
// One thread block. The requests are dealt out in contiguous runs, one to a thread, and a scan over the runs tells where
// the pieces of each lie. So many pieces at a time as fit shared memory are sorted by size, then given to the
// partitions, a thread each: the next piece goes to the partition with the least load. Many do so at once, since those with
// the next larger loads would take their turns before any of these came again.
//
// If a partition gets much more than its share, and pieces may change hands, all is written anew: a thread a run writes its
// pieces, a thread a border looks up in which of them it lies.
#include "any/plan_sums.cuh"
#include "common/grid_dependency.cuh"
#include "common/invariant_cut.cuh"
#include "common/lengths.cuh"
#include "common/named_barrier.cuh"
#include "common/plan.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

__device__ __forceinline__ InvariantCut cut(const PlanParams& p, int request) {
    return {unit_tiles(p, request), p.invariant_tiles, p.invariant_most};
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
    int load = 0;  // less what all have, which is in `all`
    int64_t all = 0;
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
        mine.all += least / kMaxPartitions;
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

// The pieces of a run of requests, in order.
class Run {
  public:
    // `start`: sums over the runs before.
    __device__ __forceinline__ Run(const PlanParams& p, int begin, int end, const Sums<kSums>& start)
        : p_(p), end_(end), request_(begin), slot_(int(start.of[kSlots])), split_(int(start.of[kSplits])),
          number(int(start.of[kPieces])) {}

    // Goes through those with a number less than `limit`.
    template <class Take>
    __device__ __forceinline__ void until(int limit, Take take) {
#pragma unroll 1
        while (request_ < end_ && number < limit) {
            const InvariantCut c = cut(p_, request_);
            const int tokens = first_tokens(p_, Unit(request_, p_.tokens));
            if (piece_ == 0 && c.pieces > 1)
                reinterpret_cast<SplitPlan*>(p_.splits)[1 + split_++] = {request_, c.pieces, slot_, slot_ + 1};
#pragma unroll 1
            for (; piece_ < c.pieces && number < limit; ++piece_, ++number) {
                const int slot = c.pieces > 1 ? slot_++ : -1;
                take(DealtPiece{request_, c.begin(piece_), c.end(piece_), slot, -1, tokens});
            }
            if (piece_ < c.pieces) return;
            ++request_, piece_ = 0;
        }
    }

  private:
    const PlanParams& p_;
    const int end_;
    int request_, piece_ = 0, slot_, split_;

  public:
    int number;  // of the next piece
};

// Where a stretch begins: before a piece, or at a tile inside it.
struct Cut {
    int piece, tile;
};

// Where position `offset` of a request's part of the line cuts it.
__device__ __forceinline__ Cut cut_at(const PlanParams& p, const InvariantCut& c, int64_t offset) {
    // All pieces before the second to last are as long; that is no longer than they are.
    int piece = int(min(offset / (c.piece_tiles + p.request_cost), int64_t(c.pieces - 1)));
    if (piece == c.pieces - 2 && offset >= c.begin(piece + 1) + (piece + 1) * p.request_cost) ++piece;
    const int64_t within = offset - c.begin(piece) - (piece + 1) * p.request_cost;
    if (within < kMinPieceTiles) return {piece, 0};
    const int tile = c.begin(piece) + int(within);
    return c.end(piece) - tile >= kMinPieceTiles ? Cut{piece, tile} : Cut{piece + 1, 0};
}

// What threads tell each other of the stretches, where before the pieces were sorted.
struct Cuts {
    int64_t run_starts[kMaxThreads];
    int run_pieces[kMaxThreads];
    Cut cuts[kMaxPartitions + 1];
};

union Shared {
    struct {
        Key keys[kDealtPieces];
        DealtPiece in_order[kDealtPieces];
    } dealt;
    Cuts cuts;

    Shared() = default;
};

// The plan by which pieces change hands, in stretches of that length.
__device__ __forceinline__ void hand_over(const PlanParams& p, Cuts& shared, Run& run, const Sums<kSums>& start,
                                          const Sums<kSums>& total, int64_t stretch) {
    int64_t* const run_starts = shared.run_starts;
    int* const run_pieces = shared.run_pieces;
    Cut* const cuts = shared.cuts;
    DealtPiece* const pieces = reinterpret_cast<DealtPiece*>(p.pieces);
    const int thread = threadIdx.x, all = int(total.of[kPieces]);
    run_starts[thread] = start.of[kTiles] + start.of[kPieces] * p.request_cost;
    run_pieces[thread] = run.number;
    run.until(all, [&](DealtPiece piece) {
        const int at = all - 1 - run.number;
        piece.next = at + 1 < all ? at + 1 : -1;
        pieces[at] = piece;
    });
    __syncthreads();

    Cut mine = {all, 0};
    const int64_t x = thread * stretch;
    if (thread < p.partitions && x < total.of[kTiles] + total.of[kPieces] * p.request_cost) {
        const int in = run_at(run_starts, min(p.b, int(blockDim.x)), x);
        int64_t position = run_starts[in];
        mine.piece = run_pieces[in];
#pragma unroll 1
        for (int request = in * p.run; request < p.b; ++request) {
            const InvariantCut c = cut(p, request);
            const int64_t next = position + c.tiles + c.pieces * p.request_cost;
            if (x < next) {
                const Cut at = cut_at(p, c, x - position);
                mine = {mine.piece + at.piece, at.tile};
                break;
            }
            position = next;
            mine.piece += c.pieces;
        }
    }
    if (thread < p.partitions) cuts[thread] = mine;
    if (thread == 0) cuts[p.partitions] = {all, 0};
    __syncthreads();
    if (thread >= p.partitions) return;
    const Cut end = cuts[thread + 1];
    const int last = mine.piece + (mine.tile > 0), first = end.piece + (end.tile > 0);
    Start& at = reinterpret_cast<Start*>(p.borders)[thread];
    at.piece = first > last ? all - first : -1;
    at.tile = first > last ? end.tile : 0;
    if (first > last) pieces[all - 1 - last].next = -1;
}

__device__ __forceinline__ void make_plan(const PlanParams& p) {
    __shared__ Shared shared;
    __shared__ Loads loads;
    Key* const keys = shared.dealt.keys;
    DealtPiece* const in_order = shared.dealt.in_order;
    const int threads = blockDim.x, thread = threadIdx.x, dealing = (p.partitions + 31) / 32 * 32;
    static_assert(kMaxPartitions <= kMaxThreads);
    const int begin = min(thread * p.run, p.b), end = begin + min(p.run, p.b - begin);
    if (thread >= p.partitions && thread < kMaxPartitions) loads.begin()[thread] = ~0u;
    grid_dependency_launch();
    grid_dependency_wait();

    Sums<kSums> sums = {}, total;
    int longest = 0;
#pragma unroll 1
    for (int request = begin; request < end; ++request) {
        const InvariantCut c = cut(p, request);
        sums.of[kTiles] += c.tiles;
        sums.of[kPieces] += c.pieces;
        sums.of[kSlots] += c.pieces > 1 ? c.pieces : 0;
        sums.of[kSplits] += c.pieces > 1;
        longest = max(longest, c.longest());
    }
    const Sums<kSums> start = exclusive_scan(sums, total);
    // Here, since racecheck does not follow what threads tell each other after some of them met apart.
    const int64_t most = largest(longest) + p.request_cost;

    DealtPiece* const pieces = reinterpret_cast<DealtPiece*>(p.pieces);
    const int all = int(total.of[kPieces]);
    Run run(p, begin, end, start);
    Partition mine;
#pragma unroll 1
    for (int first = 0; first < all; first += kDealtPieces) {
        const int n = min(kDealtPieces, all - first);
        run.until(first + n, [&](const DealtPiece& piece) {
            const int at = run.number - first;
            in_order[at] = piece;
            keys[at] = Key(min(piece.tile_end - piece.tile_begin + int(p.request_cost), kMostCost), at);
        });
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
        if (thread < dealing) deal(p, keys, first, n, mine, loads, dealing);
        __syncthreads();
    }
    // The largest go to the partitions in order, before any is given a second one.
    if (thread < p.partitions) {
        const int tiles = int(min(total.of[kTiles], int64_t(INT32_MAX)));
        reinterpret_cast<Start*>(p.borders)[thread] = {thread < all ? thread : -1, 0, 0, tiles};
    }
    if (thread == 0) reinterpret_cast<SplitPlan*>(p.splits)[0] = {int(total.of[kSplits])};
    if (!p.hands_over) return;

    const int64_t line = total.of[kTiles] + total.of[kPieces] * p.request_cost;
    const int64_t stretch = max(over_partitions(p, line), most);
    const bool uneven = thread < p.partitions && mine.all + mine.load > stretch + kHandoverCost * p.request_cost;
    if (!__syncthreads_or(uneven)) return;
    Run anew(p, begin, end, start);
    hand_over(p, shared.cuts, anew, start, total, stretch);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kMaxThreads, 1)
    flashmla_plan_batch_invariant(const __grid_constant__ PlanParams p) {
    make_plan(p);
}

}  // namespace flashmla
