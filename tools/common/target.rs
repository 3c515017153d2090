//! Where a tool runs: the host or a CUDA device, and memory there.

use super::cuda::{self, Context, DeviceBuffer, Stream};
use super::failure::Failure;
use std::ffi::c_void;

/// A device as named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    Gpu(i32),
}

impl DeviceName {
    pub fn parse(text: &str) -> Result<DeviceName, Failure> {
        match text {
            "cpu" => Ok(DeviceName::Cpu),
            _ => match text.parse() {
                Ok(ordinal) if ordinal >= 0 => Ok(DeviceName::Gpu(ordinal)),
                _ => Err(Failure::Usage(format!("--device {text}: must be \"cpu\" or a device ordinal, 0 or more"))),
            },
        }
    }

    /// As `flashmla_create` takes it.
    pub fn ordinal(&self) -> i32 {
        match self {
            DeviceName::Cpu => flashmla::capi::types::FLASHMLA_DEVICE_CPU,
            DeviceName::Gpu(ordinal) => *ordinal,
        }
    }
}

pub enum Target {
    Cpu,
    Gpu { context: Context, stream: Stream },
}

impl Target {
    pub fn open(device: DeviceName) -> Result<Target, Failure> {
        let DeviceName::Gpu(ordinal) = device else { return Ok(Target::Cpu) };
        let cuda = cuda::available().map_err(Failure::Environment)?;
        let device = cuda.device(ordinal).map_err(Failure::Environment)?;
        let context = device.primary_context()?;
        let stream = context.stream()?;
        Ok(Target::Gpu { context, stream })
    }

    /// The stream that the library gets.
    pub fn stream(&self) -> *mut c_void {
        match self {
            Target::Cpu => std::ptr::null_mut(),
            Target::Gpu { stream, .. } => stream.as_ptr(),
        }
    }

    pub fn synchronize(&self) -> Result<(), Failure> {
        match self {
            Target::Cpu => Ok(()),
            Target::Gpu { stream, .. } => Ok(stream.synchronize()?),
        }
    }

    pub fn alloc(&self, bytes: usize) -> Result<Memory, Failure> {
        Ok(match self {
            Target::Cpu => Memory::Host(HostMemory::new(bytes)),
            Target::Gpu { context, .. } => Memory::Device(context.alloc(bytes)?),
        })
    }

    pub fn upload(&self, data: &[u8]) -> Result<Memory, Failure> {
        Ok(match self {
            Target::Cpu => {
                let mut memory = HostMemory::new(data.len());
                memory.bytes_mut().copy_from_slice(data);
                Memory::Host(memory)
            }
            Target::Gpu { context, .. } => Memory::Device(context.upload(data)?),
        })
    }
}

/// Memory of a target, freed when dropped.
pub enum Memory {
    Host(HostMemory),
    Device(DeviceBuffer),
}

impl Memory {
    /// The address of the first byte; null for no bytes.
    pub fn as_ptr(&self) -> *mut c_void {
        match self {
            Memory::Host(memory) if memory.bytes == 0 => std::ptr::null_mut(),
            Memory::Host(memory) => memory.chunks.as_ptr().cast_mut().cast(),
            Memory::Device(buffer) => buffer.as_ptr(),
        }
    }

    /// A copy of the content on the host.
    pub fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Memory::Host(memory) => Ok(memory.bytes().to_vec()),
            Memory::Device(buffer) => Ok(buffer.read()?),
        }
    }
}

/// The largest alignment that the library asks for.
#[repr(C, align(256))]
#[derive(Clone, Copy)]
struct Chunk([u8; 256]);

/// Host memory, aligned as device memory is.
pub struct HostMemory {
    chunks: Vec<Chunk>,
    bytes: usize,
}

impl HostMemory {
    fn new(bytes: usize) -> HostMemory {
        HostMemory { chunks: vec![Chunk([0; 256]); bytes.div_ceil(256)], bytes }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the chunks are plain bytes and hold at least this many.
        unsafe { std::slice::from_raw_parts(self.chunks.as_ptr().cast(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.chunks.as_mut_ptr().cast(), self.bytes) }
    }
}
