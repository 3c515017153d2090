//! The library as its C callers see it: every call goes through the C functions.

use super::failure::Failure;
use super::target::{DeviceName, Memory, Target};
use flashmla::capi::context::*;
use flashmla::capi::dense_decode::*;
use flashmla::capi::kv_cache_append::*;
use flashmla::capi::kv_cache_gather::*;
use flashmla::capi::map_indices::*;
use flashmla::capi::sparse_decode::*;
use flashmla::capi::sparse_prefill::*;
use flashmla::capi::types::*;
use flashmla::capi::version::flashmla_last_error;
use std::ffi::{c_char, c_void, CStr};
use std::mem::{size_of, zeroed};

/// A context of the library.
pub struct Library {
    context: *mut flashmla_context_t,
}

impl Library {
    pub fn create(device: DeviceName) -> Result<Library, Failure> {
        let mut context = std::ptr::null_mut();
        // SAFETY: options may be null; writes one pointer.
        check("flashmla_create", unsafe { flashmla_create(device.ordinal(), std::ptr::null(), &mut context) })?;
        Ok(Library { context })
    }

    pub fn device_name(&self) -> Result<String, Failure> {
        // SAFETY: plain data, for which all 0 is a value; the context is live.
        let info = unsafe {
            let mut info: flashmla_device_info_t = zeroed();
            info.struct_size = size_of::<flashmla_device_info_t>();
            check("flashmla_get_device_info", flashmla_get_device_info(self.context, &mut info))?;
            info
        };
        Ok(text(&info.name))
    }

    /// The kernel that a problem gets; only its sizes, type and flags are looked at.
    pub fn dense_decode_kernel(&self, params: &flashmla_dense_decode_params_t) -> Result<String, Failure> {
        // SAFETY: the context is live.
        kernel_name(|info| unsafe {
            check("flashmla_dense_decode_query", flashmla_dense_decode_query(self.context, params, info))
        })
    }

    pub fn sparse_decode_kernel(&self, params: &flashmla_sparse_decode_params_t) -> Result<String, Failure> {
        // SAFETY: as above.
        kernel_name(|info| unsafe {
            check("flashmla_sparse_decode_query", flashmla_sparse_decode_query(self.context, params, info))
        })
    }

    /// # Safety
    /// The tensors lie on the context's device and live until the stream has got there; so for the next two.
    pub unsafe fn kv_cache_append(
        &self,
        params: &flashmla_kv_cache_append_params_t,
        stream: *mut c_void,
    ) -> Result<(), Failure> {
        check("flashmla_kv_cache_append", flashmla_kv_cache_append(self.context, params, stream.cast()))
    }

    /// # Safety
    /// As of `kv_cache_append`.
    pub unsafe fn kv_cache_gather(
        &self,
        params: &flashmla_kv_cache_gather_params_t,
        stream: *mut c_void,
    ) -> Result<(), Failure> {
        check("flashmla_kv_cache_gather", flashmla_kv_cache_gather(self.context, params, stream.cast()))
    }

    /// # Safety
    /// As of `kv_cache_append`.
    pub unsafe fn map_indices(
        &self,
        params: &flashmla_map_indices_params_t,
        stream: *mut c_void,
    ) -> Result<(), Failure> {
        check("flashmla_map_indices", flashmla_map_indices(self.context, params, stream.cast()))
    }

    pub fn sparse_prefill_kernel(&self, params: &flashmla_sparse_prefill_params_t) -> Result<String, Failure> {
        // SAFETY: as above.
        kernel_name(|info| unsafe {
            check("flashmla_sparse_prefill_query", flashmla_sparse_prefill_query(self.context, params, info))
        })
    }
}

fn kernel_name(query: impl FnOnce(&mut flashmla_kernel_info_t) -> Result<(), Failure>) -> Result<String, Failure> {
    // SAFETY: plain data, for which all 0 is a value.
    let mut info: flashmla_kernel_info_t = unsafe { zeroed() };
    info.struct_size = size_of::<flashmla_kernel_info_t>();
    query(&mut info)?;
    Ok(text(&info.name))
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: created by this struct and destroyed once.
        let status = unsafe { flashmla_destroy(self.context) };
        if let Err(failure) = check("flashmla_destroy", status) {
            eprintln!("{failure}");
        }
    }
}

