//! Gather on the GPU: one launch.

use super::driver::Handle;
use super::kv_cache_append::layout_index;
use super::launch::Launch;
use super::library::Loader;
use super::params::{Divisor, KvCacheGatherParams};
use super::GpuDevice;
use crate::problem::kv_cache_gather::{KvCacheGather, Source};
use crate::schedule::ceil_div;
use crate::status::Result;
use std::ffi::CStr;
use std::ptr;

/// Threads of a block, as the kernels are compiled; a warp reads a row.
const THREADS: u32 = 256;
const ROWS: i64 = THREADS as i64 / 32;

/// By `layout_index`.
const NAMES: [&CStr; 3] =
    [c"flashmla_kv_cache_gather_plain", c"flashmla_kv_cache_gather_v32", c"flashmla_kv_cache_gather_v4"];

/// The kernels of this operation.
#[derive(Debug, Clone, Copy)]
pub struct Kernels([Handle; NAMES.len()]);

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        loader.kernels(NAMES).map(Kernels)
    }
}

impl GpuDevice {
    pub fn kv_cache_gather(&self, problem: &KvCacheGather, stream: u64) -> Result<()> {
        if problem.is_empty() {
            return Ok(());
        }
        let page = Divisor::new(problem.page_block_size as u32);
        let mut params = KvCacheGatherParams {
            kv_cache: problem.kv_cache.addr,
            page_stride: problem.kv_cache.page_stride,
            token_stride: problem.kv_cache.row_stride,
            // Both below 2^31.
            index_limit: problem.num_blocks * problem.page_block_size,
            rows: problem.rows.addr,
            row_stride: problem.rows.strides[0],
            n: problem.n as i32,
            chunks: (problem.d_qk / 8) as i32,
            num_blocks: problem.num_blocks as i32,
            page_block_size: problem.page_block_size as i32,
            page_magic: page.magic,
            page_shift: page.shift,
            ..Default::default()
        };
        match &problem.source {
            Source::Indices(indices) => {
                (params.indices, params.indices_stride) = (indices.addr, indices.strides[0]);
            }
            Source::Ranges { b, max_blocks_per_seq, block_table, cu_seqlens, seq_starts } => {
                params.b = *b as i32;
                params.max_tokens = (max_blocks_per_seq * problem.page_block_size) as i32;
                (params.block_table, params.block_table_strides) = (block_table.addr, block_table.strides);
                (params.cu_seqlens, params.cu_seqlens_stride) = (cu_seqlens.addr, cu_seqlens.strides[0]);
                if let Some(starts) = seq_starts {
                    (params.seq_starts, params.seq_starts_stride) = (starts.addr, starts.strides[0]);
                }
            }
        }
        let launch = Launch {
            kernel: self.kv_cache_gather.0[layout_index(problem.layout)],
            grid: ceil_div(problem.n, ROWS) as u32,
            block: THREADS,
            cluster: 1,
            shared_bytes: 0,
            overlaps: true,
        };
        // SAFETY: what the kernels take.
        self.with_context(|| unsafe { self.launch(&launch, Handle(stream as usize), [ptr::from_ref(&params).cast()]) })
    }
}

#[cfg(test)]
mod tests {
    /// What the launches say of the kernels' blocks.
    #[test]
    fn launches_fit_the_kernels() {
        for source in [
            include_str!("../../cuda/any/kv_cache_append.cu"),
            include_str!("../../cuda/any/kv_cache_gather.cu"),
            include_str!("../../cuda/any/map_indices.cu"),
        ] {
            assert!(source.contains(&format!("constexpr int kThreads = {};", super::THREADS)));
        }
    }
}
