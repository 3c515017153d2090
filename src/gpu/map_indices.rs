//! Map indices on the GPU: one launch.

use super::driver::Handle;
use super::launch::Launch;
use super::library::Loader;
use super::params::{Divisor, MapIndicesParams};
use super::GpuDevice;
use crate::problem::map_indices::MapIndices;
use crate::schedule::ceil_div;
use crate::status::Result;
use std::ptr;

/// Threads of a block, as the kernel is compiled; a thread maps four indices.
const THREADS: u32 = 256;
const INDICES: i64 = THREADS as i64 * 4;
/// Blocks take turns beyond so many.
const MAX_BLOCKS: i64 = 1 << 20;

/// The kernel of this operation.
#[derive(Debug, Clone, Copy)]
pub struct Kernels(Handle);

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        loader.kernel(c"flashmla_map_indices", 0).map(Kernels)
    }
}

impl GpuDevice {
    pub fn map_indices(&self, problem: &MapIndices, stream: u64) -> Result<()> {
        if problem.is_empty() {
            return Ok(());
        }
        let page = Divisor::new(problem.page_block_size as u32);
        let row_blocks = ceil_div(problem.topk, INDICES);
        let outer = |strides: [i64; 3]| [strides[0], strides[1]];
        let (cache_seqlens, cache_seqlens_stride) =
            problem.cache_seqlens.map_or((0, 0), |lens| (lens.addr, lens.strides[0]));
        let params = MapIndicesParams {
            positions: problem.positions.addr,
            positions_strides: outer(problem.positions.strides),
            block_table: problem.block_table.addr,
            block_table_strides: problem.block_table.strides,
            cache_seqlens,
            cache_seqlens_stride,
            out: problem.indices.addr,
            out_strides: outer(problem.indices.strides),
            blocks: problem.b * problem.s_q * row_blocks,
            row_blocks: row_blocks as i32,
            s_q: problem.s_q as i32,
            topk: problem.topk as i32,
            max_tokens: (problem.max_blocks_per_seq * problem.page_block_size) as i32,
            num_blocks: problem.num_blocks as i32,
            page_block_size: problem.page_block_size as i32,
            page_magic: page.magic,
            page_shift: page.shift,
        };
        let launch = Launch {
            kernel: self.map_indices.0,
            grid: params.blocks.min(MAX_BLOCKS) as u32,
            block: THREADS,
            cluster: 1,
            shared_bytes: 0,
            overlaps: true,
        };
        // SAFETY: what the kernel takes.
        self.with_context(|| unsafe { self.launch(&launch, Handle(stream as usize), [ptr::from_ref(&params).cast()]) })
    }
}
