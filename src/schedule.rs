//! Who computes what in a split-KV decode: the arithmetic of the plan, and the plan itself as the
//! oracle of the device kernel (`cuda/any/plan.cu`), which computes the same integers.
//!
//! The KV tokens of every request are cut into tiles of 64. All tiles of all requests form one
//! line, each request preceded by [`Work::request_cost`] tiles' worth of fixed work. `partitions` workers
//! get equal stretches of that line, so a stretch may begin and end inside a request; such a
//! request is *split*, its pieces go to accumulators (*slots*) and are combined afterwards.
//! Where all requests have as many tiles, they stay whole or are cut into equal pieces, if that takes no longer
//! ([`Uniform`]).
//!
//! A batch-invariant plan cuts a request only at positions that follow from its own length, so
//! its pieces, and with them the bits of its result, do not depend on the batch.

use crate::problem::dense_decode::Shape;
use crate::problem::sparse_decode;

/// KV tokens of one tile.
pub const TILE_TOKENS: i64 = 64;
/// Query rows of one thread block: the M of a warpgroup's matrix product.
pub const BLOCK_ROWS: i64 = 64;
/// Fixed work of a request (loading Q, writing the output), in tiles.
pub const REQUEST_COST: i64 = 4;
/// The same in dense decode of few rows: up to so many. Their tiles take as long, but their Q and output are less
/// (cuda/NOTES.md).
pub const FEW_ROWS_REQUEST_COSTS: [(i64, i64); 2] = [(16, 1), (32, 2)];
/// A cut that would leave fewer tiles than this on one side, and less than a stretch, moves to the request's border.
pub const MIN_PIECE_TILES: i64 = 2;
/// A request of fewer tiles is not cut: combining takes longer than what it saves.
pub const MIN_SPLIT_TILES: i64 = 4;
/// Shorter stretches than this leave partitions idle.
pub const MIN_STRETCH: i64 = 1;
/// What it costs to split requests (their pieces are written in FP32, read, and combined), in tiles of each worker.
pub const SPLIT_COST: i64 = 4;
/// Batch-invariant plans: tiles of a piece of one row block, at least (of a request that is cut), and pieces of a
/// request, at most. Where a request takes several row blocks as many times fewer partitions compute its pieces, so
/// there need not be more of them.
pub const INVARIANT_PIECE_TILES: i64 = 32;
pub const INVARIANT_MAX_PIECES: i64 = 16;
/// Requests of more tiles have pieces of at least so many: two are enough to share out what is longer.
pub const INVARIANT_LONG_TILES: i64 = 64;
/// More partitions than this are never used (the plan kernel keeps their borders in shared memory).
pub const MAX_PARTITIONS: i64 = 1024;

/// What a plan divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Requests of the plan. Where query tokens attend to tokens of their own choice, each counts as one.
    pub requests: i64,
    /// Tiles of the longest request that there can be.
    pub max_tiles: i64,
    /// Fixed work of a request, in tiles.
    pub request_cost: i64,
    pub batch_invariant: bool,
    /// Tiles of a piece that a batch-invariant plan aims at.
    pub invariant_tiles: i64,
}

impl Work {
    /// Pieces of a request of `tiles` tiles in a batch-invariant plan.
    pub fn invariant_pieces(&self, tiles: i64) -> i64 {
        let least = if tiles > INVARIANT_LONG_TILES { INVARIANT_LONG_TILES } else { 0 };
        ceil_div(tiles, self.invariant_tiles.max(least)).clamp(1, INVARIANT_MAX_PIECES)
    }

    /// Requests that a plan can split: each has a cut of its own, or may be cut by its length.
    pub fn most_splits(&self, partitions: i64) -> i64 {
        if self.batch_invariant {
            self.requests
        } else {
            self.requests.min(partitions - 1)
        }
    }
}

impl From<&Shape> for Work {
    fn from(shape: &Shape) -> Work {
        Work {
            requests: if shape.layout.is_fp8() { shape.b * shape.s_q } else { shape.b },
            max_tiles: ceil_div(shape.max_tokens(), TILE_TOKENS),
            request_cost: if shape.layout.is_fp8() { REQUEST_COST } else { request_cost(shape.rows()) },
            batch_invariant: shape.batch_invariant,
            invariant_tiles: match shape.layout.is_fp8() {
                true => INVARIANT_PIECE_TILES,
                false => INVARIANT_PIECE_TILES * ceil_div(shape.rows(), BLOCK_ROWS).max(1),
            },
        }
    }
}

