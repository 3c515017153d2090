//! What a process makes once and keeps as long as it lives: the embedded kernels as libraries of
//! the driver, and for each device its primary context and its kernels' attributes.
//!
//! All of it is made under one lock, by `flashmla_create` alone. What an attempt achieved before
//! it failed is kept, so that the next one goes on from there and nothing is made twice.

use super::driver::{
    call, Driver, Handle, CUDA_ERROR_INVALID_CLUSTER_SIZE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_FOUND,
};
use super::kernels;
use super::launch::{with_context, Launch};
use super::{dense_decode, kv_cache_append, kv_cache_gather, map_indices, plan, sparse_decode, sparse_prefill};
use crate::err;
use crate::status::Result;
use cudarc::driver::sys::CUfunction_attribute_enum::{
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
};
use std::ffi::{c_int, CStr};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// A device on which kernels can be launched.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The primary context, retained and never released.
    pub context: Handle,
    pub plan: plan::Kernels,
    pub dense_decode: dense_decode::Kernels,
    pub sparse_decode: sparse_decode::Kernels,
    pub kv_cache_append: kv_cache_append::Kernels,
    pub kv_cache_gather: kv_cache_gather::Kernels,
    pub map_indices: map_indices::Kernels,
    pub sparse_prefill: sparse_prefill::Kernels,
}

struct Process {
    /// One for each fatbin, in the table's order. Independent of contexts and devices.
    libraries: Vec<Handle>,
    contexts: Vec<(c_int, Handle)>,
    devices: Vec<(c_int, Ready)>,
}

static PROCESS: Mutex<Process> =
    Mutex::new(Process { libraries: Vec::new(), contexts: Vec::new(), devices: Vec::new() });

/// Makes a device ready, or finds that it is.
pub fn make_ready(driver: &Driver, device: c_int) -> Result<Ready> {
    // Every change is one push, so a panic elsewhere cannot have left it half done.
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ready)) = process.devices.iter().find(|(d, _)| *d == device) {
        return Ok(*ready);
    }
    let context = process.context(driver, device)?;
    process.load_libraries(driver)?;
    let loader = Loader { driver, device, libraries: &process.libraries };
    // Loading a kernel for a context needs that context to be current.
    let ready = with_context(driver, device, context, || {
        Ok(Ready {
            context,
            plan: plan::Kernels::load(&loader)?,
            dense_decode: dense_decode::Kernels::load(&loader)?,
            sparse_decode: sparse_decode::Kernels::load(&loader)?,
            kv_cache_append: kv_cache_append::Kernels::load(&loader)?,
            kv_cache_gather: kv_cache_gather::Kernels::load(&loader)?,
            map_indices: map_indices::Kernels::load(&loader)?,
            sparse_prefill: sparse_prefill::Kernels::load(&loader)?,
        })
    })?;
    process.devices.push((device, ready));
    Ok(ready)
}

impl Process {
    fn context(&mut self, driver: &Driver, device: c_int) -> Result<Handle> {
        if let Some((_, context)) = self.contexts.iter().find(|(d, _)| *d == device) {
            return Ok(*context);
        }
        let mut context = Handle::default();
        // SAFETY: writes one handle.
        unsafe { call!(driver, cuDevicePrimaryCtxRetain(&mut context, device)) }?;
        self.contexts.push((device, context));
        Ok(context)
    }

    fn load_libraries(&mut self, driver: &Driver) -> Result<()> {
        for (_, fatbin) in own_fatbins().skip(self.libraries.len()) {
            let mut library = Handle::default();
            let none = ptr::null_mut();
            // SAFETY: a whole fatbin, static; no options.
            unsafe {
                call!(
                    driver,
                    cuLibraryLoadData(
                        &mut library,
                        fatbin.as_ptr().cast(),
                        none,
                        ptr::null_mut(),
                        0,
                        none,
                        ptr::null_mut(),
                        0
                    )
                )
            }?;
            self.libraries.push(library);
        }
        Ok(())
    }
}

/// All but what the benchmark alone runs.
fn own_fatbins() -> impl Iterator<Item = &'static (&'static str, &'static [u8])> {
    kernels::fatbins().iter().filter(|(name, _)| !name.starts_with("bench/"))
}

/// Finds kernels and prepares them for one device, whose context is current.
pub struct Loader<'a> {
    driver: &'a Driver,
    device: c_int,
    libraries: &'a [Handle],
}

