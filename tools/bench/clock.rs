//! The SM clock while kernels run, from NVML where that is installed.

use super::cuda::Device;
use super::stats::median;
use std::ffi::{c_char, c_uint, c_void, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

// CUdevice_attribute
const PCI_BUS_ID: i32 = 33;
const PCI_DEVICE_ID: i32 = 34;
const PCI_DOMAIN_ID: i32 = 50;
/// nvmlClockType_t
const NVML_CLOCK_SM: c_uint = 1;
const INTERVAL: Duration = Duration::from_millis(2);

type GetClockInfo = unsafe extern "C" fn(usize, c_uint, *mut c_uint) -> u32;

/// Reads a device's clock, or nothing where NVML is missing.
pub struct ClockSampler {
    device: Option<(GetClockInfo, usize)>,
}

impl ClockSampler {
    /// The reason is for the user where there is no clock to read.
    pub fn new(device: Device) -> (ClockSampler, Option<String>) {
        match open(device) {
            Ok(device) => (ClockSampler { device: Some(device) }, None),
            Err(reason) => (ClockSampler { device: None }, Some(reason)),
        }
    }

    /// Runs `body`, and gives the median of the clocks in MHz while it ran.
    pub fn during<T>(&self, body: impl FnOnce() -> T) -> (T, Option<f64>) {
        let Some((clock_info, handle)) = self.device else { return (body(), None) };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut samples = Vec::new();
                // The first sample may precede the work, and a short run must have one at least.
                loop {
                    std::thread::sleep(INTERVAL);
                    let mut mhz = 0;
                    // SAFETY: a live handle; writes one unsigned int.
                    if unsafe { clock_info(handle, NVML_CLOCK_SM, &mut mhz) } == 0 {
                        samples.push(mhz as f64);
                    }
                    if done.load(Ordering::Acquire) {
                        return samples;
                    }
                }
            });
            let result = body();
            done.store(true, Ordering::Release);
            let samples = sampler.join().unwrap_or_default();
            (result, median(&samples))
        })
    }
}

/// NVML numbers devices by itself, so the device is found by its place on the PCI bus.
fn open(device: Device) -> Result<(GetClockInfo, usize), String> {
    let bus_id = format!(
        "{:08x}:{:02x}:{:02x}.0",
        device.attribute(PCI_DOMAIN_ID)?,
        device.attribute(PCI_BUS_ID)?,
        device.attribute(PCI_DEVICE_ID)?
    );
    let bus_id = CString::new(bus_id).map_err(|e| e.to_string())?;
    // SAFETY: C strings; the signatures are those of NVML; the library is never closed.
    unsafe {
        let library = libc::dlopen(c"libnvidia-ml.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if library.is_null() {
            return Err("libnvidia-ml.so.1 cannot be loaded".into());
        }
        let init: unsafe extern "C" fn() -> u32 = std::mem::transmute(symbol(library, "nvmlInit_v2")?);
        let by_bus: unsafe extern "C" fn(*const c_char, *mut usize) -> u32 =
            std::mem::transmute(symbol(library, "nvmlDeviceGetHandleByPciBusId_v2")?);
        let clock_info: GetClockInfo = std::mem::transmute(symbol(library, "nvmlDeviceGetClockInfo")?);
        let checked = |call: &str, code: u32| match code {
            0 => Ok(()),
            _ => Err(format!("{call}: {code}")),
        };
        checked("nvmlInit", init())?;
        let mut handle = 0;
        checked("nvmlDeviceGetHandleByPciBusId", by_bus(bus_id.as_ptr(), &mut handle))?;
        Ok((clock_info, handle))
    }
}

unsafe fn symbol(library: *mut c_void, name: &str) -> Result<*mut c_void, String> {
    let c_name = CString::new(name).map_err(|e| e.to_string())?;
    match libc::dlsym(library, c_name.as_ptr()) {
        address if address.is_null() => Err(format!("libnvidia-ml.so.1 has no {name}")),
        address => Ok(address),
    }
}
