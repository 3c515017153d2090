//! Sparse decode over a paged FP8 latent cache.

use super::context::{check_no_stream, context_ref, copy_name, flashmla_context_t};
use super::read::{elements, non_null, read_struct, struct_size, write_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::{sparse_decode as plans, Backend, Context};
use crate::cpu;
use crate::err;
use crate::gpu::sparse_decode::Lengths;
use crate::problem::sparse_decode::{Cache, Raw, RawCache, Shape, SparseDecode};
use crate::problem::tensor::{check_address, Rules, Tensor};
use crate::status::Result;
use crate::workspace::PlanLayout;

/// Parameters of sparse decode. Sizes count elements, strides are in elements; those of the caches in bytes.
///
/// Zero every member that you do not set (`FLASHMLA_SPARSE_DECODE_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_sparse_decode_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// How `kv_cache` stores tokens: `FLASHMLA_LAYOUT_V32` or `FLASHMLA_LAYOUT_V4`.
    pub layout: i32,
    /// `FLASHMLA_FLAG_BATCH_INVARIANT` and `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`, combined.
    pub flags: u32,
    /// Factor of Q K^T; 0 for the default, d_qk^-0.5.
    pub softmax_scale: f32,
    /// How `extra_kv_cache` stores tokens: 0, as `kv_cache` does; no other is supported.
    pub extra_layout: i32,
    /// Requests.
    pub b: i64,
    /// Query tokens of a request.
    pub s_q: i64,
    /// Query heads, at least 1; all share the one KV head.
    pub h_q: i64,
    /// Elements of a query row: 576 with `FLASHMLA_LAYOUT_V32`, 512 with `FLASHMLA_LAYOUT_V4`.
    pub d_qk: i64,
    /// Pages of the cache.
    pub num_blocks: i64,
    /// Tokens of a page, at least 1.
    pub page_block_size: i64,
    /// Indices of a query token.
    pub topk: i64,
    /// Pages of the second cache. There is one where any of the `extra_` members is not 0.
    pub extra_num_blocks: i64,
    /// Tokens of its pages, at least 1.
    pub extra_page_block_size: i64,
    /// Indices of a query token into it.
    pub extra_topk: i64,
    /// `[b, s_q, h_q, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
    pub q: flashmla_const_tensor_t,
    /// Bytes, `[num_blocks, bytes of a page]`: 16-byte aligned, the stride between pages in bytes, a multiple of
    /// 16 (rows are copied by 16 bytes; contiguous `FLASHMLA_LAYOUT_V4` pages of an odd number of tokens are not)
    /// and no smaller than a page. Tokens that no index names may hold anything.
    pub kv_cache: flashmla_const_tensor_t,
    /// `[b, s_q, topk]` int32, the innermost stride 1: the tokens that each query token attends to, as
    /// page * page_block_size + position in the page. Every index outside
    /// `[0, num_blocks * page_block_size)` masks its entry. A token that is named twice counts twice.
    pub indices: flashmla_const_tensor_t,
    /// `[b, s_q]` int32, any strides: how many of its indices count, from the first, clamped to `[0, topk]`; the
    /// others may hold anything. Strides {1, 0}: one length for each request. `data` NULL: all count.
    pub topk_length: flashmla_const_tensor_t,
    /// The second cache, as `kv_cache`: attention runs over the tokens named in either.
    pub extra_kv_cache: flashmla_const_tensor_t,
    /// `[b, s_q, extra_topk]` int32, as `indices`.
    pub extra_indices: flashmla_const_tensor_t,
    /// `[b, s_q]` int32, as `topk_length`.
    pub extra_topk_length: flashmla_const_tensor_t,
    /// `[h_q]` FP32, any stride: attention sinks. `out` is multiplied by exp(lse) / (exp(lse) + exp(sink)); `lse`
    /// does not see it. -inf changes nothing, +inf makes `out` 0. `data` NULL: none.
    pub attn_sink: flashmla_const_tensor_t,
    /// `[b, s_q, h_q, 512]` BF16, alignment as `q`.
    pub out: flashmla_tensor_t,
    /// `[b, h_q, s_q]` FP32, any strides; `data` NULL: not wanted.
    pub lse: flashmla_tensor_t,
    /// Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
    pub workspace: *mut std::ffi::c_void,
    /// Bytes at `workspace`.
    pub workspace_size: usize,
    /// The plan: written by `flashmla_sparse_decode_plan`, read by `flashmla_sparse_decode`.
    pub plan: *mut flashmla_plan_t,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_sparse_decode_params_t {
    const NAME: &'static str = "flashmla_sparse_decode_params_t";
    const FIRST_SIZE: usize = 528;
}

impl flashmla_sparse_decode_params_t {
    fn raw(&self) -> Raw {
        Raw {
            flags: self.flags,
            softmax_scale: self.softmax_scale,
            b: self.b,
            s_q: self.s_q,
            h_q: self.h_q,
            d_qk: self.d_qk,
            q: self.q.raw(),
            cache: RawCache {
                layout: self.layout,
                num_blocks: self.num_blocks,
                page_block_size: self.page_block_size,
                topk: self.topk,
                kv_cache: self.kv_cache.raw(),
                indices: self.indices.raw(),
                topk_length: self.topk_length.raw(),
            },
            extra: RawCache {
                layout: self.extra_layout,
                num_blocks: self.extra_num_blocks,
                page_block_size: self.extra_page_block_size,
                topk: self.extra_topk,
                kv_cache: self.extra_kv_cache.raw(),
                indices: self.extra_indices.raw(),
                topk_length: self.extra_topk_length.raw(),
            },
            attn_sink: self.attn_sink.raw(),
            out: self.out.raw(),
            lse: self.lse.raw(),
            workspace: self.workspace as u64,
            workspace_size: self.workspace_size as u64,
        }
    }
}

type Params = flashmla_sparse_decode_params_t;

/// Whether this context can run the problem, and with which kernel.
///
/// Reads sizes, layouts and `flags`; strides and the plan are not looked at, and of pointers only whether they
/// are NULL. Pure host arithmetic, thread-safe, legal during capture. Set `out->struct_size` first
/// (`FLASHMLA_KERNEL_INFO_INIT`). Errors: those of `flashmla_sparse_decode` for sizes and options.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_decode_query(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_decode_params_t,
    out: *mut flashmla_kernel_info_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, params, shape) = shape(&context, params)?;
        // SAFETY: per the contract of this function.
        unsafe { struct_size("out", out) }?;
        let mut info =
            flashmla_kernel_info_t { struct_size: 0, name: [0; 64], thread_blocks: 0, cluster_size: 0, partitions: 0 };
        match &context.backend {
            Backend::Cpu(_) => copy_name(&mut info.name, "cpu_sparse_decode"),
            Backend::Gpu(gpu) => {
                let lengths = [params.topk_length, params.extra_topk_length];
                let launch = gpu.sparse_decode_kernel(&shape, lengths.iter().any(|tensor| !tensor.data.is_null()));
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

/// Bytes of workspace that `flashmla_sparse_decode` needs, to `*size`.
///
/// Pure host arithmetic: thread-safe, legal during capture. What it gives for some `b`, `s_q`, `topk` and
/// `extra_topk` suffices for every smaller value of them too, whatever the lengths and indices: an engine asks
/// once, with its maxima. 0 where nothing can be split, and for CPU contexts. Reads sizes, layouts and `flags`.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_decode_workspace_size(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_decode_params_t,
    size: *mut usize,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        non_null("size", size)?;
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *size = plans::workspace_size(context, &shape) as usize };
        Ok(())
    })
}

