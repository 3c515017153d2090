//! Who computes what in a split-KV decode: the arithmetic of the plan, and the plan itself as the
//! oracle of the device kernels (`cuda/any/plan.cu`, `cuda/any/plan_batch_invariant.cu`), which compute the same integers.
//!
//! The KV tokens of every request are cut into tiles of 64. All tiles of all requests form one
//! line, each request preceded by [`Work::request_cost`] tiles' worth of fixed work. `partitions` workers
//! get equal stretches of that line, so a stretch may begin and end inside a request; such a
//! request is *split*, its pieces go to accumulators (*slots*) and are combined afterwards.
//! Where all requests have as many tiles, they stay whole or are cut into equal pieces, if that takes no longer
//! ([`Uniform`]).
//!
//! A batch-invariant plan cuts a request only at positions that follow from its own length, so
//! its pieces, and with them the bits of its result, do not depend on the batch. Who computes which piece may depend on
//! the batch: pieces are dealt out by size ([`deal`]), or where that leaves workers idle, and the kernels can, a worker
//! begins a piece and another one completes it ([`hand_over`]): it continues on the accumulator that the first one left,
//! bit by bit as if alone.

use crate::problem::dense_decode::Shape;
use crate::problem::sparse_decode;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
/// How batch-invariant plans cut the index lists of sparse decode, and requests of few rows in dense decode.
pub const INVARIANT_CUTS_SPARSE: InvariantCuts = InvariantCuts { tiles: 32, most: 16 };
pub const INVARIANT_CUTS_FEW_ROWS: InvariantCuts = InvariantCuts { tiles: 32, most: 32 };
/// Rows that are few: up to so many.
pub const FEW_ROWS: i64 = 32;
/// What it costs a worker that pieces change hands: as much as so many pieces begin and end (cuda/NOTES.md).
pub const HANDOVER_COST: i64 = 3;
/// A shorter piece does not change hands.
pub const MIN_HANDED_OVER_TILES: i64 = 2 * MIN_PIECE_TILES;
/// Pieces of a batch-invariant plan that are dealt out together: as many as the plan kernel sorts in shared memory.
pub const DEALT_PIECES: i64 = 1024;
/// What a piece counts when it is dealt out, at most, in tiles: so that the plan kernel can do with 32 bits.
pub const MOST_COST: i64 = 1 << 20;
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
    /// In a batch-invariant plan: whether a worker can complete a piece that another one began.
    pub hands_over: bool,
    /// How a batch-invariant plan cuts requests.
    pub invariant: InvariantCuts,
}

/// How a batch-invariant plan cuts a request: into pieces of one size and a rest, or if that would be less than a quarter, two
/// halves of it and the piece before. (Pieces of different sizes can be dealt out more evenly than equal ones.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvariantCuts {
    /// Tiles of a piece, at least; requests of no more are not cut.
    pub tiles: i64,
    /// Pieces of a request, at most.
    pub most: i64,
}

impl InvariantCuts {
    /// Pieces of a request of so many tiles; longer ones have no fewer.
    pub fn count(&self, tiles: i64) -> i64 {
        ceil_div(tiles, self.piece(tiles)).max(1)
    }

    /// The tiles of each piece, in order.
    pub fn of(&self, tiles: i64) -> impl Iterator<Item = (i64, i64)> {
        let (piece, count) = (self.piece(tiles), self.count(tiles));
        let rest = tiles - (count - 1) * piece;
        let last = if count > 1 && rest < piece / 4 { (piece + rest) / 2 } else { rest };
        let begin = move |i| if i + 1 < count { i * piece } else { tiles - last };
        (0..count).map(move |i| (begin(i), if i + 1 < count { begin(i + 1) } else { tiles }))
    }

    fn piece(&self, tiles: i64) -> i64 {
        self.tiles.max(ceil_div(tiles, self.most))
    }
}

