//! Append on the GPU: one launch.

use super::driver::Handle;
use super::launch::Launch;
use super::library::Loader;
use super::params::{Divisor, KvCacheAppendParams};
use super::GpuDevice;
use crate::problem::kv_cache_append::{IndexType, KvCacheAppend, ScaleRule};
use crate::problem::layout::Layout;
use crate::schedule::ceil_div;
use crate::status::Result;
use std::ffi::CStr;
use std::ptr;

/// Threads of a block, as the kernels are compiled; a warp stores a row.
const THREADS: u32 = 256;
const ROWS: i64 = THREADS as i64 / 32;

/// By `layout_index`.
const NAMES: [&CStr; 3] =
    [c"flashmla_kv_cache_append_plain", c"flashmla_kv_cache_append_v32", c"flashmla_kv_cache_append_v4"];

/// The kernels of this operation.
#[derive(Debug, Clone, Copy)]
pub struct Kernels([Handle; NAMES.len()]);

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        loader.kernels(NAMES).map(Kernels)
    }
}

pub(super) fn layout_index(layout: Layout) -> usize {
    match layout {
        Layout::Plain => 0,
        Layout::V32 => 1,
        Layout::V4 => 2,
    }
}

impl GpuDevice {
    pub fn kv_cache_append(&self, problem: &KvCacheAppend, stream: u64) -> Result<()> {
        if problem.is_empty() {
            return Ok(());
        }
        let page = Divisor::new(problem.page_block_size as u32);
        let params = KvCacheAppendParams {
            rows: problem.rows.addr,
            row_stride: problem.rows.strides[0],
            slots: problem.slot_mapping.addr,
            slot_stride: problem.slot_mapping.strides[0],
            kv_cache: problem.kv_cache.addr,
            page_stride: problem.kv_cache.page_stride,
            token_stride: problem.kv_cache.row_stride,
            // Both below 2^31.
            slot_limit: problem.num_blocks * problem.page_block_size,
            n: problem.n as i32,
            chunks: (problem.d_qk / 8) as i32,
            page_block_size: problem.page_block_size as i32,
            page_magic: page.magic,
            page_shift: page.shift,
            wide_slots: (problem.slot_type == IndexType::Int64) as i32,
            exact_scales: (problem.scale_rule == ScaleRule::Exact) as i32,
        };
        let launch = Launch {
            kernel: self.kv_cache_append.0[layout_index(problem.layout)],
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
