//! Dense decode over a paged latent KV cache.

use super::context::{check_no_stream, context_ref, copy_name, flashmla_context_t};
use super::read::{elements, non_null, read_struct, struct_ref, struct_size, write_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::{Backend, Context};
use crate::cpu;
use crate::err;
use crate::problem::dense_decode::{DenseDecode, Raw, Shape};
use crate::problem::tensor::{check_address, Rules, Tensor};
use crate::schedule::Grid;
use crate::status::Result;
use crate::workspace::PlanLayout;

/// Parameters of dense decode. Sizes count elements, strides are in elements.
///
/// Zero every member that you do not set (`FLASHMLA_DENSE_DECODE_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_dense_decode_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// Type of `q`, `kv_cache` and `out`: `FLASHMLA_DTYPE_*`.
    pub dtype: i32,
    /// `FLASHMLA_FLAG_*`, combined.
    pub flags: u32,
    /// Requests.
    pub b: i64,
    /// Query tokens of a request.
    pub s_q: i64,
    /// Query heads, a multiple of `h_kv`.
    pub h_q: i64,
    /// KV heads, at most 2^30.
    pub h_kv: i64,
    /// Elements of a query or cache row: 576, or 512 for a cache without RoPE.
    pub d_qk: i64,
    /// Elements of an output row: 512; 0 for the default, 512.
    pub d_v: i64,
    /// Pages of the cache.
    pub num_blocks: i64,
    /// Tokens of a page, at least 1. Multiples of 64 run at full speed.
    pub page_block_size: i64,
    /// Columns of the block table.
    pub max_blocks_per_seq: i64,
    /// Factor of Q K^T; 0 for the default, d_qk^-0.5.
    pub softmax_scale: f32,
    /// Must be 0.
    pub reserved: i32,
    /// `[b, s_q, h_q, d_qk]`, 16-byte aligned, strides multiples of 8, the innermost 1.
    pub q: flashmla_const_tensor_t,
    /// `[num_blocks, page_block_size, h_kv, d_qk]`, alignment as `q`; see `kv_layout` for pages of FP8.
    pub kv_cache: flashmla_const_tensor_t,
    /// `[b, max_blocks_per_seq]` int32: pages of each request in order. Entries past the last used
    /// page may hold anything; a used entry outside `[0, num_blocks)` reads as a page of zeros.
    pub block_table: flashmla_const_tensor_t,
    /// `[b]` int32: cached tokens of each request, clamped to what the block table can hold.
    pub cache_seqlens: flashmla_const_tensor_t,
    /// `[b, s_q, h_q, 512]`, alignment as `q`.
    pub out: flashmla_tensor_t,
    /// `[b, h_q, s_q]` FP32, any strides; `data` NULL: not wanted.
    pub lse: flashmla_tensor_t,
    /// Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
    pub workspace: *mut std::ffi::c_void,
    /// Bytes at `workspace`.
    pub workspace_size: usize,
    /// The plan: written by `flashmla_dense_decode_plan`, read by `flashmla_dense_decode`.
    pub plan: *mut flashmla_plan_t,
    /// How `kv_cache` stores tokens: `FLASHMLA_LAYOUT_*`, 0 for plain rows of `dtype`. With pages of FP8 `dtype`
    /// is BF16, `h_kv` 1, `d_qk` the layout's, and `kv_cache` is bytes, `[num_blocks, bytes of a page]`: 16-byte
    /// aligned, the stride between pages in bytes, a multiple of 16 and no smaller than a page.
    pub kv_layout: i32,
    /// Must be 0.
    pub reserved2: i32,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_dense_decode_params_t {
    const NAME: &'static str = "flashmla_dense_decode_params_t";
    const FIRST_SIZE: usize = 360;
}

impl flashmla_dense_decode_params_t {
    #[inline(always)]
    fn raw(&self) -> Result<Raw> {
        if self.reserved != 0 {
            return err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "reserved = {}: must be 0", self.reserved);
        }
        if self.reserved2 != 0 {
            return err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "reserved2 = {}: must be 0", self.reserved2);
        }
        Ok(Raw {
            dtype: self.dtype,
            flags: self.flags,
            b: self.b,
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: self.h_kv,
            d_qk: self.d_qk,
            d_v: self.d_v,
            num_blocks: self.num_blocks,
            page_block_size: self.page_block_size,
            max_blocks_per_seq: self.max_blocks_per_seq,
            softmax_scale: self.softmax_scale,
            q: self.q.raw(),
            kv_cache: self.kv_cache.raw(),
            block_table: self.block_table.raw(),
            cache_seqlens: self.cache_seqlens.raw(),
            out: self.out.raw(),
            lse: self.lse.raw(),
            workspace: self.workspace as u64,
            workspace_size: self.workspace_size as u64,
            kv_layout: self.kv_layout,
        })
    }
}