impl From<&sparse_decode::Shape> for Work {
    fn from(shape: &sparse_decode::Shape) -> Work {
        Work {
            requests: shape.units(),
            // Each list is cut by itself.
            max_tiles: ceil_div(shape.topk, TILE_TOKENS) + ceil_div(shape.extra_topk(), TILE_TOKENS),
            request_cost: REQUEST_COST,
            batch_invariant: shape.batch_invariant,
            invariant_tiles: INVARIANT_PIECE_TILES,
        }
    }
}

/// How a problem is laid over the multiprocessors of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Thread blocks that cover the rows of one (request, KV head).
    pub row_blocks: i64,
    /// Stretches of the plan.
    pub partitions: i64,
    /// Those of the device.
    pub multiprocessors: i64,
}

impl Grid {
    pub fn new(shape: &Shape, multiprocessors: i64) -> Grid {
        if shape.layout.is_fp8() {
            return Grid::of_heads(shape.h_q, multiprocessors);
        }
        let row_blocks = ceil_div(shape.rows(), BLOCK_ROWS).max(1);
        let partitions = (multiprocessors / row_blocks / shape.h_kv).clamp(1, MAX_PARTITIONS);
        Grid { row_blocks, partitions, multiprocessors }
    }

    /// Where each query token is a request of the plan: its rows are its heads.
    pub fn of_heads(h_q: i64, multiprocessors: i64) -> Grid {
        let row_blocks = ceil_div(h_q, BLOCK_ROWS).max(1);
        let partitions = (multiprocessors / row_blocks).clamp(1, MAX_PARTITIONS);
        Grid { row_blocks, partitions, multiprocessors }
    }
}

/// The start of a stretch: tile `tile` of request `request`; `request == b` is the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Border {
    pub request: i32,
    pub tile: i32,
}

/// How a batch-invariant plan cuts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestPlan {
    /// Slot of the first piece, of a request that is split.
    pub slot_base: i32,
    /// Tiles of a piece; 0: the request is whole.
    pub piece_tiles: i32,
}

/// A request that is split, as those need it who combine its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Split {
    pub request: i32,
    pub pieces: i32,
    /// Accumulator of the first piece, and those of the others, in a row.
    pub first_slot: i32,
    pub rest_slot: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// `partitions + 1` borders; stretch p is `borders[p] .. borders[p + 1]`.
    pub borders: Vec<Border>,
    /// All requests of a batch-invariant plan; others say nothing here.
    pub requests: Vec<RequestPlan>,
    /// The requests that are split, in order.
    pub splits: Vec<Split>,
}

impl Plan {
    fn request(&self, i: i32) -> RequestPlan {
        self.requests.get(i as usize).copied().unwrap_or_default()
    }
}

/// A contiguous run of tiles of one request, computed by one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub partition: i32,
    pub request: i32,
    pub tiles: (i32, i32),
    /// Accumulator of the piece; `None`: it is the whole request and writes the output.
    pub slot: Option<i32>,
}

/// Tiles of a request of `len` tokens, the length clamped as the kernels do.
pub fn tiles(shape: &Shape, len: i32) -> i64 {
    ceil_div((len as i64).clamp(0, shape.max_tokens()), TILE_TOKENS)
}

/// Fixed work of a request of so many rows in dense decode, in tiles.
fn request_cost(rows: i64) -> i64 {
    FEW_ROWS_REQUEST_COSTS.iter().find(|(most, _)| rows <= *most).map_or(REQUEST_COST, |(_, cost)| *cost)
}

/// Makes the plan for the given lengths.
pub fn plan(shape: &Shape, partitions: i64, lens: &[i32]) -> Plan {
    let tiles: Vec<i64> = lens.iter().map(|l| tiles(shape, *l)).collect();
    plan_tiles(shape, partitions, &tiles)
}

