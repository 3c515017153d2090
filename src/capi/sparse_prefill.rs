//! Sparse prefill over a BF16 latent KV.

use super::context::{check_no_stream, context_ref, copy_name, flashmla_context_t};
use super::read::{elements, non_null, read_struct, struct_size, write_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::{Backend, Context};
use crate::cpu;
use crate::problem::sparse_prefill::{Raw, Shape, SparsePrefill};
use crate::status::Result;

/// Parameters of sparse prefill. Sizes count elements, strides are in elements. There is no batch
/// axis: requests are laid one after another along `s_q`, their rows along `s_kv`.
///
/// Zero every member that you do not set (`FLASHMLA_SPARSE_PREFILL_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_sparse_prefill_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// 0 or `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`.
    pub flags: u32,
    /// Factor of Q K^T; 0 for the default, d_qk^-0.5.
    pub softmax_scale: f32,
    /// Query tokens.
    pub s_q: i64,
    /// Query heads, at least 1; all share the one KV head.
    pub h_q: i64,
    /// Rows of `kv`.
    pub s_kv: i64,
    /// Elements of a query or KV row: 576, or 512 for rows without RoPE.
    pub d_qk: i64,
    /// Indices of a query token.
    pub topk: i64,
    /// `[s_q, h_q, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
    pub q: flashmla_const_tensor_t,
    /// `[s_kv, 1, d_qk]` BF16, alignment as `q`. Rows that no index names may hold anything.
    pub kv: flashmla_const_tensor_t,
    /// `[s_q, 1, topk]` int32, the innermost stride 1: the rows of `kv` that each query token attends to.
    /// Every index outside `[0, s_kv)` masks its entry. A row that is named twice counts twice.
    pub indices: flashmla_const_tensor_t,
    /// `[s_q]` int32, any stride: how many of its indices count, from the first, clamped to `[0, topk]`; the
    /// others may hold anything. `data` NULL: all.
    pub topk_length: flashmla_const_tensor_t,
    /// `[h_q]` FP32, any stride: attention sinks. `out` is multiplied by exp(lse) / (exp(lse) + exp(sink));
    /// `max_logits` and `lse` do not see it. -inf changes nothing, +inf makes `out` 0. `data` NULL: none.
    pub attn_sink: flashmla_const_tensor_t,
    /// `[s_q, h_q, 512]` BF16, alignment as `q`.
    pub out: flashmla_tensor_t,
    /// `[s_q, h_q]` FP32, any strides; `data` NULL: not wanted.
    pub max_logits: flashmla_tensor_t,
    /// `[s_q, h_q]` FP32, any strides; `data` NULL: not wanted.
    pub lse: flashmla_tensor_t,
    /// Scratch on the device, 256-byte aligned; NULL where the workspace size is 0.
    pub workspace: *mut std::ffi::c_void,
    /// Bytes at `workspace`.
    pub workspace_size: usize,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_sparse_prefill_params_t {
    const NAME: &'static str = "flashmla_sparse_prefill_params_t";
    const FIRST_SIZE: usize = 392;
}

impl flashmla_sparse_prefill_params_t {
    fn raw(&self) -> Raw {
        Raw {
            flags: self.flags,
            softmax_scale: self.softmax_scale,
            s_q: self.s_q,
            h_q: self.h_q,
            s_kv: self.s_kv,
            d_qk: self.d_qk,
            topk: self.topk,
            q: self.q.raw(),
            kv: self.kv.raw(),
            indices: self.indices.raw(),
            topk_length: self.topk_length.raw(),
            attn_sink: self.attn_sink.raw(),
            out: self.out.raw(),
            max_logits: self.max_logits.raw(),
            lse: self.lse.raw(),
            workspace: self.workspace as u64,
            workspace_size: self.workspace_size as u64,
        }
    }
}

type Params = flashmla_sparse_prefill_params_t;

/// Whether this context can run the problem, and with which kernel.
///
/// Reads sizes and `flags`; pointers and strides are not looked at. Pure host arithmetic, thread-safe,
/// legal during capture. Set `out->struct_size` first (`FLASHMLA_KERNEL_INFO_INIT`); `partitions` is 0,
/// there is no plan. Errors: those of `flashmla_sparse_prefill` for sizes and options.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_prefill_query(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_prefill_params_t,
    out: *mut flashmla_kernel_info_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, _, shape) = shape(&context, params)?;
        // SAFETY: per the contract of this function.
        unsafe { struct_size("out", out) }?;
        let mut info =
            flashmla_kernel_info_t { struct_size: 0, name: [0; 64], thread_blocks: 0, cluster_size: 0, partitions: 0 };
        match &context.backend {
            Backend::Cpu(_) => copy_name(&mut info.name, "cpu_sparse_prefill"),
            Backend::Gpu(gpu) => {
                let selection = gpu.sparse_prefill_kernel(&shape);
                copy_name(&mut info.name, selection.name);
                info.thread_blocks = selection.thread_blocks;
                info.cluster_size = 1;
            }
        }
        // SAFETY: checked above.
        unsafe { write_struct("out", out, &info) }
    })
}

