//! Where scratch lies: the layout of the plan buffer and of the workspace, used by the size queries
//! and by the launches alike.

use crate::problem::dense_decode::{Shape, D_V};
use crate::schedule::{self, ceil_div, Grid, Work, BLOCK_ROWS, FEW_ROWS, TILE_TOKENS};

/// Regions begin at multiples of this many bytes.
const ALIGN: u64 = 256;
/// Beside its accumulator a row has so many numbers of 4 bytes where a piece changes hands, at most, and a block so many
/// bytes of words (`cuda/sm90/dense_decode/handover.cuh`).
pub const HANDOVER_NUMBERS: u64 = 64;
pub const HANDOVER_WORDS: u64 = 256;
/// Rows of an accumulator that a warp holds (`kFragmentRows` in `cuda/sm90/sparse_decode/short_combine.cuh`).
pub const FRAGMENT_ROWS: i64 = 16;

/// The plan buffer: `partitions + 1` borders of 16 bytes; the list of split requests, 16 bytes each and as many
/// before them; in a batch-invariant plan, whose borders are other records of that size, a record of 24 bytes for each piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLayout {
    pub borders: u64,
    pub splits: u64,
    pub pieces: u64,
    /// Requests that the list has room for.
    pub most_splits: i64,
    pub size: u64,
}

impl PlanLayout {
    pub fn new(work: impl Into<Work>, partitions: i64) -> PlanLayout {
        let work = work.into();
        let splits = align((partitions as u64 + 1) * 16);
        let most_splits = work.most_splits(partitions);
        let pieces = align(splits + (1 + most_splits as u64) * 16);
        let size = if work.batch_invariant { align(pieces + work.most_pieces() as u64 * 24) } else { pieces };
        PlanLayout { borders: 0, splits, pieces, most_splits, size }
    }
}

/// The workspace of a split decode, FP32: `out [slots, rows, 512]`, then `lse [slots, rows]`, the rows being
/// those of a request of the plan: `s_q * h_q`; or, where each query token is one, `h_q` rounded up to what a warp stores,
/// with room for two numbers in place of lse. Then the words by which thread blocks meet (`cuda/common/rendezvous.cuh`). Where
/// pieces may change hands a record for each block of all partitions but the last (`cuda/sm90/dense_decode/handover.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitLayout {
    pub slots: i64,
    pub rows: i64,
    pub out: u64,
    pub lse: u64,
    pub rendezvous: u64,
    pub handovers: u64,
    /// Of a block.
    pub handover_bytes: u64,
    pub size: u64,
}

impl SplitLayout {
    pub fn new(shape: &Shape, grid: &Grid) -> SplitLayout {
        match shape.layout.is_fp8() {
            true => SplitLayout::of_heads(shape, grid, shape.h_q),
            false => {
                let split = SplitLayout::of_work(shape, grid, shape.s_q * shape.h_q, 1, shape.h_kv);
                split.with_handovers(shape, grid)
            }
        }
    }

    /// Where each query token is a request of the plan.
    pub fn of_heads(work: impl Into<Work>, grid: &Grid, h_q: i64) -> SplitLayout {
        SplitLayout::of_work(work, grid, ceil_div(h_q, FRAGMENT_ROWS) * FRAGMENT_ROWS, 2, 1)
    }

    /// `numbers`: of a row, beside its output.
    fn of_work(work: impl Into<Work>, grid: &Grid, rows: i64, numbers: u64, h_kv: i64) -> SplitLayout {
        let slots = schedule::max_slots(work, grid.partitions);
        let all_rows = slots as u64 * rows as u64;
        let lse = align(all_rows * D_V as u64 * 4);
        let rendezvous = align(lse + all_rows * numbers * 4);
        // A counter, and a word for each block: of the partitions no more than stated here, and those that combine.
        let blocks = (grid.row_blocks * h_kv).max(grid.multiprocessors) + grid.multiprocessors + 1;
        let size = if slots > 0 { align(rendezvous + (1 + blocks as u64) * 8) } else { rendezvous };
        SplitLayout { slots, rows, out: 0, lse, rendezvous, handovers: size, handover_bytes: 0, size }
    }