impl Work {
    /// Pieces that a batch-invariant plan can have.
    pub fn most_pieces(&self) -> i64 {
        self.requests * self.invariant.count(self.max_tiles)
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
            hands_over: !shape.layout.is_fp8() && ceil_div(shape.max_tokens(), TILE_TOKENS) >= MIN_HANDED_OVER_TILES,
            invariant: invariant_cuts(if shape.layout.is_fp8() { shape.h_q } else { shape.rows() }),
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
            hands_over: false,
            invariant: INVARIANT_CUTS_SPARSE,
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

/// Where a partition begins in a batch-invariant plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its first piece; -1: there is none.
    pub piece: i32,
    /// If not 0 it leaves that piece at this tile to the partition behind, which completes it when all else is done.
    pub tile: i32,
}

/// A piece as a batch-invariant plan deals it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DealtPiece {
    pub request: i32,
    pub tiles: (i32, i32),
    /// As in [`Piece`]; -1: there is none.
    pub slot: i32,
    /// The next piece of the same partition, which lies further behind; -1: there is none.
    pub next: i32,
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
    pub work: Assignment,
    /// The requests that are split, in order.
    pub splits: Vec<Split>,
}

/// What each partition computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// Default plans: `partitions + 1` borders; stretch p is `borders[p] .. borders[p + 1]`.
    Stretches(Vec<Border>),
    /// Batch-invariant plans: where each partition starts, and all pieces.
    Pieces(Vec<Start>, Vec<DealtPiece>),
}

/// A contiguous run of tiles of one request, computed by one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub partition: i32,
    pub request: i32,
    pub tiles: (i32, i32),
    /// Accumulator of the piece; `None`: it is the whole request and writes the output.
    pub slot: Option<i32>,
    /// It continues what the partition before began.
    pub resumes: bool,
    /// The partition behind continues it.
    pub suspends: bool,
}

/// Tiles of a request of `len` tokens, the length clamped as the kernels do.
pub fn tiles(shape: &Shape, len: i32) -> i64 {
    ceil_div((len as i64).clamp(0, shape.max_tokens()), TILE_TOKENS)
}

/// Fixed work of a request of so many rows in dense decode, in tiles.
fn request_cost(rows: i64) -> i64 {
    FEW_ROWS_REQUEST_COSTS.iter().find(|(most, _)| rows <= *most).map_or(REQUEST_COST, |(_, cost)| *cost)
}

/// Of requests of so many rows in dense decode. Where a request takes several row blocks as many times fewer partitions compute
/// its pieces, so there need not be more of them. Of few rows a piece costs little more than its tiles (cuda/NOTES.md).
pub fn invariant_cuts(rows: i64) -> InvariantCuts {
    if rows <= FEW_ROWS {
        return INVARIANT_CUTS_FEW_ROWS;
    }
    InvariantCuts { tiles: 32 * ceil_div(rows, BLOCK_ROWS).max(2), most: 16 }
}

/// Makes the plan for the given lengths.
pub fn plan(shape: &Shape, partitions: i64, lens: &[i32]) -> Plan {
    let tiles: Vec<i64> = lens.iter().map(|l| tiles(shape, *l)).collect();
    plan_tiles(shape, partitions, &tiles)
}

/// Makes the plan for requests of so many tiles.
pub fn plan_tiles(work: impl Into<Work>, partitions: i64, tiles: &[i64]) -> Plan {
    let work = work.into();
    match work.batch_invariant {
        true => invariant(&work, partitions, tiles),
        false => stretches(&work, partitions, tiles),
    }
}

fn stretches(work: &Work, partitions: i64, tiles: &[i64]) -> Plan {
    let (n, request_cost) = (tiles.len(), work.request_cost);
    let mut start = Vec::with_capacity(n + 1);
    let mut line = 0i64;
    for t in tiles {
        start.push(line);
        line += t + request_cost;
    }
    start.push(line);

    let mut stretch = ceil_div(line, partitions).max(MIN_STRETCH);
    let mut equal_pieces = None;
    if let Some(t) = uniform(tiles) {
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
            None => border(work, &start, tiles, p * stretch, stretch),
        });
    }
    borders[partitions as usize] = Border { request: n as i32, tile: 0 };

    let mut splits = Vec::new();
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
            first_slot: slot(work.requests, partitions, request, first, 0),
            rest_slot: first,
        });
    }
    Plan { work: Assignment::Stretches(borders), splits }
}

