//! Launching a kernel, and the CUDA context in which that happens.
//!
//! Nothing here allocates: launch attributes and parameters live on the stack.

use super::driver::{call, Driver, Handle};
use super::GpuDevice;
use crate::status::Result;
use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDim, CUlaunchConfig,
};
use std::ffi::{c_int, c_void};
use std::mem::zeroed;
use std::ptr;

/// A kernel and the geometry of its launch, in x; y and z are 1.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    pub kernel: Handle,
    pub grid: u32,
    pub block: u32,
    /// Thread blocks of a cluster.
    pub cluster: u32,
    /// Dynamic shared memory.
    pub shared_bytes: u32,
    /// May begin before the kernels ahead of it on the stream have finished; it waits for them itself
    /// (programmatic dependent launch).
    pub overlaps: bool,
}

impl Launch {
    /// The attributes of the launch, and how many there are.
    fn attributes(&self) -> ([CUlaunchAttribute; 2], usize) {
        // SAFETY: integers, unions of integers, and an enum whose 0 means "ignore".
        let mut attributes: [CUlaunchAttribute; 2] = unsafe { zeroed() };
        let mut count = 0;
        if self.cluster > 1 {
            attributes[count].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[count].value.clusterDim = ClusterDim { x: self.cluster, y: 1, z: 1 };
            count += 1;
        }
        if self.overlaps {
            attributes[count].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count].value.programmaticStreamSerializationAllowed = 1;
            count += 1;
        }
        (attributes, count)
    }

    /// Calls `body` with the CUlaunchConfig of a launch.
    pub(super) fn with_config<T>(&self, stream: Handle, body: impl FnOnce(*const c_void) -> T) -> T {
        let (mut attributes, count) = self.attributes();
        let config = CUlaunchConfig {
            gridDimX: self.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream.0 as *mut _,
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        body(ptr::from_ref(&config).cast())
    }
}

impl GpuDevice {
    /// Runs `body` with a context of this device current, as needed by tensor maps and by the
    /// default streams. Other streams carry their own context, whichever is current.
    pub(super) fn with_context<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        with_context(self.driver, self.device, self.context, body)
    }

    /// Launches a kernel on any stream of any context of this device.
    ///
    /// # Safety
    /// `params` points to what the kernel takes, in order; addresses therein are the caller's.
    pub(super) unsafe fn launch<const N: usize>(
        &self,
        launch: &Launch,
        stream: Handle,
        params: [*const c_void; N],
    ) -> Result<()> {
        let mut params = params.map(|p| p.cast_mut());
        // A kernel handle stands for the function in the stream's context.
        // SAFETY: everything outlives the call, which copies it; the kernel's parameters are the caller's.
        launch.with_config(stream, |config| unsafe {
            call!(self.driver, cuLaunchKernelEx(config, launch.kernel, params.as_mut_ptr(), ptr::null_mut()))
        })
    }
}

/// A parameter of a launch: where its value lies.
pub(super) fn address<T>(value: &T) -> *const c_void {
    ptr::from_ref(value).cast()
}

/// Runs `body` with a context of `device` current: the thread's own if it is one, or else
/// `context`, for as long as that takes.
pub(super) fn with_context<T>(
    driver: &Driver,
    device: c_int,
    context: Handle,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let mut current = Handle::default();
    // SAFETY: writes one handle, null if none is current.
    unsafe { call!(driver, cuCtxGetCurrent(&mut current)) }?;
    if current != Handle::default() {
        let mut current_device: c_int = -1;
        // SAFETY: writes one integer.
        unsafe { call!(driver, cuCtxGetDevice(&mut current_device)) }?;
        if current_device == device {
            return body();
        }
    }
    // SAFETY: the device's primary context, which is never released.
    unsafe { call!(driver, cuCtxPushCurrent_v2(context)) }?;
    let result = body();
    // SAFETY: pops what was pushed; writes one handle.
    let popped = unsafe { call!(driver, cuCtxPopCurrent_v2(&mut current)) };
    // The first failure is the one to tell.
    result.and_then(|value| popped.map(|()| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_those_of_the_launch() {
        use CUlaunchAttributeID::*;
        let plain = Launch { kernel: Handle(0), grid: 4, block: 32, cluster: 1, shared_bytes: 0, overlaps: false };
        assert_eq!(plain.attributes().1, 0);
        let (overlapping, count) = Launch { overlaps: true, ..plain }.attributes();
        assert_eq!((count, overlapping[0].id), (1, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION));
        let (both, count) = Launch { cluster: 2, overlaps: true, ..plain }.attributes();
        assert_eq!((count, both[0].id), (2, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION));
        assert_eq!(both[1].id, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
        // SAFETY: written as these above.
        unsafe {
            assert_eq!(overlapping[0].value.programmaticStreamSerializationAllowed, 1);
            let cluster = both[0].value.clusterDim;
            assert_eq!((cluster.x, cluster.y, cluster.z), (2, 1, 1));
        }
    }
}
