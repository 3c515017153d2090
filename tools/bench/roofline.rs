//! The two ceilings that bound a kernel, and the time below which no case can come.

use super::case::Case;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Operations of the matrix units, in 10^12 a second.
    pub tflops: f64,
    /// Reading from memory, in 10^9 bytes a second.
    pub read_gbps: f64,
}

/// What was measured on an H100 SXM: the best of any attention kernel, and a long read. `of_floor`
/// refers to these, so that figures of different runs compare.
pub const REFERENCE: Ceilings = Ceilings { tflops: 737.0, read_gbps: 3090.0 };

impl Ceilings {
    /// Milliseconds that a case takes at least.
    pub fn floor_ms(&self, case: &Case) -> f64 {
        let compute = case.operations() / (self.tflops * 1e9);
        let memory = case.bytes() / (self.read_gbps * 1e6);
        compute.max(memory)
    }

    /// Operations per byte where the two ceilings meet.
    pub fn ridge(&self) -> f64 {
        self.tflops * 1e3 / self.read_gbps
    }
}