fn invariant(work: &Work, partitions: i64, tiles: &[i64]) -> Plan {
    let (mut pieces, mut splits) = (Vec::new(), Vec::new());
    let mut slots = 0;
    for (i, t) in tiles.iter().enumerate() {
        let (request, count, first_slot) = (i as i32, work.invariant.count(*t) as i32, slots);
        let split = count > 1;
        for (begin, end) in work.invariant.of(*t) {
            let slot = if split { slots } else { -1 };
            slots += i32::from(split);
            pieces.push(DealtPiece { request, tiles: (begin as i32, end as i32), slot, next: -1 });
        }
        if split {
            splits.push(Split { request, pieces: count, first_slot, rest_slot: first_slot + 1 });
        }
    }
    let cost = |piece: &DealtPiece| (piece.tiles.1 - piece.tiles.0) as i64 + work.request_cost;
    let longest = pieces.iter().map(cost).max().unwrap_or(0);
    let stretch = ceil_div(pieces.iter().map(cost).sum(), partitions).max(longest);
    let (starts, dealt, most) = deal(work, partitions, &pieces);
    let work = match work.hands_over && most > stretch + HANDOVER_COST * work.request_cost {
        true => hand_over(work, partitions, &pieces, stretch),
        false => Assignment::Pieces(starts, dealt),
    };
    Plan { work, splits }
}

/// The largest pieces first, each to the partition that has least to do, the first of these;
/// [`DEALT_PIECES`] at a time, in the order of the requests. Pieces of equal size keep that order. Also returns what the
/// partition with the most work has.
fn deal(work: &Work, partitions: i64, pieces: &[DealtPiece]) -> (Vec<Start>, Vec<DealtPiece>, i64) {
    let mut pieces = pieces.to_vec();
    let cost = |piece: &DealtPiece| ((piece.tiles.1 - piece.tiles.0) as i64 + work.request_cost).min(MOST_COST);
    pieces.chunks_mut(DEALT_PIECES as usize).for_each(|together| together.sort_by_key(|piece| Reverse(cost(piece))));

    let mut loads: BinaryHeap<Reverse<(i64, usize)>> = (0..partitions as usize).map(|p| Reverse((0, p))).collect();
    let mut starts = vec![Start { piece: -1, tile: 0 }; partitions as usize];
    let mut last = vec![None; partitions as usize];
    for i in 0..pieces.len() {
        let Some(Reverse((load, p))) = loads.pop() else { break };
        loads.push(Reverse((load + cost(&pieces[i]), p)));
        match last[p].replace(i) {
            Some(before) => pieces[before].next = i as i32,
            None => starts[p].piece = i as i32,
        }
    }
    let most = loads.into_iter().map(|Reverse((load, _))| load).max().unwrap_or(0);
    (starts, pieces, most)
}

