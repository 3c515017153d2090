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
        Context::plan_fingerprint_of(shape, self.grid(shape).as_ref())
    }

    /// As above, where the grid is known.
    pub fn plan_fingerprint_of(shape: &Shape, grid: Option<&Grid>) -> u64 {
        let mut h = Fingerprint::new();
        // Few words, since each call makes it anew: the sizes have 31 bits. (No sparse plan begins with a small number.)
        let partitions = grid.map_or(0, |g| g.partitions as u64);
        h.write_u64(partitions << 1 | shape.batch_invariant as u64);
        h.write_u64((shape.b as u64) << 32 | shape.max_tokens() as u64);
        if shape.layout.is_fp8() {
            (shape.s_q, shape.causal).hash(&mut h);
        }
        h.finish().max(1)
    }
}

/// The same questions about sparse decode.
pub mod sparse_decode {
    use super::{Backend, Context, Fingerprint};
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
        let mut h = Fingerprint::new();
        let partitions = grid(context, shape).map(|g| g.partitions);
        let extra =
            shape.extra.filter(|extra| extra.topk > 0).map(|ExtraShape { topk, has_lengths, .. }| (topk, has_lengths));
        let sizes = (shape.b, shape.s_q, shape.topk, shape.has_lengths, extra);
        ("sparse_decode", partitions, sizes, shape.batch_invariant).hash(&mut h);
        h.finish().max(1)
    }
}

/// A hash fixed by us, word by word: the value may be kept across processes.
struct Fingerprint(u64);

impl Fingerprint {
    fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, x: u8) {
        self.write_u64(x as u64);
    }
    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }
    /// SplitMix64's mixing: one to one, and neighbours have nothing in common.
    fn write_u64(&mut self, x: u64) {
        let mut h = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ x;
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = h ^ (h >> 31);
    }
}