/// Parameters with every member 0, as the INIT macro of the header gives.
pub fn dense_decode_params() -> flashmla_dense_decode_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_dense_decode_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_dense_decode_params_t>();
    params
}

/// Likewise of sparse prefill.
pub fn sparse_prefill_params() -> flashmla_sparse_prefill_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_sparse_prefill_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_sparse_prefill_params_t>();
    params
}

/// Likewise of `flashmla_sparse_decode`.
pub fn sparse_decode_params() -> flashmla_sparse_decode_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_sparse_decode_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_sparse_decode_params_t>();
    params
}

/// Likewise of `flashmla_kv_cache_append`.
pub fn kv_cache_append_params() -> flashmla_kv_cache_append_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_kv_cache_append_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_kv_cache_append_params_t>();
    params
}

/// Likewise of `flashmla_kv_cache_gather`.
pub fn kv_cache_gather_params() -> flashmla_kv_cache_gather_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_kv_cache_gather_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_kv_cache_gather_params_t>();
    params
}

/// Likewise of `flashmla_map_indices`.
pub fn map_indices_params() -> flashmla_map_indices_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_map_indices_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_map_indices_params_t>();
    params
}

/// A contiguous input.
pub fn input(memory: &Memory) -> flashmla_const_tensor_t {
    flashmla_const_tensor_t { data: memory.as_ptr(), strides: [0; 4] }
}

/// A contiguous output.
pub fn output(memory: &Memory) -> flashmla_tensor_t {
    flashmla_tensor_t { data: memory.as_ptr(), strides: [0; 4] }
}

/// A dense decode with the plan and the workspace that it needs.
pub struct DenseDecode<'a> {
    library: &'a Library,
    params: flashmla_dense_decode_params_t,
    // The parameters point to it, so it must not move.
    _plan: Box<flashmla_plan_t>,
    _memory: [Memory; 2],
}

impl<'a> DenseDecode<'a> {
    /// # Safety
    /// The tensors of `params` lie on the target and outlive what this returns.
    pub unsafe fn new(
        library: &'a Library,
        target: &Target,
        mut params: flashmla_dense_decode_params_t,
    ) -> Result<DenseDecode<'a>, Failure> {
        let (mut plan_size, mut workspace_size) = (0, 0);
        let status = flashmla_dense_decode_plan_size(library.context, &params, &mut plan_size);
        check("flashmla_dense_decode_plan_size", status)?;
        let status = flashmla_dense_decode_workspace_size(library.context, &params, &mut workspace_size);
        check("flashmla_dense_decode_workspace_size", status)?;
        let memory = [target.alloc(plan_size)?, target.alloc(workspace_size)?];
        let mut plan = Box::new(flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: memory[0].as_ptr(),
            size: plan_size,
            fingerprint: 0,
        });
        params.plan = &mut *plan;
        params.workspace = memory[1].as_ptr();
        params.workspace_size = workspace_size;
        Ok(DenseDecode { library, params, _plan: plan, _memory: memory })
    }

    /// Makes the plan, on the stream.
    pub fn plan(&self, stream: *mut c_void) -> Result<(), Failure> {
        // SAFETY: `new`'s caller vouches for the tensors; plan and workspace are owned.
        check("flashmla_dense_decode_plan", unsafe {
            flashmla_dense_decode_plan(self.library.context, &self.params, stream.cast())
        })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: *mut c_void) -> Result<(), Failure> {
        // SAFETY: as above.
        check("flashmla_dense_decode", unsafe {
            flashmla_dense_decode(self.library.context, &self.params, stream.cast())
        })
    }

    pub fn workspace_bytes(&self) -> usize {
        self.params.workspace_size
    }
}