/// Makes the plan for requests of so many tiles.
pub fn plan_tiles(work: impl Into<Work>, partitions: i64, tiles: &[i64]) -> Plan {
    let work = work.into();
    let (n, request_cost) = (tiles.len(), work.request_cost);
    let pieces = |t: i64| if work.batch_invariant { work.invariant_pieces(t) } else { 1 };
    let piece_tiles = |t: i64| ceil_div(t, pieces(t)).max(1);
    // A request's pieces after rounding up their size; each costs the fixed work once.
    let count = |t: i64| if work.batch_invariant { ceil_div(t, piece_tiles(t)).max(1) } else { 1 };

    let mut start = Vec::with_capacity(n + 1);
    let mut slot_base = Vec::with_capacity(n);
    let (mut line, mut slots) = (0i64, 0i64);
    for t in tiles {
        start.push(line);
        slot_base.push(slots);
        line += t + request_cost * count(*t);
        slots += if count(*t) > 1 { count(*t) } else { 0 };
    }
    start.push(line);

    let mut stretch = ceil_div(line, partitions).max(MIN_STRETCH);
    let mut equal_pieces = None;
    if let (false, Some(t)) = (work.batch_invariant, uniform(tiles)) {
        match Uniform::new(n as i64, partitions, t, request_cost) {
            Uniform::Whole { each } => stretch = each * (t + request_cost),
            Uniform::Pieces(pieces) => equal_pieces = Some((pieces, t)),
            Uniform::Stretches => {}
        }
    }
    let mut borders = Vec::with_capacity(partitions as usize + 1);
    for p in 0..=partitions {
        borders.push(match equal_pieces {
            Some((pieces, t)) if p < n as i64 * pieces => {
                Border { request: (p / pieces) as i32, tile: (p % pieces * t / pieces) as i32 }
            }
            Some(_) => Border { request: n as i32, tile: 0 },
            None => border(&work, &start, tiles, p * stretch, stretch, piece_tiles),
        });
    }
    borders[partitions as usize] = Border { request: n as i32, tile: 0 };

    let (mut requests, mut splits) = (Vec::new(), Vec::new());
    if work.batch_invariant {
        for (i, t) in tiles.iter().enumerate() {
            let (request, slot_base, pieces) = (i as i32, slot_base[i] as i32, count(*t) as i32);
            requests.push(RequestPlan { slot_base, piece_tiles: if pieces > 1 { piece_tiles(*t) as i32 } else { 0 } });
            if pieces > 1 {
                splits.push(Split { request, pieces, first_slot: slot_base, rest_slot: slot_base + 1 });
            }
        }
    } else {
        for cut in 1..partitions as usize {
            let (at, before) = (borders[cut], borders[cut - 1]);
            if at.tile == 0 || (before.request == at.request && before.tile > 0) {
                continue;
            }
            // Cuts inside a request follow one another: no partition between them is empty.
            let (request, first) = (at.request, cut as i32 - 1);
            let last = borders[..partitions as usize].partition_point(|b| b.request <= request) as i32 - 1;
            splits.push(Split {
                request,
                pieces: last - first + 1,
                first_slot: slot(work, partitions, request, &RequestPlan::default(), first, 0),
                rest_slot: first,
            });
        }
    }
    Plan { borders, requests, splits }
}

/// The tiles of every request, if all have as many.
fn uniform(tiles: &[i64]) -> Option<i64> {
    let first = *tiles.first()?;
    tiles.iter().all(|t| *t == first).then_some(first)
}

/// How a default plan cuts requests of as many tiles each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uniform {
    /// Not, unless splitting them saves more than it costs: `each` requests a partition.
    Whole { each: i64 },
    /// Each into so many pieces of equal length, one a partition, where the longest is no longer than a stretch.
    Pieces(i64),
    /// As others.
    Stretches,
}

impl Uniform {
    /// Of `requests` requests of `tiles` tiles, whose fixed work is that of `request_cost` more.
    pub fn new(requests: i64, partitions: i64, tiles: i64, request_cost: i64) -> Uniform {
        let stretch = ceil_div(requests * (tiles + request_cost), partitions).max(MIN_STRETCH);
        let each = ceil_div(requests, partitions);
        if each * (tiles + request_cost) <= stretch + SPLIT_COST {
            return Uniform::Whole { each };
        }
        if tiles >= MIN_SPLIT_TILES && partitions >= 2 * requests {
            let longest = ceil_div(tiles, partitions / requests).max(MIN_PIECE_TILES.min(stretch));
            if longest <= stretch {
                return Uniform::Pieces(ceil_div(tiles, longest));
            }
        }
        Uniform::Stretches
    }
}

