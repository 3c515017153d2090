//! The two ceilings of the device, measured: matrix units alone, and memory alone.

use super::cuda::{Library, Stream};
use super::roofline::Ceilings;
use super::timing::Timer;

/// Where the fatbin of `cuda/bench/ceilings.cu` is among the embedded ones.
pub const FATBIN: &str = "bench/ceilings";

const COPY_BYTES: usize = 2 << 30;
const READ_BLOCKS_PER_MULTIPROCESSOR: u32 = 8;
const READ_THREADS: u32 = 512;
const WGMMA_THREADS: u32 = 384;
/// About 5 ms of an H100: long against the launch.
const WGMMA_ITERATIONS: u64 = 2000;
/// Three warpgroups, eight products of 64 x 256 x 16 an iteration.
const WGMMA_OPERATIONS: f64 = 3.0 * 8.0 * 2.0 * (64 * 256 * 16) as f64;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Bytes read and bytes written, together.
    pub copy_gbps: Option<f64>,
    pub read_gbps: Option<f64>,
    pub tflops: Option<f64>,
    /// The host's time in the launch of a kernel that does nothing, measured as that of a call.
    pub launch_us: Option<f64>,
    /// While the matrix units ran.
    pub sm_clock_mhz: Option<f64>,
}

impl Measured {
    pub fn ceilings(&self) -> Option<Ceilings> {
        Some(Ceilings { tflops: self.tflops?, read_gbps: self.read_gbps? })
    }
}

/// The embedded kernels, if this build has them.
pub fn fatbin() -> Option<&'static [u8]> {
    flashmla::gpu::kernels::FATBINS.iter().find(|(name, _)| *name == FATBIN).map(|(_, fatbin)| *fatbin)
}

/// The second value tells what could not be measured, and why.
pub fn measure(timer: &Timer, stream: &Stream, fatbin: Option<&[u8]>) -> Result<(Measured, Option<String>), String> {
    let from = stream.context().alloc(COPY_BYTES)?;
    let to = stream.context().alloc(COPY_BYTES)?;
    from.fill_u32(0x3d5a_be17)?;
    let gbps = |bytes: f64, ms: f64| bytes / ms / 1e6;
    let copy = timer.time::<String>(|| stream.copy(&to, 0, &from, 0, COPY_BYTES))?;
    let mut measured = Measured { copy_gbps: Some(gbps(2.0 * COPY_BYTES as f64, copy.ms)), ..Measured::default() };
    drop(to);
    let Some(fatbin) = fatbin else {
        return Ok((measured, Some(format!("no kernels {FATBIN} in this build"))));
    };

    let multiprocessors = stream.context().device().multiprocessors()? as u32;
    let sink = stream.context().alloc(4)?;
    let library = match Library::load(stream.context(), fatbin) {
        Ok(library) => library,
        Err(reason) => return Ok((measured, Some(reason))),
    };
    let read = library.kernel("flashmla_bench_read")?;
    let args = [from.ptr(), (COPY_BYTES / 16) as u64, sink.ptr()];
    // SAFETY: the kernel's parameters, const uint4*, u64, u32*; the buffers live past the timing.
    let timing = timer.time::<String>(|| unsafe {
        stream.launch(&read, multiprocessors * READ_BLOCKS_PER_MULTIPROCESSOR, READ_THREADS, &args)
    })?;
    measured.read_gbps = Some(gbps(COPY_BYTES as f64, timing.ms));

    let nothing = [from.ptr(), 0, sink.ptr()];
    // SAFETY: as above.
    measured.launch_us = Some(timer.host_us::<String>(|| unsafe { stream.launch(&read, 1, READ_THREADS, &nothing) })?);

    let wgmma = library.kernel("flashmla_bench_wgmma")?;
    let args = [WGMMA_ITERATIONS, sink.ptr()];
    // SAFETY: the kernel's parameters, u32 and float*; the buffer lives past the timing.
    let timing = timer.time::<String>(|| unsafe { stream.launch(&wgmma, multiprocessors, WGMMA_THREADS, &args) })?;
    let operations = multiprocessors as f64 * WGMMA_ITERATIONS as f64 * WGMMA_OPERATIONS;
    measured.tflops = Some(operations / timing.ms / 1e9);
    measured.sm_clock_mhz = timing.sm_clock_mhz;
    Ok((measured, None))
}
