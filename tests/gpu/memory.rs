//! Memory of a backend, with guard regions around it.

use crate::cuda::{self, DeviceBuffer, Plain};
use crate::session::Queue;
use std::alloc::Layout;
use std::mem::size_of_val;

/// Every byte that nobody wrote; as a float of any type it is NaN.
pub const UNTOUCHED: u8 = 0xff;
const GUARD: usize = 4096;
const ALIGN: usize = 256;

/// Where memory comes from.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    Host,
    Device(&'a cuda::Context),
}

/// Bytes of their exact size, or between two guard regions.
#[derive(Clone, Copy, PartialEq)]
pub enum Fence {
    /// Filled with `UNTOUCHED`, inside and around.
    Guarded,
    /// Not filled and without neighbours, so that compute-sanitizer sees what is uninitialised or outside.
    Exact,
}

enum Memory {
    Host(HostMemory),
    Device(DeviceBuffer),
}

pub struct Region {
    memory: Memory,
    /// Bytes before the region, and the region's size.
    before: usize,
    bytes: usize,
    fence: Fence,
}

impl Region {
    /// `shift` bytes past an address that is a multiple of 256.
    pub fn new(place: Place, fence: Fence, bytes: usize, shift: usize) -> Result<Region, String> {
        let (before, after) = match fence {
            Fence::Guarded => (GUARD + shift, GUARD),
            Fence::Exact => (shift, 0),
        };
        // A region of no bytes has no address, except that its guards would need one.
        let total = if bytes == 0 { 0 } else { before + bytes + after };
        let memory = match place {
            Place::Host => Memory::Host(HostMemory::new(total)),
            Place::Device(context) => Memory::Device(context.alloc(total)?),
        };
        if fence == Fence::Guarded {
            match &memory {
                Memory::Host(host) => host.slice_mut().fill(UNTOUCHED),
                Memory::Device(buffer) => buffer.fill(UNTOUCHED)?,
            }
        }
        Ok(Region { memory, before, bytes, fence })
    }

    pub fn with<T: Plain>(place: Place, fence: Fence, data: &[T], shift: usize) -> Result<Region, String> {
        let region = Region::new(place, fence, size_of_val(data), shift)?;
        region.write(0, data)?;
        Ok(region)
    }

    /// The address of the first byte; 0 for no bytes.
    pub fn addr(&self) -> u64 {
        if self.bytes == 0 {
            return 0;
        }
        let base = match &self.memory {
            Memory::Host(host) => host.ptr as u64,
            Memory::Device(buffer) => buffer.ptr(),
        };
        base + self.before as u64
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn write<T: Plain>(&self, offset: usize, data: &[T]) -> Result<(), String> {
        let bytes = size_of_val(data);
        assert!(offset + bytes <= self.bytes, "inside the region");
        if bytes == 0 {
            return Ok(());
        }
        match &self.memory {
            Memory::Host(host) => {
                // SAFETY: plain numbers, read as bytes.
                let from = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), bytes) };
                host.slice_mut()[self.before + offset..][..bytes].copy_from_slice(from);
                Ok(())
            }
            Memory::Device(buffer) => buffer.write(self.before + offset, data),
        }
    }

    /// Fills the region with copies of its first `pattern` bytes.
    pub fn repeat(&self, queue: &Queue, pattern: usize) -> Result<(), String> {
        let mut done = pattern;
        while done < self.bytes {
            let next = done.min(self.bytes - done);
            match (&self.memory, queue) {
                (Memory::Host(host), _) => {
                    host.slice_mut()[self.before..].copy_within(..next, done);
                }
                (Memory::Device(buffer), Queue::Stream(stream)) => {
                    stream.copy(buffer, self.before + done, buffer, self.before, next)?;
                }
                (Memory::Device(_), Queue::Immediate) => return Err("device memory needs a stream".into()),
            }
            done += next;
        }
        queue.synchronize()
    }

    /// Sets every byte to `UNTOUCHED` again.
    pub fn reset(&self) -> Result<(), String> {
        match &self.memory {
            Memory::Host(host) => host.slice_mut().fill(UNTOUCHED),
            Memory::Device(buffer) => buffer.fill(UNTOUCHED)?,
        }
        Ok(())
    }

    pub fn read<T: Plain>(&self) -> Result<Vec<T>, String> {
        self.read_at(0, self.bytes / std::mem::size_of::<T>())
    }

    pub fn read_at<T: Plain>(&self, offset: usize, count: usize) -> Result<Vec<T>, String> {
        let bytes = count * std::mem::size_of::<T>();
        assert!(offset + bytes <= self.bytes, "inside the region");
        if bytes == 0 {
            return Ok(Vec::new());
        }
        match &self.memory {
            Memory::Host(host) => {
                let mut data = vec![T::default(); count];
                let from = &host.slice_mut()[self.before + offset..][..bytes];
                // SAFETY: both hold `bytes` bytes, and any bytes make a `Plain` value.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), data.as_mut_ptr().cast::<u8>(), bytes) };
                Ok(data)
            }
            Memory::Device(buffer) => buffer.read_at(self.before + offset, count),
        }
    }

    /// Fails if a byte of the guards was written.
    pub fn check_guards(&self, name: &str) -> Result<(), String> {
        if self.fence == Fence::Exact || self.bytes == 0 {
            return Ok(());
        }
        for (side, offset, bytes) in [("before", 0, self.before), ("after", self.before + self.bytes, GUARD)] {
            let guard: Vec<u8> = match &self.memory {
                Memory::Host(host) => host.slice_mut()[offset..][..bytes].to_vec(),
                Memory::Device(buffer) => buffer.read_at(offset, bytes)?,
            };
            if let Some(at) = guard.iter().position(|b| *b != UNTOUCHED) {
                return Err(format!("{name}: byte {at} of the {bytes} {side} it was written"));
            }
        }
        Ok(())
    }
}

/// Aligned as device memory is. The library writes to it behind the compiler's back, so it is
/// reached by pointer alone.
struct HostMemory {
    allocation: *mut u8,
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: plain bytes; who writes when is the test's business, as with device memory.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Of no more than the allocator's own alignment, so that zeroed memory comes as it is from the system and
    /// pages that nobody touches don't exist; with room to align it here.
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes + ALIGN, 16).expect("a size that fits")
    }

    fn new(bytes: usize) -> HostMemory {
        // SAFETY: the size is not 0.
        let allocation = unsafe { std::alloc::alloc_zeroed(Self::layout(bytes)) };
        assert!(!allocation.is_null(), "{bytes} bytes of host memory");
        // SAFETY: less than ALIGN, for which there is room.
        let ptr = unsafe { allocation.add(allocation.align_offset(ALIGN)) };
        HostMemory { allocation, ptr, bytes }
    }

    #[allow(clippy::mut_from_ref)]
    fn slice_mut(&self) -> &mut [u8] {
        // SAFETY: allocated with this size, and used by one thread at a time.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { std::alloc::dealloc(self.allocation, Self::layout(self.bytes)) };
    }
}
