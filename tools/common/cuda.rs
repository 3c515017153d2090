//! A small layer over the CUDA driver for tools and tests: contexts, memory, streams, events,
//! graphs. It has its own `dlopen` of the driver and shares nothing with the library, so that a
//! mistake there cannot hide here.
//!
//! Handles may be used from any thread: what needs a current context makes its own current for
//! the call. Every result is checked; errors are messages that name the call.
//!
//! Include it with `#[path = ".../tools/common/cuda.rs"] mod cuda;`.

// Each program uses its part of this file.
#![allow(dead_code, unused_imports)]

#[path = "cuda/context.rs"]
mod context;
#[path = "cuda/driver.rs"]
mod driver;
#[path = "cuda/graph.rs"]
mod graph;
#[path = "cuda/kernel.rs"]
mod kernel;
#[path = "cuda/memory.rs"]
mod memory;
#[path = "cuda/stream.rs"]
mod stream;

pub use context::{Context, Device};
pub use graph::GraphExec;
pub use kernel::{Kernel, Library};
pub use memory::{DeviceBuffer, Plain};
pub use stream::{CaptureMode, Event, Stream};

use driver::Driver;

pub type Result<T> = std::result::Result<T, String>;

/// The driver, loaded and initialised, with at least one device.
#[derive(Clone, Copy)]
pub struct Cuda {
    driver: &'static Driver,
}

/// The driver of this machine, or why there is none.
pub fn available() -> Result<Cuda> {
    let driver = Driver::get()?;
    let cuda = Cuda { driver };
    if cuda.device_count()? == 0 {
        return Err("the CUDA driver sees no device".into());
    }
    Ok(cuda)
}

impl Cuda {
    pub fn device_count(&self) -> Result<i32> {
        let mut count = 0;
        // SAFETY: writes one int.
        self.driver.check("cuDeviceGetCount", unsafe { (self.driver.cuDeviceGetCount)(&mut count) })?;
        Ok(count)
    }

    /// `major * 1000 + minor * 10`.
    pub fn driver_version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: writes one int.
        self.driver.check("cuDriverGetVersion", unsafe { (self.driver.cuDriverGetVersion)(&mut version) })?;
        Ok(version)
    }

    pub fn device(&self, ordinal: i32) -> Result<Device> {
        Device::new(self.driver, ordinal)
    }
}
