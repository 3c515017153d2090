//! A context: one device, immutable after creation, used from any thread.

use crate::cpu::CpuDevice;
use crate::gpu::GpuDevice;
use crate::problem::dense_decode::Shape;
use crate::schedule::Grid;
use crate::workspace;
use std::hash::{Hash, Hasher};

/// Device ordinal of the CPU backend.
pub const DEVICE_CPU: i32 = -1;

pub enum Backend {
    Cpu(CpuDevice),
    Gpu(GpuDevice),
}

pub struct Context {
    pub backend: Backend,
}

impl Context {
    /// The launch geometry of a problem; the CPU needs none.
    pub fn grid(&self, shape: &Shape) -> Option<Grid> {
        match &self.backend {
            Backend::Cpu(_) => None,
            Backend::Gpu(gpu) => Some(Grid::new(shape, gpu.multiprocessors())),
        }
    }

    pub fn plan_size(&self, shape: &Shape) -> u64 {
        match &self.backend {
            Backend::Cpu(_) => 0,
            Backend::Gpu(gpu) => workspace::plan_size(shape, gpu.multiprocessors()),
        }
    }

    pub fn workspace_size(&self, shape: &Shape) -> u64 {
        match &self.backend {
            Backend::Cpu(_) => 0,
            Backend::Gpu(gpu) => workspace::workspace_size(shape, gpu.multiprocessors()),
        }
    }

    /// Identifies the plans that fit a problem: equal exactly where a plan may be shared (the
    /// element type and head dimension, for example, do not matter to it). Never 0.
    pub fn plan_fingerprint(&self, shape: &Shape) -> u64 {
        let mut h = Fnv::new();
        let grid = self.grid(shape);
        ("dense_decode", grid.map(|g| g.partitions), shape.b, shape.max_tokens(), shape.batch_invariant).hash(&mut h);
        if shape.layout.is_fp8() {
            (shape.s_q, shape.causal).hash(&mut h);
        }
        h.finish().max(1)
    }
}

/// The same questions about sparse decode.
pub mod sparse_decode {
    use super::{Backend, Context, Fnv};
    use crate::problem::sparse_decode::{ExtraShape, Shape};
    use crate::schedule::Grid;
    use crate::workspace::sparse_decode as workspace;
    use std::hash::{Hash, Hasher};

    pub fn grid(context: &Context, shape: &Shape) -> Option<Grid> {
        match &context.backend {
            Backend::Cpu(_) => None,
            Backend::Gpu(gpu) => Some(Grid::of_heads(shape.h_q, gpu.multiprocessors())),
        }
    }

    pub fn plan_size(context: &Context, shape: &Shape) -> u64 {
        match &context.backend {
            Backend::Cpu(_) => 0,
            Backend::Gpu(gpu) => workspace::plan_size(shape, gpu.multiprocessors()),
        }
    }

    pub fn workspace_size(context: &Context, shape: &Shape) -> u64 {
        match &context.backend {
            Backend::Cpu(_) => 0,
            Backend::Gpu(gpu) => workspace::workspace_size(shape, gpu.multiprocessors()),
        }
    }

    /// A plan is made of numbers of indices, for each query token.
    pub fn plan_fingerprint(context: &Context, shape: &Shape) -> u64 {
        let mut h = Fnv::new();
        let partitions = grid(context, shape).map(|g| g.partitions);
        let extra =
            shape.extra.filter(|extra| extra.topk > 0).map(|ExtraShape { topk, has_lengths, .. }| (topk, has_lengths));
        let sizes = (shape.b, shape.s_q, shape.topk, shape.has_lengths, extra);
        ("sparse_decode", partitions, sizes, shape.batch_invariant).hash(&mut h);
        h.finish().max(1)
    }
}

/// FNV-1a, fixed by us: the value may be kept across processes.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ *byte as u64).wrapping_mul(0x100_0000_01b3);
        }
    }
}
