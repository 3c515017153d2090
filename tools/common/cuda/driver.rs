//! The driver's functions, by `dlopen` and `dlsym`.

use super::Result;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::sync::OnceLock;

/// Handles are kept as integers: they are used from any thread.
pub type Handle = usize;
pub type DevicePtr = u64;

macro_rules! driver {
    ($( $name:ident ( $($arg:ty),* ); )*) => {
        /// One member per function, with the name that the driver exports. Results are plain
        /// integers: a newer driver may return codes that no list here has.
        #[allow(non_snake_case)]
        pub struct Driver { $( pub $name: unsafe extern "C" fn($($arg),*) -> u32, )* }

        impl Driver {
            fn load() -> Result<Driver> {
                // SAFETY: a C string; the library is never closed.
                let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
                if library.is_null() {
                    return Err("no CUDA driver: libcuda.so.1 cannot be loaded".into());
                }
                Ok(Driver { $( $name: {
                    // SAFETY: the symbol's signature is the one declared in the CUDA driver API.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> u32>(
                        symbol(library, stringify!($name))?) }
                }, )* })
            }
        }
    };
}

driver! {
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuGetErrorName(u32, *mut *const c_char);
    cuGetErrorString(u32, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut Handle, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxCreate_v2(*mut Handle, c_uint, c_int);
    cuCtxDestroy_v2(Handle);
    cuCtxPushCurrent_v2(Handle);
    cuCtxPopCurrent_v2(*mut Handle);
    cuCtxSetCurrent(Handle);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut DevicePtr, usize);
    cuMemFree_v2(DevicePtr);
    cuMemcpyHtoD_v2(DevicePtr, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, DevicePtr, usize);
    cuMemcpyDtoDAsync_v2(DevicePtr, DevicePtr, usize, Handle);
    cuMemsetD8Async(DevicePtr, u8, usize, Handle);
    cuMemsetD16Async(DevicePtr, u16, usize, Handle);
    cuMemsetD32Async(DevicePtr, u32, usize, Handle);
    cuStreamCreate(*mut Handle, c_uint);
    cuStreamDestroy_v2(Handle);
    cuStreamSynchronize(Handle);
    cuStreamWaitEvent(Handle, Handle, c_uint);
    cuStreamBeginCapture_v2(Handle, c_uint);
    cuStreamEndCapture(Handle, *mut Handle);
    cuEventCreate(*mut Handle, c_uint);
    cuEventDestroy_v2(Handle);
    cuEventRecord(Handle, Handle);
    cuEventSynchronize(Handle);
    cuEventElapsedTime(*mut f32, Handle, Handle);
    cuGraphInstantiateWithFlags(*mut Handle, Handle, u64);
    cuGraphGetNodes(Handle, *mut Handle, *mut usize);
    cuGraphDestroy(Handle);
    cuGraphExecDestroy(Handle);
    cuGraphLaunch(Handle, Handle);
    cuLibraryLoadData(*mut Handle, *const c_void, *mut c_void, *mut c_void, c_uint, *mut c_void, *mut c_void, c_uint);
    cuLibraryUnload(Handle);
    cuLibraryGetKernel(*mut Handle, Handle, *const c_char);
    cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
}

fn symbol(library: *mut c_void, name: &str) -> Result<*mut c_void> {
    let c_name = CString::new(name).map_err(|e| e.to_string())?;
    // SAFETY: an open library and a C string.
    let address = unsafe { libc::dlsym(library, c_name.as_ptr()) };
    if address.is_null() {
        return Err(format!("the CUDA driver has no {name}: it is older than CUDA 12.0"));
    }
    Ok(address)
}

impl Driver {
    /// The driver, loaded and initialised once per process; the same error each time if it cannot be.
    pub fn get() -> Result<&'static Driver> {
        static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
        DRIVER
            .get_or_init(|| {
                let driver = Driver::load()?;
                // SAFETY: no arguments but flags, which must be 0.
                driver.check("cuInit", unsafe { (driver.cuInit)(0) })?;
                Ok(driver)
            })
            .as_ref()
            .map_err(|e| e.clone())
    }

    pub fn check(&self, call: &str, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let (mut name, mut text) = (std::ptr::null(), std::ptr::null());
        // SAFETY: both write a pointer to a static string, or null for a code they do not know.
        unsafe {
            (self.cuGetErrorName)(code, &mut name);
            (self.cuGetErrorString)(code, &mut text);
        }
        let string = |p: *const c_char| match p.is_null() {
            true => "unknown error".into(),
            // SAFETY: not null, so a static C string of the driver.
            false => unsafe { CStr::from_ptr(p) }.to_string_lossy(),
        };
        Err(format!("{call}: {code} {} ({})", string(name), string(text)))
    }

    /// For destructors, which cannot return an error and must not panic.
    pub fn report(&self, call: &str, code: u32) {
        if let Err(message) = self.check(call, code) {
            eprintln!("{message}");
        }
    }
}
