//! From token positions to indices into a paged cache.

use super::context::{check_no_stream, context_ref, flashmla_context_t};
use super::read::{elements, read_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::Backend;
use crate::cpu;
use crate::problem::map_indices::{MapIndices, Raw};

/// Parameters of `flashmla_map_indices`.
///
/// Zero every member that you do not set (`FLASHMLA_MAP_INDICES_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_map_indices_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// Requests.
    pub b: i64,
    /// Query tokens of a request.
    pub s_q: i64,
    /// Positions of a query token.
    pub topk: i64,
    /// Pages of the cache.
    pub num_blocks: i64,
    /// Tokens of a page, at least 1.
    pub page_block_size: i64,
    /// Columns of the block table.
    pub max_blocks_per_seq: i64,
    /// `[b, s_q, topk]` int32, the innermost stride 1: tokens of the request, counted from its first.
    pub positions: flashmla_const_tensor_t,
    /// `[b, max_blocks_per_seq]` int32, any strides: pages of each request in order.
    pub block_table: flashmla_const_tensor_t,
    /// `[b]` int32, any stride: positions from here on become -1. `data` NULL: those that the block table has no
    /// room for.
    pub cache_seqlens: flashmla_const_tensor_t,
    /// `[b, s_q, topk]` int32, the innermost stride 1; may be `positions` itself, with its strides.
    pub indices: flashmla_tensor_t,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_map_indices_params_t {
    const NAME: &'static str = "flashmla_map_indices_params_t";
    const FIRST_SIZE: usize = 216;
}

impl flashmla_map_indices_params_t {
    fn raw(&self) -> Raw {
        Raw {
            b: self.b,
            s_q: self.s_q,
            topk: self.topk,
            num_blocks: self.num_blocks,
            page_block_size: self.page_block_size,
            max_blocks_per_seq: self.max_blocks_per_seq,
            positions: self.positions.raw(),
            block_table: self.block_table.raw(),
            cache_seqlens: self.cache_seqlens.raw(),
            indices: self.indices.raw(),
        }
    }
}

/// Turns token positions within requests, as an indexer returns them, into the indices of `flashmla_sparse_decode`:
/// `block_table[i][position / page_block_size] * page_block_size + position % page_block_size`.
///
/// A position that is negative, or not below the request's length or what the block table has room for, becomes
/// -1, and so does one whose page lies outside `[0, num_blocks)` or whose index does not fit int32.
///
/// Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
/// NULL and computes before it returns. Needs no workspace; does not allocate, synchronise or read device data on
/// the host; may be captured, and replayed after the inputs have changed in place. Thread-safe.
///
/// Errors: null or misaligned pointers, wrong sizes or strides: nothing is launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_map_indices(
    context: *const flashmla_context_t,
    params: *const flashmla_map_indices_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let context = context_ref(&context)?;
        // SAFETY: per the contract of this function.
        let problem = MapIndices::check(&unsafe { read_struct("params", params) }?.raw())?;
        match &context.backend {
            Backend::Cpu(_) => {
                check_no_stream(stream)?;
                if problem.is_empty() {
                    return Ok(());
                }
                // SAFETY: checked tensors; the caller vouches that the memory is there.
                unsafe { run_on_cpu(&problem) };
                Ok(())
            }
            Backend::Gpu(gpu) => gpu.map_indices(&problem, stream as u64),
        }
    })
}

/// # Safety
/// The tensors of the problem lie in host memory, the indices disjoint from everything but the positions.
unsafe fn run_on_cpu(problem: &MapIndices) {
    let inputs = cpu::map_indices::Inputs {
        block_table: elements(&problem.block_table),
        cache_seqlens: problem.cache_seqlens.as_ref().map(|t| elements(t)),
    };
    let positions = problem.positions.addr as *const i32;
    let indices = problem.indices.addr as *mut i32;
    cpu::map_indices::run(problem, inputs, |at, map| {
        // No references: the two may be the same memory.
        let position = *positions.offset(problem.positions.offset(at) as isize);
        *indices.offset(problem.indices.offset(at) as isize) = map(position);
    });
}