type Params = flashmla_dense_decode_params_t;

/// Whether this context can run the problem, and with which kernel.
///
/// Reads sizes, `dtype`, `kv_layout` and `flags`; pointers, strides and the plan are not looked at. Pure host
/// arithmetic, thread-safe, legal during capture. Set `out->struct_size` first
/// (`FLASHMLA_KERNEL_INFO_INIT`). Errors: those of `flashmla_dense_decode` for sizes and options.
#[no_mangle]
pub unsafe extern "C" fn flashmla_dense_decode_query(
    context: *const flashmla_context_t,
    params: *const flashmla_dense_decode_params_t,
    out: *mut flashmla_kernel_info_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        // SAFETY: per the contract of this function.
        unsafe { struct_size("out", out) }?;
        let mut info =
            flashmla_kernel_info_t { struct_size: 0, name: [0; 64], thread_blocks: 0, cluster_size: 0, partitions: 0 };
        match &context.backend {
            Backend::Cpu(_) => copy_name(&mut info.name, "cpu_dense_decode"),
            Backend::Gpu(gpu) => {
                let launch = gpu.dense_decode_kernel(&shape)?;
                copy_name(&mut info.name, launch.name);
                info.thread_blocks = launch.thread_blocks;
                info.cluster_size = launch.cluster as i32;
                info.partitions = launch.grid.partitions as i32;
            }
        }
        // SAFETY: checked above.
        unsafe { write_struct("out", out, &info) }
    })
}

/// Bytes of workspace that `flashmla_dense_decode` needs, to `*size`.
///
/// Pure host arithmetic: thread-safe, legal during capture. What it gives for some `b`, `s_q` and
/// `max_blocks_per_seq` suffices for every smaller value of them too, whatever the lengths: an
/// engine asks once, with its maxima. 0 where nothing can be split, and for CPU contexts. Reads
/// sizes, `dtype`, `kv_layout` and `flags`.
#[no_mangle]
pub unsafe extern "C" fn flashmla_dense_decode_workspace_size(
    context: *const flashmla_context_t,
    params: *const flashmla_dense_decode_params_t,
    size: *mut usize,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        non_null("size", size)?;
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *size = context.workspace_size(&shape) as usize };
        Ok(())
    })
}

/// Bytes of device memory that a plan needs, to `*size`.
///
/// As `flashmla_dense_decode_workspace_size`: pure, monotone in `b` and `s_q`, 0 for CPU contexts.
#[no_mangle]
pub unsafe extern "C" fn flashmla_dense_decode_plan_size(
    context: *const flashmla_context_t,
    params: *const flashmla_dense_decode_params_t,
    size: *mut usize,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        non_null("size", size)?;
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *size = context.plan_size(&shape) as usize };
        Ok(())
    })
}

/// Divides the work of a step over the device: writes the plan to `params->plan->data` on
/// `stream`, and its fingerprint to `params->plan->fingerprint` at once.
///
/// Once per step, before the first layer: the plan depends on the sizes, `flags` and the values of
/// `cache_seqlens` when the stream gets there, and serves every `flashmla_dense_decode` with these.
/// Reads `cache_seqlens` alone of the tensors. Does not allocate or synchronise; may be captured:
/// a replay plans anew from the lengths it finds. Thread-safe for different plans.
#[no_mangle]
pub unsafe extern "C" fn flashmla_dense_decode_plan(
    context: *const flashmla_context_t,
    params: *const flashmla_dense_decode_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, params, shape) = shape(&context, params)?;
        // SAFETY: per the contract of this function.
        let plan = unsafe { read_struct("params->plan", params.plan) }?;
        let lens = Tensor::check("cache_seqlens", &params.cache_seqlens.raw(), [shape.b], Rules::WORD_32)?;
        check_plan_buffer(&shape, context.grid(&shape).as_ref(), &plan)?;
        match &context.backend {
            Backend::Cpu(_) => check_no_stream(stream)?,
            Backend::Gpu(gpu) if shape.layout.is_fp8() => {
                gpu.dense_fp8_decode_plan(&shape, &lens, plan.data as u64, stream as u64)?
            }
            Backend::Gpu(gpu) => gpu.dense_decode_plan(&shape, &lens, plan.data as u64, stream as u64)?,
        }
        // SAFETY: `read_struct` found at least the first version's members there.
        unsafe { (*params.plan).fingerprint = context.plan_fingerprint(&shape) };
        Ok(())
    })
}