/// A sparse decode with the plan and the workspace that it needs.
pub struct SparseDecode<'a> {
    library: &'a Library,
    params: flashmla_sparse_decode_params_t,
    // The parameters point to it, so it must not move.
    _plan: Box<flashmla_plan_t>,
    _memory: [Memory; 2],
}

impl<'a> SparseDecode<'a> {
    /// # Safety
    /// The tensors of `params` lie on the target and outlive what this returns.
    pub unsafe fn new(
        library: &'a Library,
        target: &Target,
        mut params: flashmla_sparse_decode_params_t,
    ) -> Result<SparseDecode<'a>, Failure> {
        let (mut plan_size, mut workspace_size) = (0, 0);
        let status = flashmla_sparse_decode_plan_size(library.context, &params, &mut plan_size);
        check("flashmla_sparse_decode_plan_size", status)?;
        let status = flashmla_sparse_decode_workspace_size(library.context, &params, &mut workspace_size);
        check("flashmla_sparse_decode_workspace_size", status)?;
        let memory = [target.alloc(plan_size)?, target.alloc(workspace_size)?];
        let mut plan = Box::new(flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: memory[0].as_ptr(),
            size: plan_size,
            fingerprint: 0,
        });
        params.plan = &mut *plan;
        params.workspace = memory[1].as_ptr();
        params.workspace_size = workspace_size;
        Ok(SparseDecode { library, params, _plan: plan, _memory: memory })
    }

    /// Makes the plan, on the stream.
    pub fn plan(&self, stream: *mut c_void) -> Result<(), Failure> {
        // SAFETY: `new`'s caller vouches for the tensors; plan and workspace are owned.
        check("flashmla_sparse_decode_plan", unsafe {
            flashmla_sparse_decode_plan(self.library.context, &self.params, stream.cast())
        })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: *mut c_void) -> Result<(), Failure> {
        // SAFETY: as above.
        check("flashmla_sparse_decode", unsafe {
            flashmla_sparse_decode(self.library.context, &self.params, stream.cast())
        })
    }

    pub fn workspace_bytes(&self) -> usize {
        self.params.workspace_size
    }
}

/// A sparse prefill with the workspace that it needs.
pub struct SparsePrefill<'a> {
    library: &'a Library,
    params: flashmla_sparse_prefill_params_t,
    _workspace: Memory,
}

impl<'a> SparsePrefill<'a> {
    /// # Safety
    /// The tensors of `params` lie on the target and outlive what this returns.
    pub unsafe fn new(
        library: &'a Library,
        target: &Target,
        mut params: flashmla_sparse_prefill_params_t,
    ) -> Result<SparsePrefill<'a>, Failure> {
        let mut workspace_size = 0;
        let status = flashmla_sparse_prefill_workspace_size(library.context, &params, &mut workspace_size);
        check("flashmla_sparse_prefill_workspace_size", status)?;
        let workspace = target.alloc(workspace_size)?;
        params.workspace = workspace.as_ptr();
        params.workspace_size = workspace_size;
        Ok(SparsePrefill { library, params, _workspace: workspace })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: *mut c_void) -> Result<(), Failure> {
        // SAFETY: `new`'s caller vouches for the tensors; the workspace is owned.
        check("flashmla_sparse_prefill", unsafe {
            flashmla_sparse_prefill(self.library.context, &self.params, stream.cast())
        })
    }

    pub fn workspace_bytes(&self) -> usize {
        self.params.workspace_size
    }
}

fn check(call: &str, status: i32) -> Result<(), Failure> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a null buffer of size 0 asks for the size; then the buffer has it.
    let message = unsafe {
        let mut buffer = vec![0 as c_char; flashmla_last_error(std::ptr::null_mut(), 0)];
        flashmla_last_error(buffer.as_mut_ptr(), buffer.len());
        text(&buffer)
    };
    let message = format!("{call}: status {status}: {message}");
    Err(match status {
        1000..=2999 => Failure::Usage(message),
        3000..=3999 => Failure::Environment(message),
        _ => Failure::Run(message),
    })
}

/// A NUL-terminated string in an array.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).collect();
    match CStr::from_bytes_until_nul(&bytes) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}
