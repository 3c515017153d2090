//! Sparse prefill on the GPU: one launch, of thread blocks that take a block of heads of a query token after
//! another.

use super::driver::Handle;
use super::launch::{address, Launch};
use super::library::Loader;
use super::params::SparsePrefillParams;
use super::tensor_map::{TensorMap, Tiled, TILE_COLUMNS};
use super::GpuDevice;
use crate::problem::dense_decode::Dtype;
use crate::problem::sparse_prefill::{Shape, SparsePrefill};
use crate::problem::tensor::Tensor;
use crate::schedule::{ceil_div, BLOCK_ROWS};
use crate::status::Result;
use std::ffi::CStr;

/// Threads of a block, as the kernels are compiled.
const THREADS: u32 = 512;
/// Dynamic shared memory: all that a block can have.
const SM90_SMEM_BYTES: u32 = 232448;
const ELEM_BYTES: i64 = 2;
/// Heads and column tiles whose output a warp stores.
const WARP_ROWS: u32 = 16;
const WARP_TILES: u32 = 4;
/// Column tiles of Q that are kept in registers. The others, as many as a copy takes, are not.
const REGISTER_TILES: i64 = 6;

/// By `kernel_index`.
const KERNELS: [&CStr; 2] = [c"flashmla_sm90_sparse_prefill_rows_576", c"flashmla_sm90_sparse_prefill_rows_512"];

fn kernel_index(shape: &Shape) -> usize {
    if shape.d_qk == 576 {
        0
    } else {
        1
    }
}

/// The kernels of this operation.
#[derive(Debug, Clone, Copy)]
pub struct Kernels([Handle; KERNELS.len()]);

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        let mut kernels = Kernels(Default::default());
        for (kernel, name) in kernels.0.iter_mut().zip(KERNELS) {
            *kernel = loader.kernel(name, SM90_SMEM_BYTES)?;
        }
        Ok(kernels)
    }
}

/// The kernel that a problem gets, and its launch.
pub struct Selection {
    pub name: &'static str,
    pub thread_blocks: i64,
}

impl GpuDevice {
    pub fn sparse_prefill_kernel(&self, shape: &Shape) -> Selection {
        let name = KERNELS[kernel_index(shape)].to_str().unwrap_or_default();
        Selection { name, thread_blocks: thread_blocks(shape, self.multiprocessors()) }
    }

    pub fn sparse_prefill(&self, problem: &SparsePrefill, stream: u64) -> Result<()> {
        let shape = &problem.shape;
        if shape.is_empty() {
            return Ok(());
        }
        // Neighbours on the device take neighbouring queries at the same time, since these share rows.
        let grid = thread_blocks(shape, self.multiprocessors());
        let head_blocks = head_blocks(shape);
        let (max_logits, max_logits_strides) = rows(&problem.max_logits);
        let (lse, lse_strides) = rows(&problem.lse);
        let (topk_length, topk_length_stride) = list(&problem.topk_length);
        let (attn_sink, attn_sink_stride) = list(&problem.attn_sink);
        let params = SparsePrefillParams {
            kv: problem.kv.addr,
            // A single row may have any stride; it is not stepped over.
            kv_row_bytes: problem.kv.strides[0].wrapping_mul(ELEM_BYTES),
            indices: problem.indices.addr,
            indices_stride: problem.indices.strides[0],
            topk_length,
            topk_length_stride,
            attn_sink,
            attn_sink_stride,
            max_logits,
            max_logits_strides,
            lse,
            lse_strides,
            s_q: shape.s_q as i32,
            h_q: shape.h_q as i32,
            s_kv: shape.s_kv as i32,
            topk: shape.topk as i32,
            head_blocks: head_blocks as i32,
            step_tokens: (grid / head_blocks) as i32,
            step_blocks: (grid % head_blocks) as i32,
            lse_empty_pos_inf: shape.lse_empty_pos_inf as i32,
            scale: problem.softmax_scale,
            scale_log2: (problem.softmax_scale as f64 * std::f64::consts::LOG2_E) as f32,
        };
        let launch = Launch {
            kernel: self.sparse_prefill.0[kernel_index(shape)],
            grid: grid as u32,
            block: THREADS,
            cluster: 1,
            shared_bytes: SM90_SMEM_BYTES,
            overlaps: true,
        };
        self.with_context(|| {
            let q =
                TensorMap::encode(self.driver, view("q", &tokens(&problem.q)), BLOCK_ROWS as u32, box_tiles(shape))?;
            let out = TensorMap::encode(self.driver, view("out", &tokens(&problem.out)), WARP_ROWS, WARP_TILES)?;
            // SAFETY: what the kernels take.
            unsafe { self.launch(&launch, Handle(stream as usize), [address(&q), address(&out), address(&params)]) }
        })
    }
}

/// A tensor of query tokens as one request's.
fn tokens(tensor: &Tensor<3>) -> Tensor<4> {
    let Tensor { addr, shape: [s_q, h_q, columns], strides: [token, head, element] } = *tensor;
    Tensor { addr, shape: [1, s_q, h_q, columns], strides: [0, token, head, element] }
}

/// As column tiles of the heads of a token.
fn view<'a>(name: &'a str, tensor: &'a Tensor<4>) -> Tiled<'a> {
    Tiled { name, tensor, dtype: Dtype::Bf16, axes: [2, 1, 0], columns: (0, tensor.shape[3]) }
}

fn box_tiles(shape: &Shape) -> u32 {
    (shape.d_qk / TILE_COLUMNS - REGISTER_TILES) as u32
}

fn head_blocks(shape: &Shape) -> i64 {
    ceil_div(shape.h_q, BLOCK_ROWS)
}

/// A block on each multiprocessor, or as many as there is work for.
fn thread_blocks(shape: &Shape, multiprocessors: i64) -> i64 {
    (shape.s_q * head_blocks(shape)).min(multiprocessors)
}

/// Address and strides of an output that may not be wanted.
fn rows(tensor: &Option<Tensor<2>>) -> (u64, [i64; 2]) {
    tensor.map_or((0, [0; 2]), |t| (t.addr, t.strides))
}

/// Address and stride of an input that there may not be.
fn list(tensor: &Option<Tensor<1>>) -> (u64, i64) {
    tensor.map_or((0, 0), |t| (t.addr, t.strides[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_fit_the_kernels() {
        let config = include_str!("../../cuda/sm90/sparse_prefill/config.cuh");
        assert!(config.contains(&format!("constexpr int kThreads = {THREADS};")));
        assert!(config.contains(&format!("constexpr int kRows = {BLOCK_ROWS};")));
        assert!(config.contains(&format!("constexpr int kRegisterTiles = {REGISTER_TILES};")));
        assert!(config.contains(&format!("constexpr int kTilesPerSide = {WARP_TILES};")));
        // The kernel asserts its need against the same number.
        let kernel = include_str!("../../cuda/sm90/sparse_prefill/kernel.cuh");
        assert!(kernel.contains(&format!("static_assert(sizeof(Shared<kHeadDim>) <= {SM90_SMEM_BYTES}")));
    }
}