/// Bytes of device memory that a plan needs, to `*size`.
///
/// As `flashmla_sparse_decode_workspace_size`: pure, monotone in `b` and `s_q`, 0 for CPU contexts.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_decode_plan_size(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_decode_params_t,
    size: *mut usize,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        non_null("size", size)?;
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *size = plans::plan_size(context, &shape) as usize };
        Ok(())
    })
}

/// Divides the work of a step over the device: writes the plan to `params->plan->data` on `stream`, and its
/// fingerprint to `params->plan->fingerprint` at once.
///
/// Once per step, before the first layer: the plan depends on the sizes, `flags` and the values of `topk_length`
/// and `extra_topk_length` when the stream gets there, and serves every `flashmla_sparse_decode` with these.
/// Reads these two alone of the tensors; without them a plan serves every step of the same sizes. Does not
/// allocate or synchronise; may be captured: a replay plans anew from the lengths it finds. Thread-safe for
/// different plans.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_decode_plan(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_decode_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, params, shape) = shape(&context, params)?;
        // SAFETY: per the contract of this function.
        let plan = unsafe { read_struct("params->plan", params.plan) }?;
        let sizes = [shape.b, shape.s_q];
        let lens = |name: &str, raw: flashmla_const_tensor_t| {
            Tensor::check_optional(name, &raw.raw(), sizes, Rules::WORD_32.broadcast())
        };
        let lens = Lengths {
            first: lens("topk_length", params.topk_length)?,
            extra: lens("extra_topk_length", params.extra_topk_length)?,
        };
        check_plan_buffer(context, &shape, &plan)?;
        match &context.backend {
            Backend::Cpu(_) => check_no_stream(stream)?,
            Backend::Gpu(gpu) => gpu.sparse_decode_plan(&shape, lens, plan.data as u64, stream as u64)?,
        }
        // SAFETY: `read_struct` found at least the first version's members there.
        unsafe { (*params.plan).fingerprint = plans::plan_fingerprint(context, &shape) };
        Ok(())
    })
}

