//! Contexts: a device made ready.

use super::read::{non_null, read_struct, struct_size, write_struct, Versioned};
use super::types::{cudaStream_t, flashmla_status_t};
use crate::boundary::guard;
use crate::context::{Backend, Context, DEVICE_CPU};
use crate::cpu::CpuDevice;
use crate::err;
use crate::gpu::GpuDevice;
use crate::status::Result;
use std::ffi::c_char;

/// A device made ready. Immutable: any number of threads may use it at once.
#[allow(non_camel_case_types)]
pub struct flashmla_context_t {
    pub(crate) inner: Context,
}

/// How to create a context. All 0 is the default; use `FLASHMLA_OPTIONS_INIT`.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_options_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// Threads of the CPU backend; 0: one per available core. Ignored by GPU contexts.
    pub cpu_threads: i32,
    /// Must be 0.
    pub reserved: i32,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_options_t {
    const NAME: &'static str = "flashmla_options_t";
    const FIRST_SIZE: usize = 16;
}

/// What a context runs on.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashmla_device_info_t {
    /// Bytes of this struct as the caller knows it, its `sizeof`; the initial value has it.
    pub struct_size: usize,
    /// NUL-terminated name.
    pub name: [c_char; 128],
    /// Ordinal given to `flashmla_create`; `FLASHMLA_DEVICE_CPU` for the CPU backend.
    pub device: i32,
    /// Compute capability as `major * 10 + minor` (90 for an H100), 0 for the CPU backend.
    pub compute_capability: i32,
    /// Streaming multiprocessors, or threads of the CPU backend.
    pub multiprocessors: i32,
    /// Version of the driver as `major * 1000 + minor * 10`, 0 for the CPU backend.
    pub driver_version: i32,
}

// SAFETY: repr(C), plain data.
unsafe impl Versioned for flashmla_device_info_t {
    const NAME: &'static str = "flashmla_device_info_t";
    const FIRST_SIZE: usize = 152;
}

/// Makes a device ready and writes a context to `*out`.
///
/// `device` is a CUDA device ordinal, or `FLASHMLA_DEVICE_CPU`. `options` may be NULL. Everything
/// that blocks, allocates, or is illegal during stream capture happens here: loading the driver
/// and the kernels, setting their attributes. The primary context of the device is retained for as
/// long as the process lives; kernels are never unloaded.
///
/// Thread-safe. Errors: `FLASHMLA_ERROR_NO_DRIVER`, `FLASHMLA_ERROR_DRIVER_TOO_OLD`,
/// `FLASHMLA_ERROR_NO_DEVICE`, `FLASHMLA_ERROR_UNSUPPORTED_DEVICE`, `FLASHMLA_ERROR_NO_KERNELS`,
/// `FLASHMLA_ERROR_CUDA` + CUresult, argument errors.
#[no_mangle]
pub unsafe extern "C" fn flashmla_create(
    device: i32,
    options: *const flashmla_options_t,
    out: *mut *mut flashmla_context_t,
) -> flashmla_status_t {
    guard(|| {
        non_null("out", out)?;
        let mut cpu_threads = 0;
        if !options.is_null() {
            // SAFETY: per the contract of this function.
            let options = unsafe { read_struct("options", options) }?;
            if options.reserved != 0 {
                return err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "options.reserved = {}: must be 0", options.reserved);
            }
            cpu_threads = options.cpu_threads;
        }
        let backend = match device {
            DEVICE_CPU => Backend::Cpu(CpuDevice::new(cpu_threads)?),
            ordinal if ordinal >= 0 => Backend::Gpu(GpuDevice::new(ordinal)?),
            other => {
                return err!(
                    FLASHMLA_ERROR_NO_DEVICE,
                    "device = {other}: must be a CUDA device ordinal or FLASHMLA_DEVICE_CPU ({DEVICE_CPU})"
                )
            }
        };
        let context = Box::new(flashmla_context_t { inner: Context { backend } });
        // SAFETY: checked not to be null; the caller vouches for the rest.
        unsafe { *out = Box::into_raw(context) };
        Ok(())
    })
}

/// Frees a context. NULL is fine. No call may be using it; work already on streams goes on.
#[no_mangle]
pub unsafe extern "C" fn flashmla_destroy(context: *mut flashmla_context_t) -> flashmla_status_t {
    guard(|| {
        if !context.is_null() {
            // SAFETY: made by `flashmla_create`, and freed once as the contract says.
            drop(unsafe { Box::from_raw(context) });
        }
        Ok(())
    })
}

/// Describes the context's device. Set `out->struct_size` first (`FLASHMLA_DEVICE_INFO_INIT`).
#[no_mangle]
pub unsafe extern "C" fn flashmla_get_device_info(
    context: *const flashmla_context_t,
    out: *mut flashmla_device_info_t,
) -> flashmla_status_t {
    guard(|| {
        let context = context_ref(&context)?;
        // SAFETY: per the contract of this function.
        unsafe { struct_size("out", out) }?;
        let mut info = flashmla_device_info_t {
            struct_size: 0,
            name: [0; 128],
            device: DEVICE_CPU,
            compute_capability: 0,
            multiprocessors: 0,
            driver_version: 0,
        };
        match &context.backend {
            Backend::Cpu(cpu) => {
                copy_name(&mut info.name, "CPU");
                info.multiprocessors = cpu.threads() as i32;
            }
            Backend::Gpu(gpu) => {
                copy_name(&mut info.name, gpu.name());
                info.device = gpu.ordinal();
                info.compute_capability = gpu.compute_capability();
                info.multiprocessors = gpu.multiprocessors() as i32;
                info.driver_version = gpu.driver_version();
            }
        }
        // SAFETY: checked above.
        unsafe { write_struct("out", out, &info) }
    })
}

pub(super) fn context_ref(context: &*const flashmla_context_t) -> Result<&Context> {
    if context.is_null() {
        return err!(FLASHMLA_ERROR_NULL_POINTER, "context = NULL: must be made by flashmla_create");
    }
    // SAFETY: made by `flashmla_create` and not destroyed, as every function's contract says.
    Ok(unsafe { &(**context).inner })
}

/// The CPU backend computes before it returns.
pub(super) fn check_no_stream(stream: cudaStream_t) -> Result<()> {
    if !stream.is_null() {
        return err!(FLASHMLA_ERROR_INVALID_STREAM, "stream = {stream:p}: must be NULL in a CPU context");
    }
    Ok(())
}

pub(super) fn copy_name(to: &mut [c_char], name: &str) {
    let room = to.len() - 1;
    for (to, from) in to.iter_mut().zip(name.bytes().take(room)) {
        *to = from as c_char;
    }
}
