//! Device memory.

use super::context::Context;
use super::driver::{DevicePtr, Driver};
use super::Result;
use std::ffi::c_void;
use std::mem::{size_of, size_of_val};

/// Types that may be copied as bytes.
///
/// # Safety
/// No padding, and every bit pattern is a value.
pub unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($t:ty),*) => { $(
        // SAFETY: a primitive number.
        unsafe impl Plain for $t {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Device memory, freed when dropped.
pub struct DeviceBuffer {
    context: Context,
    ptr: DevicePtr,
    bytes: usize,
}

impl DeviceBuffer {
    pub(super) fn new(context: &Context, bytes: usize) -> Result<DeviceBuffer> {
        let mut ptr = 0;
        if bytes > 0 {
            context.with(|driver| {
                // SAFETY: writes one address.
                driver
                    .check("cuMemAlloc", unsafe { (driver.cuMemAlloc_v2)(&mut ptr, bytes) })
                    .map_err(|e| format!("{bytes} bytes: {e}"))
            })?;
        }
        Ok(DeviceBuffer { context: context.clone(), ptr, bytes })
    }

    /// The device address.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// The device address as the C functions take it.
    pub fn as_ptr(&self) -> *mut c_void {
        self.ptr as *mut c_void
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address `offset` bytes in, if `bytes` bytes from there lie inside.
    pub(super) fn range(&self, offset: usize, bytes: usize) -> Result<DevicePtr> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.ptr + offset as u64),
            _ => Err(format!("{bytes} bytes at {offset}: outside a device buffer of {} bytes", self.bytes)),
        }
    }

    /// Copies host data to byte `offset`; every stream sees it when this returns.
    pub fn write<T: Plain>(&self, offset: usize, data: &[T]) -> Result<()> {
        let bytes = size_of_val(data);
        let to = self.range(offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        self.context.with(|driver| {
            // SAFETY: both ranges hold `bytes` bytes.
            driver.check("cuMemcpyHtoD", unsafe { (driver.cuMemcpyHtoD_v2)(to, data.as_ptr().cast(), bytes) })?;
            default_stream_done(driver)
        })
    }

    /// Copies `count` elements from byte `offset` to the host. Streams with work that writes them
    /// must have been synchronised.
    pub fn read_at<T: Plain>(&self, offset: usize, count: usize) -> Result<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or("size overflows")?;
        let from = self.range(offset, bytes)?;
        let mut data = vec![T::default(); count];
        if bytes > 0 {
            self.context.with(|driver| {
                // SAFETY: both ranges hold `bytes` bytes.
                let code = unsafe { (driver.cuMemcpyDtoH_v2)(data.as_mut_ptr().cast(), from, bytes) };
                driver.check("cuMemcpyDtoH", code)
            })?;
        }
        Ok(data)
    }

    /// The whole buffer, as elements of `T`; a remainder smaller than one is left out.
    pub fn read<T: Plain>(&self) -> Result<Vec<T>> {
        self.read_at(0, self.bytes / size_of::<T>())
    }

    /// Sets every byte; every stream sees it when this returns.
    pub fn fill(&self, byte: u8) -> Result<()> {
        self.memset("cuMemsetD8", |driver| unsafe { (driver.cuMemsetD8Async)(self.ptr, byte, self.bytes, 0) })
    }

    /// Sets every 16-bit word, a NaN of a 16-bit type for example.
    pub fn fill_u16(&self, word: u16) -> Result<()> {
        self.memset("cuMemsetD16", |driver| unsafe { (driver.cuMemsetD16Async)(self.ptr, word, self.bytes / 2, 0) })
    }

    /// Sets every 32-bit word.
    pub fn fill_u32(&self, word: u32) -> Result<()> {
        self.memset("cuMemsetD32", |driver| unsafe { (driver.cuMemsetD32Async)(self.ptr, word, self.bytes / 4, 0) })
    }

    fn memset(&self, call: &str, set: impl FnOnce(&Driver) -> u32) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.context.with(|driver| {
            driver.check(call, set(driver))?;
            default_stream_done(driver)
        })
    }
}

/// Copies from pageable memory and memsets may return before the device is done, and streams here
/// do not wait for the default one.
fn default_stream_done(driver: &Driver) -> Result<()> {
    // SAFETY: 0 is the default stream of the current context.
    driver.check("cuStreamSynchronize", unsafe { (driver.cuStreamSynchronize)(0) })
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.ptr == 0 {
            return;
        }
        let freed = self.context.with(|driver| {
            // SAFETY: allocated by this struct and freed once.
            driver.check("cuMemFree", unsafe { (driver.cuMemFree_v2)(self.ptr) })
        });
        if let Err(message) = freed {
            eprintln!("{message}");
        }
    }
}
