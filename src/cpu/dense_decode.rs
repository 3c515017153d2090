//! Dense decode on the CPU.

use super::CpuDevice;
use crate::problem::dense_decode::{DenseDecode, D_V};

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 or FP16 bits.
    pub q: &'a [u16],
    pub kv_cache: &'a [u16],
    pub block_table: &'a [i32],
    pub cache_seqlens: &'a [i32],
}

/// Computes every row and hands `(request, token, head)`, the row's bits and its lse to `store`,
/// on the calling thread.
pub fn run(
    _device: &CpuDevice,
    _problem: &DenseDecode,
    _inputs: Inputs,
    _store: &mut dyn FnMut([i64; 3], &[u16; D_V as usize], f32),
) {
}
