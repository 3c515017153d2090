//! Reading tokens back from a paged latent cache.

use super::context::{check_no_stream, context_ref, flashmla_context_t};
use super::read::{elements, read_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::Backend;
use crate::cpu;
use crate::problem::kv_cache_gather::{KvCacheGather, Raw, Source};

/// Parameters of `flashmla_kv_cache_gather`.
///
/// Zero every member that you do not set (`FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_kv_cache_gather_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// How the cache stores tokens: `FLASHMLA_LAYOUT_*`.
    pub layout: i32,
    /// Must be 0.
    pub reserved: i32,
    /// Rows of `rows`.
    pub n: i64,
    /// Elements of a row: 576 or 512; with FP8 pages the layout's.
    pub d_qk: i64,
    /// Pages of the cache.
    pub num_blocks: i64,
    /// Tokens of a page, at least 1.
    pub page_block_size: i64,
    /// Requests of `block_table`; 0 with `indices`.
    pub b: i64,
    /// Columns of `block_table`.
    pub max_blocks_per_seq: i64,
    /// As in `flashmla_kv_cache_append`.
    pub kv_cache: flashmla_const_tensor_t,
    /// `[n]` int32, any stride: the token of each row, as page * page_block_size + position in the page.
    pub indices: flashmla_const_tensor_t,
    /// `[b, max_blocks_per_seq]` int32, any strides: pages of each request in order. Instead of `indices`.
    pub block_table: flashmla_const_tensor_t,
    /// `[b + 1]` int32, any stride, ascending: request i gets the rows from `cu_seqlens[i]` to before
    /// `cu_seqlens[i + 1]`.
    pub cu_seqlens: flashmla_const_tensor_t,
    /// `[b]` int32, any stride: the token of each request that its first row gets. `data` NULL: 0.
    pub seq_starts: flashmla_const_tensor_t,
    /// `[n, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
    pub rows: flashmla_tensor_t,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_kv_cache_gather_params_t {
    const NAME: &'static str = "flashmla_kv_cache_gather_params_t";
    const FIRST_SIZE: usize = 304;
}

impl flashmla_kv_cache_gather_params_t {
    fn check(&self) -> crate::status::Result<KvCacheGather> {
        if self.reserved != 0 {
            return crate::err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "reserved = {}: must be 0", self.reserved);
        }
        KvCacheGather::check(&Raw {
            layout: self.layout,
            n: self.n,
            d_qk: self.d_qk,
            num_blocks: self.num_blocks,
            page_block_size: self.page_block_size,
            b: self.b,
            max_blocks_per_seq: self.max_blocks_per_seq,
            kv_cache: self.kv_cache.raw(),
            indices: self.indices.raw(),
            block_table: self.block_table.raw(),
            cu_seqlens: self.cu_seqlens.raw(),
            seq_starts: self.seq_starts.raw(),
            rows: self.rows.raw(),
        })
    }
}

/// Reads tokens of a cache into BF16 rows, for prefill over a cached prefix, say: the tokens that `indices` name,
/// or ranges of requests through `block_table`, row `cu_seqlens[i] + j` being token `seq_starts[i] + j` of
/// request i.
///
/// An element is its e4m3 value times its scale, in FP32 and then rounded to nearest even; exact where the scale is
/// a power of two. The rotary part, and plain rows (of any 16-bit type), are copied. NaN codes and scales read
/// as NaN. A row whose index lies outside `[0, num_blocks * page_block_size)`, whose token lies outside the block
/// table or whose page outside the cache becomes 0; a row that no request has is left as it is.
///
/// Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
/// NULL and reads before it returns. Needs no workspace; does not allocate, synchronise or read device data on the
/// host; may be captured, and replayed after the inputs have changed in place. Thread-safe.
///
/// Errors: null or misaligned pointers, wrong sizes or strides, both of `indices` and `block_table`: nothing is
/// launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_kv_cache_gather(
    context: *const flashmla_context_t,
    params: *const flashmla_kv_cache_gather_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let context = context_ref(&context)?;
        // SAFETY: per the contract of this function.
        let problem = unsafe { read_struct("params", params) }?.check()?;
        match &context.backend {
            Backend::Cpu(device) => {
                check_no_stream(stream)?;
                if problem.is_empty() {
                    return Ok(());
                }
                // SAFETY: checked tensors; the caller vouches that the memory is there.
                unsafe { run_on_cpu(device, &problem) };
                Ok(())
            }
            Backend::Gpu(gpu) => gpu.kv_cache_gather(&problem, stream as u64),
        }
    })
}

/// # Safety
/// The tensors of the problem lie in host memory, the rows disjoint from everything else.
unsafe fn run_on_cpu(device: &cpu::CpuDevice, problem: &KvCacheGather) {
    let pages = &problem.kv_cache;
    let kv_cache = match pages.extent {
        0 => &[],
        bytes => std::slice::from_raw_parts(pages.addr as *const u8, bytes as usize),
    };
    let mut inputs =
        cpu::kv_cache_gather::Inputs { kv_cache, indices: &[], block_table: &[], cu_seqlens: &[], seq_starts: None };
    match &problem.source {
        Source::Indices(indices) => inputs.indices = elements(indices),
        Source::Ranges { block_table, cu_seqlens, seq_starts, .. } => {
            inputs.block_table = elements(block_table);
            inputs.cu_seqlens = elements(cu_seqlens);
            inputs.seq_starts = seq_starts.as_ref().map(|t| elements(t));
        }
    }
    cpu::kv_cache_gather::run(device, problem, inputs, |row, bits| {
        let to = (problem.rows.addr as *mut u16).offset(problem.rows.offset([row, 0]) as isize);
        std::ptr::copy_nonoverlapping(bits.as_ptr(), to, bits.len());
    });
}
