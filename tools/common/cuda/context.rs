//! Devices and contexts.

use super::driver::{Driver, Handle};
use super::memory::{DeviceBuffer, Plain};
use super::stream::{Event, Stream};
use super::Result;
use std::ffi::{c_char, CStr};
use std::sync::Arc;

// CUdevice_attribute
const CLOCK_RATE: i32 = 13;
const MULTIPROCESSOR_COUNT: i32 = 16;
const L2_CACHE_SIZE: i32 = 38;
const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
const COMPUTE_CAPABILITY_MINOR: i32 = 76;

#[derive(Clone, Copy)]
pub struct Device {
    driver: &'static Driver,
    ordinal: i32,
    device: i32,
}

impl Device {
    pub(super) fn new(driver: &'static Driver, ordinal: i32) -> Result<Device> {
        let mut device = 0;
        // SAFETY: writes one CUdevice, which is an int.
        driver
            .check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, ordinal) })
            .map_err(|e| format!("device {ordinal}: {e}"))?;
        Ok(Device { driver, ordinal, device })
    }

    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }

    pub fn name(&self) -> Result<String> {
        let mut name = [0 as c_char; 256];
        // SAFETY: the buffer has the size that is given; the driver terminates the string.
        unsafe {
            let code = (self.driver.cuDeviceGetName)(name.as_mut_ptr(), name.len() as i32, self.device);
            self.driver.check("cuDeviceGetName", code)?;
            Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
        }
    }

    /// Any `CUdevice_attribute`, by its number.
    pub fn attribute(&self, attribute: i32) -> Result<i32> {
        let mut value = 0;
        // SAFETY: writes one int.
        let code = unsafe { (self.driver.cuDeviceGetAttribute)(&mut value, attribute, self.device) };
        self.driver.check("cuDeviceGetAttribute", code)?;
        Ok(value)
    }

    pub fn multiprocessors(&self) -> Result<i32> {
        self.attribute(MULTIPROCESSOR_COUNT)
    }

    /// `major * 10 + minor`.
    pub fn compute_capability(&self) -> Result<i32> {
        Ok(self.attribute(COMPUTE_CAPABILITY_MAJOR)? * 10 + self.attribute(COMPUTE_CAPABILITY_MINOR)?)
    }

    /// The SM clock's maximum.
    pub fn clock_khz(&self) -> Result<i32> {
        self.attribute(CLOCK_RATE)
    }

    pub fn l2_bytes(&self) -> Result<i32> {
        self.attribute(L2_CACHE_SIZE)
    }

    /// The context that the CUDA runtime uses too.
    pub fn primary_context(&self) -> Result<Context> {
        let mut handle = 0;
        // SAFETY: writes one handle.
        let code = unsafe { (self.driver.cuDevicePrimaryCtxRetain)(&mut handle, self.device) };
        self.driver.check("cuDevicePrimaryCtxRetain", code)?;
        Ok(Context(Arc::new(Inner { driver: self.driver, device: *self, handle, primary: true })))
    }

    /// A context beside the primary one. It is not left current.
    pub fn new_context(&self) -> Result<Context> {
        let (mut handle, mut popped) = (0, 0);
        // SAFETY: both write one handle; creation makes the context current, the pop undoes that.
        unsafe {
            self.driver.check("cuCtxCreate", (self.driver.cuCtxCreate_v2)(&mut handle, 0, self.device))?;
            self.driver.check("cuCtxPopCurrent", (self.driver.cuCtxPopCurrent_v2)(&mut popped))?;
        }
        Ok(Context(Arc::new(Inner { driver: self.driver, device: *self, handle, primary: false })))
    }
}

struct Inner {
    driver: &'static Driver,
    device: Device,
    handle: Handle,
    primary: bool,
}

/// A context. Clones share it; it is released when the last clone, buffer, stream or event goes.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

impl Context {
    pub(super) fn driver(&self) -> &'static Driver {
        self.0.driver
    }

    pub fn device(&self) -> Device {
        self.0.device
    }

    /// The `CUcontext`.
    pub fn raw(&self) -> usize {
        self.0.handle
    }

    /// Runs `body` with this context current, and puts back what was current before.
    pub fn with<T>(&self, body: impl FnOnce(&'static Driver) -> Result<T>) -> Result<T> {
        let driver = self.driver();
        // SAFETY: a live context.
        driver.check("cuCtxPushCurrent", unsafe { (driver.cuCtxPushCurrent_v2)(self.0.handle) })?;
        let result = body(driver);
        let mut popped = 0;
        // SAFETY: writes one handle.
        driver.check("cuCtxPopCurrent", unsafe { (driver.cuCtxPopCurrent_v2)(&mut popped) })?;
        result
    }

    /// Makes it the calling thread's current context, for calls that go by that.
    pub fn set_current(&self) -> Result<()> {
        // SAFETY: a live context.
        self.driver().check("cuCtxSetCurrent", unsafe { (self.driver().cuCtxSetCurrent)(self.0.handle) })
    }

    /// Leaves the calling thread without a current context.
    pub fn clear_current(&self) -> Result<()> {
        // SAFETY: null unbinds.
        self.driver().check("cuCtxSetCurrent", unsafe { (self.driver().cuCtxSetCurrent)(0) })
    }

    /// Waits for all work of the context.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: acts on the current context.
        self.with(|driver| driver.check("cuCtxSynchronize", unsafe { (driver.cuCtxSynchronize)() }))
    }

    /// Free and total device memory in bytes.
    pub fn memory_info(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        self.with(|driver| {
            // SAFETY: writes two sizes.
            driver.check("cuMemGetInfo", unsafe { (driver.cuMemGetInfo_v2)(&mut free, &mut total) })
        })?;
        Ok((free, total))
    }

    /// Device memory with undefined content. 0 bytes: a null address.
    pub fn alloc(&self, bytes: usize) -> Result<DeviceBuffer> {
        DeviceBuffer::new(self, bytes)
    }

    /// Device memory with a copy of `data`.
    pub fn upload<T: Plain>(&self, data: &[T]) -> Result<DeviceBuffer> {
        let buffer = self.alloc(std::mem::size_of_val(data))?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// A stream that does not synchronise with the default stream.
    pub fn stream(&self) -> Result<Stream> {
        Stream::new(self)
    }

    pub fn event(&self) -> Result<Event> {
        Event::new(self)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: retained or created by this struct, and nothing that uses it is left.
        unsafe {
            match self.primary {
                true => self.driver.report(
                    "cuDevicePrimaryCtxRelease",
                    (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device.device),
                ),
                false => self.driver.report("cuCtxDestroy", (self.driver.cuCtxDestroy_v2)(self.handle)),
            }
        }
    }
}