/// Bytes of workspace that `flashmla_sparse_prefill` needs, to `*size`.
///
/// Pure host arithmetic: thread-safe, legal during capture. What it gives for some `s_q`, `s_kv` and
/// `topk` suffices for every smaller value of them too, whatever the lengths and indices: an engine asks
/// once, with its maxima. 0 in this version. Reads sizes and `flags`.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_prefill_workspace_size(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_prefill_params_t,
    size: *mut usize,
) -> flashmla_status_t {
    guard(|| {
        shape(&context, params)?;
        non_null("size", size)?;
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *size = 0 };
        Ok(())
    })
}

/// Attention of every query token to the rows of a BF16 latent KV that its indices name, all heads sharing
/// them: `out = softmax(S) V` with `S = softmax_scale Q K^T`, V being the first 512 elements of a row,
/// `max_logits = max(S)` and `lse = ln(sum(exp(S)))`, each over the attended rows alone.
///
/// A query that attends to nothing (every index masked, a length of 0, `topk` 0, `s_kv` 0) gets `out` 0,
/// `max_logits` -inf and `lse` -inf (+inf under `FLASHMLA_FLAG_LSE_EMPTY_POS_INF`). Masking hides rows
/// from a query, causally or otherwise, by leaving them out of its indices.
///
/// Products are of BF16, sums FP32. Runs on `stream` of the context's device (any CUDA context; NULL is
/// the default stream); a CPU context takes NULL and computes before it returns. Does not allocate,
/// synchronise or read device data; may be captured, and replayed after indices, lengths and contents have
/// changed in place. Thread-safe; calls that run at the same time need workspaces of their own.
///
/// `s_q`, `h_q`, `s_kv` and `topk` are at most 2^31 - 1. With `s_q` 0 nothing is read or written.
///
/// Errors: null or misaligned pointers, wrong sizes or strides: nothing is launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_sparse_prefill(
    context: *const flashmla_context_t,
    params: *const flashmla_sparse_prefill_params_t,
    stream: cudaStream_t,
) -> flashmla_status_t {
    guard(|| {
        let (context, params, shape) = shape(&context, params)?;
        let problem = SparsePrefill::check(&params.raw())?;
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
            Backend::Gpu(gpu) => gpu.sparse_prefill(&problem, stream as u64),
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

/// # Safety
/// The tensors of the problem lie in host memory, outputs disjoint from everything else.
unsafe fn run_on_cpu(device: &cpu::CpuDevice, problem: &SparsePrefill) {
    let inputs = cpu::sparse_prefill::Inputs {
        q: elements(&problem.q),
        kv: elements(&problem.kv),
        indices: elements(&problem.indices),
        topk_length: problem.topk_length.as_ref().map(|t| elements(t)),
        attn_sink: problem.attn_sink.as_ref().map(|t| elements(t)),
    };
    cpu::sparse_prefill::run(device, problem, inputs, |row| {
        let [t, h] = row.index;
        let out = (problem.out.addr as *mut u16).offset(problem.out.offset([t, h, 0]) as isize);
        std::ptr::copy_nonoverlapping(row.out.as_ptr(), out, row.out.len());
        for (tensor, value) in [(&problem.max_logits, row.max_logit), (&problem.lse, row.lse)] {
            if let Some(tensor) = tensor {
                *(tensor.addr as *mut f32).offset(tensor.offset([t, h]) as isize) = value;
            }
        }
    });
}
