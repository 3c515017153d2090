//! The plan of a decode, made by one small kernel: what each partition of the multiprocessors computes.

use super::driver::Handle;
use super::launch::{address, Launch};
use super::library::Loader;
use super::params::PlanParams;
use super::GpuDevice;
use crate::schedule::{Grid, Work};
use crate::status::Result;
use crate::workspace::PlanLayout;
use std::ffi::CStr;

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 1024;
const PLAN: &CStr = c"flashmla_plan";

#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    plan: Handle,
}

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        Ok(Kernels { plan: loader.kernel(PLAN, 0)? })
    }
}

impl GpuDevice {
    /// Writes the plan for the lengths that are there when the stream gets there: of `lens` only what says where and what
    /// they are counts.
    pub(super) fn write_plan(&self, work: Work, grid: &Grid, lens: PlanParams, plan: u64, stream: u64) -> Result<()> {
        let layout = PlanLayout::new(work, grid.partitions);
        let params = PlanParams {
            borders: plan + layout.borders,
            requests: plan + layout.requests,
            splits: plan + layout.splits,
            b: work.requests as i32,
            partitions: grid.partitions as i32,
            batch_invariant: work.batch_invariant as i32,
            ..lens
        };
        let launch =
            Launch { kernel: self.plan.plan, grid: 1, block: THREADS, cluster: 1, shared_bytes: 0, overlaps: false };
        // SAFETY: what `flashmla_plan` takes.
        self.with_context(|| unsafe { self.launch(&launch, Handle(stream as usize), [address(&params)]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_fits_the_kernel() {
        let source = include_str!("../../cuda/any/plan.cu");
        assert!(source.contains(&format!("constexpr int kThreads = {THREADS};")));
    }
}
