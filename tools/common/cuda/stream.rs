//! Streams and events.

use super::context::Context;
use super::driver::Handle;
use super::graph::GraphExec;
use super::kernel::Kernel;
use super::memory::DeviceBuffer;
use super::Result;
use std::ffi::c_void;

const NON_BLOCKING: u32 = 1;

/// Which threads are forbidden what a capture forbids (CUstreamCaptureMode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureMode {
    Global = 0,
    /// The capturing one: others may work on.
    ThreadLocal = 1,
}

/// A stream, destroyed when dropped.
pub struct Stream {
    context: Context,
    handle: Handle,
}

impl Stream {
    pub(super) fn new(context: &Context) -> Result<Stream> {
        let mut handle = 0;
        context.with(|driver| {
            // SAFETY: writes one handle.
            driver.check("cuStreamCreate", unsafe { (driver.cuStreamCreate)(&mut handle, NON_BLOCKING) })
        })?;
        Ok(Stream { context: context.clone(), handle })
    }

    /// The stream as the C functions take it (`flashmla::capi::types::cudaStream_t` by `.cast()`).
    pub fn as_ptr(&self) -> *mut c_void {
        self.handle as *mut c_void
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn synchronize(&self) -> Result<()> {
        let driver = self.context.driver();
        // SAFETY: a live stream.
        driver.check("cuStreamSynchronize", unsafe { (driver.cuStreamSynchronize)(self.handle) })
    }

    pub fn record(&self, event: &Event) -> Result<()> {
        let driver = self.context.driver();
        // SAFETY: both live.
        driver.check("cuEventRecord", unsafe { (driver.cuEventRecord)(event.handle, self.handle) })
    }

    pub fn wait(&self, event: &Event) -> Result<()> {
        let driver = self.context.driver();
        // SAFETY: both live.
        driver.check("cuStreamWaitEvent", unsafe { (driver.cuStreamWaitEvent)(self.handle, event.handle, 0) })
    }

    /// Sets `bytes` bytes at `offset`, in stream order.
    pub fn fill(&self, buffer: &DeviceBuffer, offset: usize, bytes: usize, byte: u8) -> Result<()> {
        let to = buffer.range(offset, bytes)?;
        let driver = self.context.driver();
        // SAFETY: the range lies inside the buffer.
        driver.check("cuMemsetD8Async", unsafe { (driver.cuMemsetD8Async)(to, byte, bytes, self.handle) })
    }

    /// Copies between device buffers, in stream order.
    pub fn copy(
        &self,
        to: &DeviceBuffer,
        to_offset: usize,
        from: &DeviceBuffer,
        from_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        let (to, from) = (to.range(to_offset, bytes)?, from.range(from_offset, bytes)?);
        let driver = self.context.driver();
        // SAFETY: both ranges lie inside their buffers.
        let code = unsafe { (driver.cuMemcpyDtoDAsync_v2)(to, from, bytes, self.handle) };
        driver.check("cuMemcpyDtoDAsync", code)
    }

    /// Launches a kernel. Each argument is at most 8 bytes and given as an integer whose low bytes
    /// are its value: the driver reads as many as the kernel declares, and the machine is
    /// little-endian.
    ///
    /// # Safety
    /// The arguments are what the kernel expects, and what they point to lives until it is done.
    pub unsafe fn launch(&self, kernel: &Kernel, grid: u32, block: u32, args: &[u64]) -> Result<()> {
        let mut values = args.to_vec();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        self.context.with(|driver| {
            let none = std::ptr::null_mut();
            let code = (driver.cuLaunchKernel)(
                kernel.raw(),
                grid,
                1,
                1,
                block,
                1,
                1,
                0,
                self.handle,
                pointers.as_mut_ptr(),
                none,
            );
            driver.check("cuLaunchKernel", code)
        })
    }

    /// Captures what `body` puts on this stream into a graph. The capture is ended also if `body`
    /// fails, and its error is the one returned.
    pub fn capture(&self, body: impl FnOnce(&Stream) -> Result<()>) -> Result<GraphExec> {
        self.capture_in(CaptureMode::ThreadLocal, body)
    }

    /// As `capture`, in a mode.
    pub fn capture_in(&self, mode: CaptureMode, body: impl FnOnce(&Stream) -> Result<()>) -> Result<GraphExec> {
        let driver = self.context.driver();
        // SAFETY: a live stream.
        let code = unsafe { (driver.cuStreamBeginCapture_v2)(self.handle, mode as u32) };
        driver.check("cuStreamBeginCapture", code)?;
        let result = body(self);
        let mut graph = 0;
        // SAFETY: a live stream; writes one handle.
        let code = unsafe { (driver.cuStreamEndCapture)(self.handle, &mut graph) };
        let ended = driver.check("cuStreamEndCapture", code);
        match result.and(ended) {
            Ok(()) => GraphExec::new(&self.context, graph),
            Err(message) => {
                if graph != 0 {
                    // SAFETY: made by the capture, used by nobody.
                    driver.report("cuGraphDestroy", unsafe { (driver.cuGraphDestroy)(graph) });
                }
                Err(message)
            }
        }
    }

    pub fn launch_graph(&self, graph: &GraphExec) -> Result<()> {
        let driver = self.context.driver();
        // SAFETY: both live.
        driver.check("cuGraphLaunch", unsafe { (driver.cuGraphLaunch)(graph.raw(), self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let driver = self.context.driver();
        // SAFETY: created by this struct and destroyed once; the driver lets its work finish.
        driver.report("cuStreamDestroy", unsafe { (driver.cuStreamDestroy_v2)(self.handle) });
    }
}

/// An event with timing, destroyed when dropped.
pub struct Event {
    context: Context,
    handle: Handle,
}

impl Event {
    pub(super) fn new(context: &Context) -> Result<Event> {
        let mut handle = 0;
        context.with(|driver| {
            // SAFETY: writes one handle.
            driver.check("cuEventCreate", unsafe { (driver.cuEventCreate)(&mut handle, 0) })
        })?;
        Ok(Event { context: context.clone(), handle })
    }

    pub fn synchronize(&self) -> Result<()> {
        let driver = self.context.driver();
        // SAFETY: a live event.
        driver.check("cuEventSynchronize", unsafe { (driver.cuEventSynchronize)(self.handle) })
    }

    /// Milliseconds from `earlier` to this event; both must have happened.
    pub fn elapsed_ms(&self, earlier: &Event) -> Result<f64> {
        let driver = self.context.driver();
        let mut ms = 0f32;
        // SAFETY: both live; writes one float.
        let code = unsafe { (driver.cuEventElapsedTime)(&mut ms, earlier.handle, self.handle) };
        driver.check("cuEventElapsedTime", code)?;
        Ok(ms as f64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let driver = self.context.driver();
        // SAFETY: created by this struct and destroyed once.
        driver.report("cuEventDestroy", unsafe { (driver.cuEventDestroy_v2)(self.handle) });
    }
}