/// Attention of `s_q` query tokens per request over a paged KV cache, all heads of a KV head
/// sharing its rows: `out = softmax(softmax_scale Q K^T) V`, V being the first 512 elements of a
/// cache row, and `lse = ln(sum(exp(softmax_scale Q K^T)))`.
///
/// A query that sees no token gets `out` 0 and `lse` -inf. Products are of the inputs' type,
/// sums FP32. Pages of FP8 (`kv_layout`) are read as in `flashmla_sparse_decode`. Runs on `stream` of
/// the context's device (any CUDA context; NULL is the default stream); a CPU context takes NULL and computes before it returns. Does not allocate,
/// synchronise or read device data; may be captured, and replayed after lengths, block tables and
/// plan have changed in place. Thread-safe; calls that run at the same time need workspaces of
/// their own. Needs the plan of this step (a CPU context too, where making it costs nothing).
///
/// Errors: null or misaligned pointers, wrong sizes or strides, a workspace that is too small, a
/// plan made for other parameters: nothing is launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_dense_decode(
    context: *const flashmla_context_t,
    params: *const flashmla_dense_decode_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let context = context_ref(&context)?;
        // SAFETY: per the contract of this function.
        let mut copy = None;
        let params = unsafe { struct_ref("params", params, &mut copy) }?;
        let problem = DenseDecode::check(&params.raw()?)?;
        let shape = &problem.shape;
        // SAFETY: per the contract of this function.
        let plan = unsafe { read_struct("params->plan", params.plan) }?;
        let grid = context.grid(shape);
        check_plan_buffer(shape, grid.as_ref(), &plan)?;
        check_fingerprint(shape, grid.as_ref(), &plan)?;
        match &context.backend {
            Backend::Cpu(device) => {
                check_no_stream(stream)?;
                if shape.is_empty() {
                    return Ok(());
                }
                // SAFETY: checked tensors; the caller vouches that the memory is there.
                unsafe { run_on_cpu(device, &problem) };
                Ok(())
            }
            Backend::Gpu(gpu) if shape.layout.is_fp8() => {
                gpu.dense_fp8_decode(&problem, plan.data as u64, stream as u64)
            }
            Backend::Gpu(gpu) => {
                let grid = grid.unwrap_or_else(|| Grid::new(shape, gpu.multiprocessors()));
                gpu.dense_decode(&problem, &grid, plan.data as u64, stream as u64)
            }
        }
    })
}

fn shape(context: &*const flashmla_context_t, params: *const Params) -> Result<(&Context, Params, Shape)> {
    let context = context_ref(context)?;
    // SAFETY: per the contract of every function here.
    let params = unsafe { read_struct("params", params) }?;
    let shape = Shape::check(&params.raw()?)?;
    Ok((context, params, shape))
}

fn check_plan_buffer(shape: &Shape, grid: Option<&Grid>, plan: &flashmla_plan_t) -> Result<()> {
    let needed = match grid {
        Some(grid) if !shape.is_empty() => PlanLayout::new(shape, grid.partitions).size,
        _ => return Ok(()),
    };
    if (plan.size as u64) < needed {
        return err!(FLASHMLA_ERROR_BUFFER_TOO_SMALL, "plan.size = {}: must be at least {needed} bytes", plan.size);
    }
    check_address("plan", ".data", plan.data as u64, 256)
}

fn check_fingerprint(shape: &Shape, grid: Option<&Grid>, plan: &flashmla_plan_t) -> Result<()> {
    let expected = Context::plan_fingerprint_of(shape, grid);
    if plan.fingerprint == 0 {
        return err!(FLASHMLA_ERROR_PLAN_MISMATCH, "plan.fingerprint = 0: call flashmla_dense_decode_plan first");
    }
    if plan.fingerprint != expected {
        return err!(
            FLASHMLA_ERROR_PLAN_MISMATCH,
            "plan.fingerprint = {:#x}: must be {expected:#x}, the plan was made for other sizes, flags or device",
            plan.fingerprint
        );
    }
    Ok(())
}

/// # Safety
/// The tensors of the problem lie in host memory, outputs disjoint from everything else.
unsafe fn run_on_cpu(device: &cpu::CpuDevice, problem: &DenseDecode) {
    let inputs = cpu::dense_decode::Inputs {
        q: elements(&problem.q),
        kv_cache: elements(&problem.kv_cache),
        fp8_cache: elements(&problem.fp8_cache),
        block_table: elements(&problem.block_table),
        cache_seqlens: elements(&problem.cache_seqlens),
    };
    cpu::dense_decode::run(device, problem, inputs, |row| {
        let [i, t, h] = row.index;
        let out = (problem.out.addr as *mut u16).offset(problem.out.offset([i, t, h, 0]) as isize);
        std::ptr::copy_nonoverlapping(row.out.as_ptr(), out, row.out.len());
        if let Some(lse) = &problem.lse {
            *(lse.addr as *mut f32).offset(lse.offset([i, h, t]) as isize) = row.lse;
        }
    });
}
