//! The GPU backend: the driver, the embedded kernels, and one file per operation that turns a
//! checked problem into launches.

pub mod call_number;
pub mod dense_decode;
pub mod driver;
pub mod kernels;
pub mod kv_cache_append;
pub mod kv_cache_gather;
pub mod launch;
pub mod library;
pub mod map_indices;
pub mod params;
pub mod plan;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod tensor_map;

use crate::err;
use crate::status::Result;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use driver::{call, Driver, Handle};
use std::ffi::{c_char, c_int, CStr};

/// What the embedded kernels are compiled for, as `major * 10 + minor`.
const COMPUTE_CAPABILITY: i32 = 90;

/// A CUDA device made ready: driver loaded, kernels loaded, attributes set. Immutable.
pub struct GpuDevice {
    driver: &'static Driver,
    ordinal: i32,
    /// The driver's handle of the device.
    device: c_int,
    /// The device's primary context.
    context: Handle,
    plan: plan::Kernels,
    dense_decode: dense_decode::Kernels,
    sparse_decode: sparse_decode::Kernels,
    kv_cache_append: kv_cache_append::Kernels,
    kv_cache_gather: kv_cache_gather::Kernels,
    map_indices: map_indices::Kernels,
    sparse_prefill: sparse_prefill::Kernels,
    name: String,
    multiprocessors: i64,
}

impl GpuDevice {
    pub fn new(ordinal: i32) -> Result<GpuDevice> {
        // First, since no driver and no device could help such a build.
        if kernels::fatbins().is_empty() {
            return err!(
                FLASHMLA_ERROR_NO_KERNELS,
                "this library was built without GPU kernels (FLASHMLA_NO_KERNELS): device must be FLASHMLA_DEVICE_CPU"
            );
        }
        let driver = Driver::get()?;
        driver.init()?;
        let device = device(driver, ordinal)?;
        let name = device_name(driver, device)?;
        let major = attribute(driver, device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(driver, device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major * 10 + minor != COMPUTE_CAPABILITY {
            return err!(
                FLASHMLA_ERROR_UNSUPPORTED_DEVICE,
                "device {ordinal} ({name}) has compute capability {major}.{minor}: must be {}.{}",
                COMPUTE_CAPABILITY / 10,
                COMPUTE_CAPABILITY % 10
            );
        }
        let multiprocessors = attribute(driver, device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as i64;
        let ready = library::make_ready(driver, device)?;
        Ok(GpuDevice {
            driver,
            ordinal,
            device,
            context: ready.context,
            plan: ready.plan,
            dense_decode: ready.dense_decode,
            sparse_decode: ready.sparse_decode,
            kv_cache_append: ready.kv_cache_append,
            kv_cache_gather: ready.kv_cache_gather,
            map_indices: ready.map_indices,
            sparse_prefill: ready.sparse_prefill,
            name,
            multiprocessors,
        })
    }

    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `major * 10 + minor`
    pub fn compute_capability(&self) -> i32 {
        COMPUTE_CAPABILITY
    }

    pub fn multiprocessors(&self) -> i64 {
        self.multiprocessors
    }

    /// `major * 1000 + minor * 10`
    pub fn driver_version(&self) -> i32 {
        self.driver.version
    }
}

fn device(driver: &Driver, ordinal: i32) -> Result<c_int> {
    let mut count = 0;
    // SAFETY: writes one integer.
    unsafe { call!(driver, cuDeviceGetCount(&mut count)) }?;
    if ordinal >= count {
        return err!(
            FLASHMLA_ERROR_NO_DEVICE,
            "device = {ordinal}: must be less than {count}, the number of CUDA devices that this process sees"
        );
    }
    let mut device = 0;
    // SAFETY: writes one integer.
    unsafe { call!(driver, cuDeviceGet(&mut device, ordinal)) }?;
    Ok(device)
}

fn device_name(driver: &Driver, device: c_int) -> Result<String> {
    let mut name: [c_char; 256] = [0; 256];
    // One byte less than there is, so that it ends with a NUL whatever the driver does.
    // SAFETY: writes at most as many bytes as told.
    unsafe { call!(driver, cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, device)) }?;
    // SAFETY: ends with a NUL inside the array.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

fn attribute(driver: &Driver, device: c_int, attribute: Attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: writes one integer.
    unsafe { call!(driver, cuDeviceGetAttribute(&mut value, attribute as c_int, device)) }?;
    Ok(value)
}
