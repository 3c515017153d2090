//! Types that several operations share.

use super::read::Versioned;
use crate::problem::tensor::RawTensor;
use std::ffi::c_void;

/// Result of every call: 0 for success, otherwise one of the `FLASHMLA_ERROR_*` codes.
#[allow(non_camel_case_types)]
pub type flashmla_status_t = i32;

/// The driver's stream type; the header declares it as CUDA does.
#[allow(non_camel_case_types)]
pub type cudaStream_t = *mut CUstream_st;

#[allow(non_camel_case_types)]
#[repr(C)]
pub struct CUstream_st {
    _opaque: [u8; 0],
}

/// Device ordinal of the CPU backend.
pub const FLASHMLA_DEVICE_CPU: i32 = -1;

/// bfloat16, the default element type.
pub const FLASHMLA_DTYPE_BF16: i32 = 0;
/// IEEE half precision.
pub const FLASHMLA_DTYPE_FP16: i32 = 1;

/// Pages of plain rows, `[num_blocks, page_block_size, h_kv, d_qk]`, of the inputs' type.
pub const FLASHMLA_LAYOUT_PLAIN: i32 = 0;
/// FP8 with FP32 scales, d_qk 576, 656 bytes a token, tokens one after another: bytes [0, 512) e4m3, the latent
/// part; [512, 528) four scales, one for 128 elements; [528, 656) 64 BF16, the rotary part. An element is
/// its e4m3 value times its scale.
pub const FLASHMLA_LAYOUT_V32: i32 = 1;
/// FP8 with e8m0 scales, d_qk 512, 584 bytes a token. A page holds all data rows of 576 bytes (448 e4m3, then
/// 64 BF16, the rotary part), then all scale rows of 8 bytes (7 e8m0, one for 64 elements, and a byte that means
/// nothing).
pub const FLASHMLA_LAYOUT_V4: i32 = 2;

/// int32.
pub const FLASHMLA_INDEX_INT32: i32 = 0;
/// int64.
pub const FLASHMLA_INDEX_INT64: i32 = 1;

/// A scale is the least power of two that is not below max / 448, at least 2^-13 (as in upstream FlashMLA's
/// reference).
pub const FLASHMLA_SCALE_POWER_OF_TWO: i32 = 0;
/// A scale is max / 448 in FP32, at least 2^-126; `FLASHMLA_LAYOUT_V32` alone can hold it.
pub const FLASHMLA_SCALE_EXACT: i32 = 1;

/// Query token i of s_q sees keys 0 ..= s_k - s_q + i (aligned to the bottom right).
pub const FLASHMLA_FLAG_CAUSAL: u32 = 1;
/// A query with no attended token gets lse = +inf (upstream FlashMLA's convention), not -inf.
pub const FLASHMLA_FLAG_LSE_EMPTY_POS_INF: u32 = 2;
/// A request's result does not depend, to the bit, on what else is in the batch.
pub const FLASHMLA_FLAG_BATCH_INVARIANT: u32 = 4;

/// An input tensor.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_const_tensor_t {
    /// Address of element 0: device memory, or host memory in a CPU context.
    pub data: *const c_void,
    /// Strides in elements, outermost first; unused ones are 0. All 0: contiguous.
    pub strides: [i64; 4],
}

/// An output tensor.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_tensor_t {
    /// Address of element 0: device memory, or host memory in a CPU context.
    pub data: *mut c_void,
    /// Strides in elements, outermost first; unused ones are 0. All 0: contiguous.
    pub strides: [i64; 4],
}

impl flashmla_const_tensor_t {
    pub(crate) fn raw(&self) -> RawTensor {
        RawTensor { addr: self.data as u64, strides: self.strides }
    }
}

impl flashmla_tensor_t {
    pub(crate) fn raw(&self) -> RawTensor {
        RawTensor { addr: self.data as u64, strides: self.strides }
    }
}

/// A division of decode work over the device: memory for it and what it was made for.
///
/// The plan function of an operation fills `data` on the stream and `fingerprint` on the host;
/// the operation refuses a plan whose fingerprint does not fit its own parameters.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_plan_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// Device memory of at least the plan size, 256-byte aligned; NULL where that size is 0.
    pub data: *mut c_void,
    /// Bytes at `data`.
    pub size: usize,
    /// Written by the plan function; 0 means: not made yet.
    pub fingerprint: u64,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_plan_t {
    const NAME: &'static str = "flashmla_plan_t";
    const FIRST_SIZE: usize = 32;
}

/// How a problem would be run.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_kernel_info_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// Name of the kernel, NUL-terminated.
    pub name: [std::ffi::c_char; 64],
    /// Thread blocks of the launch, at most, 0 on the CPU.
    pub thread_blocks: i64,
    /// Thread blocks of a cluster, 0 on the CPU.
    pub cluster_size: i32,
    /// Parts over which the batch is divided, 0 on the CPU.
    pub partitions: i32,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_kernel_info_t {
    const NAME: &'static str = "flashmla_kernel_info_t";
    const FIRST_SIZE: usize = 88;
}
