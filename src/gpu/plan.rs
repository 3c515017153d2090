//! The plan of a decode, made by one small kernel: what each partition of the multiprocessors computes.

use super::driver::Handle;
use super::launch::{address, Launch};
use super::library::Loader;
use super::params::PlanParams;
use super::GpuDevice;
use crate::schedule::{ceil_div, Grid, Work, MAX_PARTITIONS};
use crate::status::Result;
use crate::workspace::PlanLayout;
use std::ffi::CStr;

/// Threads of the block, as the kernels are compiled; never fewer than partitions.
const MAX_THREADS: i64 = 1024;
/// Requests of a thread, as long as there are threads: more threads take turns at issuing instructions, and lengths that
/// lie side by side come together. But cutting a request takes a batch-invariant plan long.
const RUN: i64 = 2;
const BATCH_INVARIANT_RUN: i64 = 1;
/// And it sorts pieces.
const BATCH_INVARIANT_THREADS: i64 = 512;
const _: () = assert!(MAX_PARTITIONS <= MAX_THREADS);
const PLAN: &CStr = c"flashmla_plan";
const PLAN_BATCH_INVARIANT: &CStr = c"flashmla_plan_batch_invariant";

#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    plan: Handle,
    batch_invariant: Handle,
}

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        Ok(Kernels { plan: loader.kernel(PLAN, 0)?, batch_invariant: loader.kernel(PLAN_BATCH_INVARIANT, 0)? })
    }
}

impl GpuDevice {
    /// Writes the plan for the lengths that are there when the stream gets there: of `lens` only what says where and what
    /// they are counts.
    pub(super) fn write_plan(&self, work: Work, grid: &Grid, lens: PlanParams, plan: u64, stream: u64) -> Result<()> {
        let layout = PlanLayout::new(work, grid.partitions);
        let threads = threads(work, grid.partitions);
        let params = PlanParams {
            borders: plan + layout.borders,
            pieces: plan + layout.pieces,
            splits: plan + layout.splits,
            partitions_inverse: u64::MAX / grid.partitions as u64,
            request_cost: work.request_cost,
            invariant_tiles: work.invariant.tiles as i32,
            invariant_most: work.invariant.most as i32,
            b: work.requests as i32,
            run: ceil_div(work.requests, threads) as i32,
            partitions: grid.partitions as i32,
            partitions_each: (grid.partitions / work.requests) as i32,
            hands_over: work.hands_over as i32,
            ..lens
        };
        let kernel = if work.batch_invariant { self.plan.batch_invariant } else { self.plan.plan };
        let launch = Launch { kernel, grid: 1, block: threads as u32, cluster: 1, shared_bytes: 0, overlaps: false };
        // SAFETY: what both kernels take.
        self.with_context(|| unsafe { self.launch(&launch, Handle(stream as usize), [address(&params)]) })
    }
}

/// Whole warps.
fn threads(work: Work, partitions: i64) -> i64 {
    let (run, least) = match work.batch_invariant {
        true => (BATCH_INVARIANT_RUN, BATCH_INVARIANT_THREADS),
        false => (RUN, 0),
    };
    ceil_div(ceil_div(work.requests, run).min(MAX_THREADS).max(partitions).max(least), 32) * 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernels that write and read plans are compiled with is what `schedule` defines.
    #[test]
    fn the_kernels_have_the_same_numbers() {
        use crate::schedule::*;
        let source = include_str!("../../cuda/common/plan.cuh");
        for (name, value) in [
            ("kTileTokens", TILE_TOKENS),
            ("kMinPieceTiles", MIN_PIECE_TILES),
            ("kMinSplitTiles", MIN_SPLIT_TILES),
            ("kMinStretch", MIN_STRETCH),
            ("kSplitCost", SPLIT_COST),
            ("kHandoverCost", HANDOVER_COST),
            ("kDealtPieces", DEALT_PIECES),
            ("kMostCost", MOST_COST),
            ("kMaxPartitions", MAX_PARTITIONS),
        ] {
            assert!(source.contains(&format!("constexpr int {name} = {value};")), "{name}");
        }
    }

    #[test]
    fn launches_fit_the_kernel() {
        use crate::schedule::INVARIANT_CUTS_SPARSE;
        let source = include_str!("../../cuda/any/plan_sums.cuh");
        assert!(source.contains(&format!("constexpr int kMaxThreads = {MAX_THREADS};")));
        for requests in [1, 2, 127, 128, 1024, 4096, 4097, 8192, i32::MAX as i64] {
            for partitions in [1, 2, 33, 66, 132, MAX_PARTITIONS] {
                for batch_invariant in [false, true] {
                    let threads = threads(
                        Work {
                            requests,
                            max_tiles: 1,
                            request_cost: 1,
                            batch_invariant,
                            hands_over: false,
                            invariant: INVARIANT_CUTS_SPARSE,
                        },
                        partitions,
                    );
                    assert!(threads % 32 == 0 && (partitions..=MAX_THREADS).contains(&threads));
                    // The last run's begin fits 32 bits.
                    let run = ceil_div(requests, threads);
                    assert!(threads * run >= requests && (threads - 1) * run <= i32::MAX as i64);
                }
            }
        }
    }
}