/// Attention of every query token to the tokens of an FP8 cache, and of a second one where there is one, that
/// its indices name, all heads sharing them: `out = softmax(softmax_scale Q K^T) V`, V being the first 512
/// elements of a token, and `lse = ln(sum(exp(softmax_scale Q K^T)))`.
///
/// A query that attends to nothing (every index masked, lengths of 0, `topk` 0, no pages) gets `out` 0 and `lse`
/// -inf (+inf under `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`). An element of the cache is its e4m3 value times its scale,
/// rounded to BF16 once; scales may be any positive finite number that their type holds. A token whose scale is NaN reads
/// as NaN in that scale's elements, and so become the results of the queries that attend to it, and no others; likewise a rotary element that is NaN. e4m3's two codes of NaN
/// (0x7F and 0xFF) read as NaN in a CPU context and as +-480 times the scale in a GPU context: to look for them costs
/// a tenth of the time. (`flashmla_kv_cache_append` gives what holds a NaN a scale of NaN, too.)
///
/// Products are of BF16, sums FP32. Runs on `stream` of the context's device (any CUDA context; NULL is the
/// default stream); a CPU context takes NULL and computes before it returns. Does not allocate, synchronise or
/// read device data; may be captured, and replayed after indices, lengths, contents and plan have changed in
/// place. Thread-safe; calls that run at the same time need workspaces of their own. Needs the plan of this step
/// (a CPU context too, where making it costs nothing).
///
/// Errors: null or misaligned pointers, wrong sizes or strides, a layout that does not fit `d_qk`, a second cache
/// without indices or the reverse, a workspace that is too small, a plan made for other parameters: nothing is
/// launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_decode(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_decode_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, params, shape) = shape(&context, params)?;
        let problem = SparseDecode::check(&params.raw())?;
        // SAFETY: per the contract of this function.
        let plan = unsafe { read_struct("params->plan", params.plan) }?;
        check_plan_buffer(context, &shape, &plan)?;
        check_fingerprint(context, &shape, &plan)?;
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
            Backend::Gpu(gpu) => gpu.sparse_decode(&problem, plan.data as u64, stream as u64),
        }
    })
}

fn shape(context: &*const flashmla_context_t, params: *const Params) -> Result<(&Context, Params, Shape)> {
    let context = context_ref(context)?;
    // SAFETY: per the contract of every function here.
    let params = unsafe { read_struct("params", params) }?;
    let shape = Shape::check(&params.raw())?;
    Ok((context, params, shape))
}

fn check_plan_buffer(context: &Context, shape: &Shape, plan: &flashmla_plan_t) -> Result<()> {
    let needed = match plans::grid(context, shape) {
        Some(grid) if !shape.is_empty() => PlanLayout::new(shape, grid.partitions).size,
        _ => return Ok(()),
    };
    if (plan.size as u64) < needed {
        return err!(FLASHMLA_ERROR_BUFFER_TOO_SMALL, "plan.size = {}: must be at least {needed} bytes", plan.size);
    }
    check_address("plan", ".data", plan.data as u64, 256)
}

fn check_fingerprint(context: &Context, shape: &Shape, plan: &flashmla_plan_t) -> Result<()> {
    let expected = plans::plan_fingerprint(context, shape);
    if plan.fingerprint == 0 {
        return err!(FLASHMLA_ERROR_PLAN_MISMATCH, "plan.fingerprint = 0: call flashmla_sparse_decode_plan first");
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
unsafe fn run_on_cpu(device: &cpu::CpuDevice, problem: &SparseDecode) {
    let cache = |cache: &Cache| cpu::sparse_decode::CacheInputs {
        kv_cache: elements(&cache.kv_cache),
        indices: elements(&cache.indices),
        topk_length: cache.topk_length.as_ref().map(|t| elements(t)),
    };
    let inputs = cpu::sparse_decode::Inputs {
        q: elements(&problem.q),
        cache: cache(&problem.cache),
        extra: problem.extra.as_ref().map(cache),
        attn_sink: problem.attn_sink.as_ref().map(|t| elements(t)),
    };
    cpu::sparse_decode::run(device, problem, inputs, |row| {
        let [i, t, h] = row.index;
        let out = (problem.out.addr as *mut u16).offset(problem.out.offset([i, t, h, 0]) as isize);
        std::ptr::copy_nonoverlapping(row.out.as_ptr(), out, row.out.len());
        if let Some(lse) = &problem.lse {
            *(lse.addr as *mut f32).offset(lse.offset([i, h, t]) as isize) = row.lse;
        }
    });
}
