//! Writing tokens into a paged latent cache.

use super::context::{check_no_stream, context_ref, flashmla_context_t};
use super::read::{elements, read_struct, Versioned};
use super::types::*;
use crate::boundary::guard;
use crate::context::Backend;
use crate::cpu::{self, kv_cache_append::Slots};
use crate::err;
use crate::problem::kv_cache_append::{IndexType, KvCacheAppend, Raw};

/// Parameters of `flashmla_kv_cache_append`.
///
/// Zero every member that you do not set (`FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT`).
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_kv_cache_append_params_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// How the cache stores tokens: `FLASHMLA_LAYOUT_*`.
    pub layout: i32,
    /// How scales are chosen: `FLASHMLA_SCALE_*`. `FLASHMLA_LAYOUT_V4` holds powers of two alone; plain rows have
    /// no scales.
    pub scale_rule: i32,
    /// Type of `slot_mapping`: `FLASHMLA_INDEX_*`.
    pub slot_type: i32,
    /// Must be 0.
    pub reserved: i32,
    /// Rows.
    pub n: i64,
    /// Elements of a row: 576 or 512; with FP8 pages the layout's.
    pub d_qk: i64,
    /// Pages of the cache.
    pub num_blocks: i64,
    /// Tokens of a page, at least 1.
    pub page_block_size: i64,
    /// `[n, d_qk]` BF16, 16-byte aligned, strides multiples of 8, the innermost 1.
    pub rows: flashmla_const_tensor_t,
    /// `[n]` int32 or int64, any stride: where each row goes, as page * page_block_size + position in the page.
    /// -1, or any other slot outside `[0, num_blocks * page_block_size)`: nowhere.
    pub slot_mapping: flashmla_const_tensor_t,
    /// FP8 pages: bytes, `[num_blocks, bytes of a page]`, 16-byte aligned, the stride between pages in bytes, a
    /// multiple of 16 and no smaller than a page. Plain: `[num_blocks, page_block_size, d_qk]` of 16 bits,
    /// alignment as `rows`.
    pub kv_cache: flashmla_tensor_t,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_kv_cache_append_params_t {
    const NAME: &'static str = "flashmla_kv_cache_append_params_t";
    const FIRST_SIZE: usize = 176;
}

impl flashmla_kv_cache_append_params_t {
    fn check(&self) -> crate::status::Result<KvCacheAppend> {
        if self.reserved != 0 {
            return err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "reserved = {}: must be 0", self.reserved);
        }
        KvCacheAppend::check(&Raw {
            layout: self.layout,
            scale_rule: self.scale_rule,
            slot_type: self.slot_type,
            n: self.n,
            d_qk: self.d_qk,
            num_blocks: self.num_blocks,
            page_block_size: self.page_block_size,
            rows: self.rows.raw(),
            slot_mapping: self.slot_mapping.raw(),
            kv_cache: self.kv_cache.raw(),
        })
    }
}

/// Stores BF16 rows in the slots of a cache, quantised where its layout asks for that: what an engine does with
/// the keys of each step.
///
/// A group of elements with one scale is stored as e4m3(x / scale), rounded to nearest even, where the scale
/// follows from the group's largest magnitude by `scale_rule`, in FP32; a group with a NaN or an infinity gets
/// the scale NaN and codes of NaN. The rotary part, and plain rows (of any 16-bit type), are copied. The
/// meaningless byte of `FLASHMLA_LAYOUT_V4`'s scale rows becomes 0. No other byte of the cache changes. Slots
/// should differ: rows with one slot leave there what either of them would, or a mixture.
///
/// Runs on `stream` of the context's device (any CUDA context; NULL is the default stream); a CPU context takes
/// NULL and stores before it returns. Needs no workspace; does not allocate, synchronise or read device data;
/// may be captured, and replayed after rows and slots have changed in place. Thread-safe.
///
/// Errors: null or misaligned pointers, wrong sizes or strides, `FLASHMLA_SCALE_EXACT` with
/// `FLASHMLA_LAYOUT_V4`: nothing is launched and nothing is written.
#[no_mangle]
pub unsafe extern "C" fn flashmla_kv_cache_append(
    context: *const flashmla_context_t,
    params: *const flashmla_kv_cache_append_params_t,
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
            Backend::Gpu(gpu) => gpu.kv_cache_append(&problem, stream as u64),
        }
    })
}

/// # Safety
/// The tensors of the problem lie in host memory, the cache disjoint from everything else.
unsafe fn run_on_cpu(device: &cpu::CpuDevice, problem: &KvCacheAppend) {
    let slots = match problem.slot_type {
        IndexType::Int32 => Slots::Int32(elements(&problem.slot_mapping)),
        IndexType::Int64 => Slots::Int64(elements(&problem.slot_mapping)),
    };
    let inputs = cpu::kv_cache_append::Inputs { rows: elements(&problem.rows), slots };
    cpu::kv_cache_append::run(device, problem, inputs, |write| {
        let to = (problem.kv_cache.addr as *mut u8).offset(write.offset as isize);
        std::ptr::copy_nonoverlapping(write.bytes.as_ptr(), to, write.bytes.len());
    });
}