/// McNaughton's wrap-around rule. All pieces of all requests form a line, each preceded by fixed work, which is cut into
/// stretches of equal length, no shorter than the longest piece, so that no piece lies in three of them. A stretch is walked
/// from its end: the part of a piece before a border is then the first that its worker computes, the part behind it the last
/// of the worker behind. So they follow one another in time as in the request, and hardly ever one has to wait. (Nobody waits
/// for one that waits for him: only its last piece makes a worker wait, for another one's first.)
///
/// The plan lists the pieces from the last to the first, in the order in which they are walked.
fn hand_over(work: &Work, partitions: i64, pieces: &[DealtPiece], stretch: i64) -> Assignment {
    let n = pieces.len();
    // Where stretches begin: before a piece, or at a tile inside it.
    let (mut borders, mut i, mut start) = (Vec::new(), 0, 0);
    for p in 0..partitions {
        let x = p * stretch;
        let cost = |piece: &DealtPiece| (piece.tiles.1 - piece.tiles.0) as i64 + work.request_cost;
        while i < n && x >= start + cost(&pieces[i]) {
            start += cost(&pieces[i]);
            i += 1;
        }
        let within = (x - start - work.request_cost) as i32;
        borders.push(match pieces.get(i) {
            Some(DealtPiece { tiles: (begin, end), .. }) if within as i64 >= MIN_PIECE_TILES => {
                let tile = begin + within;
                if (end - tile) as i64 >= MIN_PIECE_TILES {
                    (i, tile)
                } else {
                    (i + 1, 0)
                }
            }
            _ => (i, 0),
        });
    }
    borders.push((n, 0));

    let mut listed: Vec<DealtPiece> = pieces.iter().rev().copied().collect();
    listed.iter_mut().enumerate().for_each(|(i, piece)| piece.next = if i + 1 < n { i as i32 + 1 } else { -1 });
    let mut starts = Vec::new();
    for two in borders.windows(2) {
        let ((begin, inside), (end, tile)) = (two[0], two[1]);
        // From the piece in which the stretch ends, or before which, to the first that begins in it.
        let (last, first) = (begin + usize::from(inside > 0), end + usize::from(tile > 0));
        if first > last {
            starts.push(Start { piece: (n - first) as i32, tile });
            listed[n - 1 - last].next = -1;
        } else {
            starts.push(Start { piece: -1, tile: 0 });
        }
    }
    Assignment::Pieces(starts, listed)
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
fn border(work: &Work, start: &[i64], tiles: &[i64], x: i64, stretch: i64) -> Border {
    let n = tiles.len();
    let i = start.partition_point(|s| *s <= x).saturating_sub(1);
    if i >= n {
        return Border { request: n as i32, tile: 0 };
    }
    let (t, off) = (tiles[i], x - start[i]);
    let least = MIN_PIECE_TILES.min(stretch);
    let tile = match (off - work.request_cost).max(0) {
        tile if tile < least => 0,
        tile if t - tile < least || t < MIN_SPLIT_TILES => t,
        tile => tile,
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
        return if work.invariant.count(work.max_tiles) > 1 { work.most_pieces() } else { 0 };
    }
    if work.max_tiles < MIN_SPLIT_TILES {
        return 0;
    }
    (partitions - 1) + work.requests.min(partitions - 1)
}

/// The slot of a piece that begins at `tile` in partition `p`, of a request that a default plan of so many splits.
fn slot(requests: i64, partitions: i64, request: i32, p: i32, tile: i32) -> i32 {
    let cuts = partitions as i32 - 1;
    if tile > 0 {
        // One slot for the piece behind each cut ...
        p - 1
    } else if requests < partitions {
        // ... and one for the first piece of each request, or partition where those are fewer.
        cuts + request
    } else {
        cuts + p
    }
}

/// Every piece of a plan for requests of so many tiles, in the order in which the workers compute them.
pub fn pieces_of_tiles(work: impl Into<Work>, partitions: i64, plan: &Plan, tiles: &[i64]) -> Vec<Piece> {
    let work = work.into();
    let requests = work.requests;
    let mut all = Vec::new();
    let borders = match &plan.work {
        Assignment::Stretches(borders) => borders,
        Assignment::Pieces(starts, pieces) => {
            for (partition, start) in starts.iter().enumerate() {
                let mut add = |piece: &DealtPiece, tiles, resumes, suspends| {
                    let slot = (piece.slot >= 0).then_some(piece.slot);
                    all.push(Piece {
                        partition: partition as i32,
                        request: piece.request,
                        tiles,
                        slot,
                        resumes,
                        suspends,
                    });
                };
                let mut i = start.piece;
                while let Some(piece) = pieces.get(i as usize) {
                    let suspends = i == start.piece && start.tile > 0;
                    add(piece, (piece.tiles.0, if suspends { start.tile } else { piece.tiles.1 }), false, suspends);
                    i = piece.next;
                }
                let before = partition.checked_sub(1).map(|before| starts[before]);
                if let Some(Start { piece, tile: tile @ 1.. }) = before {
                    add(&pieces[piece as usize], (tile, pieces[piece as usize].tiles.1), true, false);
                }
            }
            return all;
        }
    };
    for p in 0..partitions as usize {
        let (mut at, end) = (borders[p], borders[p + 1]);
        while at < end {
            let total = tiles[at.request as usize] as i32;
            let stop = if at.request == end.request { end.tile } else { total };
            let whole = at.tile == 0 && stop == total;
            all.push(Piece {
                partition: p as i32,
                request: at.request,
                tiles: (at.tile, stop),
                slot: if whole { None } else { Some(slot(requests, partitions, at.request, p as i32, at.tile)) },
                resumes: false,
                suspends: false,
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