impl Loader<'_> {
    /// The kernel `name`, allowed to be launched with `shared_bytes` of dynamic shared memory.
    ///
    /// The attribute is set here and never again: the driver does not order it with launches by
    /// other threads.
    pub fn kernel(&self, name: &CStr, shared_bytes: u32) -> Result<Handle> {
        let kernel = self.find(name)?;
        if shared_bytes > 0 {
            let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
            // SAFETY: a kernel that the driver gave out; the value is range-checked by the driver.
            unsafe { call!(self.driver, cuKernelSetAttribute(attribute, shared_bytes as c_int, kernel, self.device)) }?;
        }
        // The driver loads lazily, at the first launch: too late inside a stream capture.
        let mut function = Handle::default();
        // SAFETY: writes one handle.
        unsafe { call!(self.driver, cuKernelGetFunction(&mut function, kernel)) }?;
        if let Some(load) = self.driver.cuFuncLoad {
            // SAFETY: a function of the current context.
            self.driver.check("cuFuncLoad", unsafe { load(function) })?;
        }
        Ok(kernel)
    }

    /// How many clusters of a kernel the device runs at a time, by the thread blocks of a cluster. More than 8 of these
    /// must be allowed, and are no part of what every device can do.
    pub fn clusters<const N: usize>(
        &self,
        kernel: Handle,
        sizes: [u32; N],
        threads: u32,
        shared_bytes: u32,
    ) -> Result<[i64; N]> {
        let mut clusters = [0; N];
        let Some(max_active) = self.driver.cuOccupancyMaxActiveClusters else { return Ok(clusters) };
        let mut function = Handle::default();
        let attribute = CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED as c_int;
        // SAFETY: a kernel that the driver gave out; writes one handle.
        unsafe {
            call!(self.driver, cuKernelSetAttribute(attribute, 1, kernel, self.device))?;
            call!(self.driver, cuKernelGetFunction(&mut function, kernel))?;
        }
        for (clusters, blocks) in clusters.iter_mut().zip(sizes) {
            let launch =
                Launch { kernel, grid: blocks, block: threads, cluster: blocks, shared_bytes, overlaps: false };
            let mut most: c_int = 0;
            // SAFETY: a function of the current context; writes one integer.
            match launch.with_config(Handle::default(), |config| unsafe { max_active(&mut most, function, config) }) {
                CUDA_ERROR_INVALID_VALUE | CUDA_ERROR_INVALID_CLUSTER_SIZE => {}
                code => {
                    self.driver.check("cuOccupancyMaxActiveClusters", code)?;
                    *clusters = most.into();
                }
            }
        }
        Ok(clusters)
    }

    /// Kernels that need no dynamic shared memory.
    pub fn kernels<const N: usize>(&self, names: [&CStr; N]) -> Result<[Handle; N]> {
        let mut kernels = [Handle::default(); N];
        for (kernel, name) in kernels.iter_mut().zip(names) {
            *kernel = self.kernel(name, 0)?;
        }
        Ok(kernels)
    }

    /// A kernel's name begins with that of the file it is in: `sm90/dense_decode/bf16_576`, but `plan` for `any/plan`.
    /// Asking only there keeps "not found" what it is elsewhere, an error.
    fn find(&self, name: &CStr) -> Result<Handle> {
        let text = name.to_string_lossy();
        let kernel = text.strip_prefix("flashmla_").unwrap_or(&text);
        let holds = |file: &str| kernel.starts_with(&file.strip_prefix("any/").unwrap_or(file).replace('/', "_"));
        let found = own_fatbins().zip(self.libraries).filter(|((file, _), _)| holds(file));
        let Some(((file, _), library)) = found.max_by_key(|((file, _), _)| file.len()) else {
            return err!(FLASHMLA_ERROR_INTERNAL, "kernel {text}: no fatbin has its name");
        };
        let mut kernel = Handle::default();
        // SAFETY: a loaded library, a C string, and room for one handle.
        match unsafe { (self.driver.cuLibraryGetKernel)(&mut kernel, *library, name.as_ptr()) } {
            CUDA_ERROR_NOT_FOUND => return err!(FLASHMLA_ERROR_INTERNAL, "kernel {text} is not in the fatbin {file}"),
            code => self.driver.check("cuLibraryGetKernel", code)?,
        }
        Ok(kernel)
    }
}