/// Where position `x` of the line cuts it.
fn border(work: &Work, start: &[i64], tiles: &[i64], x: i64, stretch: i64, piece_tiles: impl Fn(i64) -> i64) -> Border {
    let n = tiles.len();
    let i = start.partition_point(|s| *s <= x).saturating_sub(1);
    if i >= n {
        return Border { request: n as i32, tile: 0 };
    }
    let (t, off) = (tiles[i], x - start[i]);
    let tile = if work.batch_invariant {
        // To the nearest border between pieces; each piece is preceded by its fixed work.
        let step = piece_tiles(t) + work.request_cost;
        (off + step / 2) / step * piece_tiles(t)
    } else {
        let least = MIN_PIECE_TILES.min(stretch);
        let tile = (off - work.request_cost).max(0);
        if tile < least {
            0
        } else if t - tile < least || t < MIN_SPLIT_TILES {
            t
        } else {
            tile
        }
    };
    if tile > 0 && tile >= t {
        Border { request: i as i32 + 1, tile: 0 }
    } else {
        Border { request: i as i32, tile: tile as i32 }
    }
}

/// Slots that plans of up to `requests` requests of up to `max_tiles` tiles can need.
pub fn max_slots(work: impl Into<Work>, partitions: i64) -> i64 {
    let work = work.into();
    if work.batch_invariant {
        let pieces = work.invariant_pieces(work.max_tiles);
        return if pieces > 1 { work.requests * pieces } else { 0 };
    }
    if work.max_tiles < MIN_SPLIT_TILES {
        return 0;
    }
    (partitions - 1) + work.requests.min(partitions - 1)
}

/// The slot of a piece that begins at `tile` in partition `p`, of a split request.
pub fn slot(work: impl Into<Work>, partitions: i64, request: i32, rec: &RequestPlan, p: i32, tile: i32) -> i32 {
    if rec.piece_tiles > 0 {
        return rec.slot_base + tile / rec.piece_tiles;
    }
    let cuts = partitions as i32 - 1;
    if tile > 0 {
        // One slot for the piece behind each cut ...
        p - 1
    } else if work.into().requests < partitions {
        // ... and one for the first piece of each request, or partition where those are fewer.
        cuts + request
    } else {
        cuts + p
    }
}

/// Every piece of a plan, in the order in which the workers compute them.
pub fn pieces(shape: &Shape, partitions: i64, plan: &Plan, lens: &[i32]) -> Vec<Piece> {
    let tiles: Vec<i64> = lens.iter().map(|l| tiles(shape, *l)).collect();
    pieces_of_tiles(shape, partitions, plan, &tiles)
}

/// As [`pieces`], for requests of so many tiles.
pub fn pieces_of_tiles(work: impl Into<Work>, partitions: i64, plan: &Plan, tiles: &[i64]) -> Vec<Piece> {
    let work = work.into();
    let mut all = Vec::new();
    for p in 0..partitions as usize {
        let (mut at, end) = (plan.borders[p], plan.borders[p + 1]);
        while at < end {
            let rec = &plan.request(at.request);
            let total = tiles[at.request as usize] as i32;
            let mut stop = if at.request == end.request { end.tile } else { total };
            if rec.piece_tiles > 0 {
                stop = stop.min((at.tile / rec.piece_tiles + 1) * rec.piece_tiles).min(total);
            }
            let whole = at.tile == 0 && stop == total;
            all.push(Piece {
                partition: p as i32,
                request: at.request,
                tiles: (at.tile, stop),
                slot: if whole { None } else { Some(slot(work, partitions, at.request, rec, p as i32, at.tile)) },
            });
            at = if stop == total {
                Border { request: at.request + 1, tile: 0 }
            } else {
                Border { request: at.request, tile: stop }
            };
        }
    }
    all
}

pub fn ceil_div(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}