    /// Of a block a row's accumulator and numbers, and a word for each of its warps.
    fn with_handovers(self, shape: &Shape, grid: &Grid) -> SplitLayout {
        if !shape.batch_invariant || !Work::from(shape).hands_over || grid.partitions == 1 {
            return self;
        }
        let rows = [16, FEW_ROWS].into_iter().find(|most| shape.rows() <= *most).unwrap_or(BLOCK_ROWS);
        let handover_bytes = rows as u64 * (D_V as u64 + HANDOVER_NUMBERS) * 4 + HANDOVER_WORDS;
        let blocks = (grid.partitions - 1) * grid.row_blocks * shape.h_kv;
        SplitLayout { handover_bytes, size: self.size + blocks as u64 * handover_bytes, ..self }
    }
}

/// Bytes that suffice for a plan of every `b` and `s_q` up to the shape's.
pub fn plan_size(shape: &Shape, multiprocessors: i64) -> u64 {
    if shape.is_empty() {
        return 0;
    }
    // Of one query token there are the most partitions, and a request is cut into the most pieces.
    let one = Shape { s_q: 1, ..*shape };
    let work = Work { invariant: Work::from(&one).invariant, ..shape.into() };
    PlanLayout::new(work, Grid::new(&one, multiprocessors).partitions).size
}

/// Bytes that suffice for every `b`, `s_q` and `max_blocks_per_seq` up to the shape's: fewer query
/// tokens leave more multiprocessors to split over, so the largest need is not at the largest `s_q`.
pub fn workspace_size(shape: &Shape, multiprocessors: i64) -> u64 {
    if shape.is_empty() {
        return 0;
    }
    if shape.layout.is_fp8() {
        // The grid does not depend on s_q, and everything else grows with it.
        return SplitLayout::new(shape, &Grid::new(shape, multiprocessors)).size;
    }
    let size = |s_q: i64| {
        let shape = Shape { s_q, ..*shape };
        SplitLayout::new(&shape, &Grid::new(&shape, multiprocessors)).size
    };
    // Within a number of row blocks the largest s_q needs most. A default plan splits nothing once one partition is left; a
    // batch-invariant one cuts into fewer pieces as row blocks become more, so that there the most that are cut into as
    // many count.
    let mut largest = size(shape.s_q);
    let mut at_most = |rows: i64| {
        let s_q = rows / shape.group();
        if s_q >= 1 && s_q <= shape.s_q {
            largest = largest.max(size(s_q));
        }
    };
    at_most(FEW_ROWS);
    (1..=multiprocessors).for_each(|row_blocks| at_most(row_blocks * BLOCK_ROWS));
    // Of so many row blocks a piece has as many tiles as of one, for each.
    let (tiles, cuts) = (ceil_div(shape.max_tokens(), TILE_TOKENS), schedule::invariant_cuts(4 * BLOCK_ROWS));
    (1..cuts.most)
        .for_each(|pieces| at_most((ceil_div(tiles, pieces * cuts.tiles / 4) - 1).saturating_mul(BLOCK_ROWS)));
    // The first s_q, where a group alone takes several row blocks.
    if ceil_div(shape.group(), BLOCK_ROWS) > 1 {
        largest = largest.max(size(1));
    }
    largest
}

/// The same for sparse decode, where every need grows with every size.
pub mod sparse_decode {
    use super::{Grid, PlanLayout, SplitLayout};
    use crate::problem::sparse_decode::Shape;

    pub fn split_layout(shape: &Shape, grid: &Grid) -> SplitLayout {
        SplitLayout::of_heads(shape, grid, shape.h_q)
    }

    pub fn plan_size(shape: &Shape, multiprocessors: i64) -> u64 {
        match shape.is_empty() {
            true => 0,
            false => PlanLayout::new(shape, Grid::of_heads(shape.h_q, multiprocessors).partitions).size,
        }
    }

    pub fn workspace_size(shape: &Shape, multiprocessors: i64) -> u64 {
        match shape.is_empty() {
            true => 0,
            false => split_layout(shape, &Grid::of_heads(shape.h_q, multiprocessors)).size,
        }
    }
}

fn align(x: u64) -> u64 {
    x.div_ceil(ALIGN) * ALIGN
}
