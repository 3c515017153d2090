//! The GPU backend: the driver, the embedded kernels, and one file per operation that turns a
//! checked problem into launches.

pub mod dense_decode;
pub mod params;

use crate::err;
use crate::status::Result;

/// A CUDA device made ready: driver loaded, kernels loaded, attributes set.
pub struct GpuDevice {
    ordinal: i32,
}

impl GpuDevice {
    pub fn new(_ordinal: i32) -> Result<GpuDevice> {
        err!(FLASHMLA_ERROR_NO_DRIVER, "no driver")
    }
    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }
    pub fn name(&self) -> &str {
        ""
    }
    pub fn compute_capability(&self) -> i32 {
        90
    }
    pub fn multiprocessors(&self) -> i64 {
        132
    }
    pub fn driver_version(&self) -> i32 {
        0
    }
}
