//! The CUDA driver: a table of the functions needed, from `dlopen` and `dlsym`.
//!
//! Results are plain `u32`: a newer driver may return codes that no list here has, and an unknown
//! value in a Rust enum would be undefined behaviour. Nothing here panics where there is no driver.

use super::kernels;
use crate::err;
use crate::status::{Error, Result, FLASHMLA_ERROR_CUDA};
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::ptr;
use std::sync::OnceLock;

/// A handle that the driver gave out, or a stream of the caller's: never looked into, and valid in
/// every thread, which a pointer type would not say.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handle(pub usize);

pub const CUDA_SUCCESS: u32 = 0;
pub const CUDA_ERROR_INVALID_VALUE: u32 = 1;
pub const CUDA_ERROR_NOT_FOUND: u32 = 500;
pub const CUDA_ERROR_INVALID_CLUSTER_SIZE: u32 = 912;
const CUDA_ERROR_STUB_LIBRARY: u32 = 34;
const CUDA_ERROR_NO_DEVICE: u32 = 100;

/// The oldest driver that loads the embedded kernels, as `major * 1000 + minor * 10`.
///
/// A driver loads machine code of every toolkit of its own major version and of older ones, not of
/// newer ones. Within major version 12, compressed fatbins came with 12.4.
pub const MIN_VERSION: i32 = {
    let toolkit = kernels::toolkit_major() * 1000;
    if toolkit > 12040 {
        toolkit
    } else {
        12040
    }
};

macro_rules! table {
    (
        required { $( fn $name:ident($($arg:ty),*); )* }
        optional { $( fn $opt_name:ident($($opt_arg:ty),*); )* }
    ) => {
        /// One member per function, with the name that the driver exports.
        #[allow(non_snake_case)]
        pub struct Driver {
            /// CUDA version that the driver supports, as `major * 1000 + minor * 10`.
            pub version: i32,
            $( pub $name: unsafe extern "C" fn($($arg),*) -> u32, )*
            $( pub $opt_name: Option<unsafe extern "C" fn($($opt_arg),*) -> u32>, )*
        }

        impl Driver {
            fn from_library(library: Library) -> Result<Driver> {
                let version = library.driver_version()?;
                Ok(Driver {
                    version,
                    // SAFETY: functions of the CUDA driver API, which fixes their signatures.
                    $( $name: unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> u32>(
                            library.required(stringify!($name), version)?)
                    }, )*
                    // SAFETY: as above.
                    $( $opt_name: library.symbol(stringify!($opt_name)).map(|symbol| unsafe {
                        std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($opt_arg),*) -> u32>(symbol)
                    }), )*
                })
            }
        }
    };
}

table! {
    required {
        fn cuInit(c_uint);
        fn cuGetErrorName(u32, *mut *const c_char);
        fn cuDeviceGetCount(*mut c_int);
        fn cuDeviceGet(*mut c_int, c_int);
        fn cuDeviceGetName(*mut c_char, c_int, c_int);
        fn cuDeviceGetAttribute(*mut c_int, c_int, c_int);
        fn cuDevicePrimaryCtxRetain(*mut Handle, c_int);
        fn cuCtxGetCurrent(*mut Handle);
        fn cuCtxGetDevice(*mut c_int);
        fn cuCtxPushCurrent_v2(Handle);
        fn cuCtxPopCurrent_v2(*mut Handle);
        fn cuLibraryLoadData(
            *mut Handle, *const c_void, *mut c_int, *mut *mut c_void, c_uint, *mut c_int, *mut *mut c_void, c_uint);
        fn cuLibraryGetKernel(*mut Handle, Handle, *const c_char);
        fn cuKernelSetAttribute(c_int, c_int, Handle, c_int);
        fn cuKernelGetFunction(*mut Handle, Handle);
        fn cuLaunchKernelEx(*const c_void, Handle, *mut *mut c_void, *mut *mut c_void);
        fn cuTensorMapEncodeTiled(
            *mut c_void, c_uint, u32, *mut c_void, *const u64, *const u64, *const u32, *const u32,
            c_uint, c_uint, c_uint, c_uint);
    }
    // The first since CUDA 12.4: without it a kernel is loaded at its first launch. Without the second no kernels run that
    // must know how many clusters fit.
    optional {
        fn cuFuncLoad(Handle);
        fn cuOccupancyMaxActiveClusters(*mut c_int, Handle, *const c_void);
    }
}

/// Calls a function of the table; a result other than success becomes an error that names it.
macro_rules! call {
    ($driver:expr, $name:ident($($arg:expr),* $(,)?)) => {
        $driver.check(stringify!($name), ($driver.$name)($($arg),*))
    };
}
pub(super) use call;

impl Driver {
    /// The driver, loaded once per process. A failure is not kept: the next call tries again.
    pub fn get() -> Result<&'static Driver> {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        if let Some(driver) = DRIVER.get() {
            return Ok(driver);
        }
        // Threads that come here together load the same library, and keep one of the tables.
        let driver = Driver::from_library(Library::open()?)?;
        Ok(DRIVER.get_or_init(|| driver))
    }

    /// Makes the driver usable. Cheap where that has happened before.
    pub fn init(&self) -> Result<()> {
        // SAFETY: takes flags, which must be 0.
        match unsafe { (self.cuInit)(0) } {
            CUDA_ERROR_NO_DEVICE => err!(FLASHMLA_ERROR_NO_DEVICE, "cuInit: this machine has no CUDA device"),
            CUDA_ERROR_STUB_LIBRARY => stub_library(),
            code => self.check("cuInit", code),
        }
    }

    /// Success, or the error that tells which function failed and how.
    pub fn check(&self, function: &str, code: u32) -> Result<()> {
        if code == CUDA_SUCCESS {
            return Ok(());
        }
        Err(self.failure(function, code))
    }

    // Out of line: launches check often and fail seldom.
    #[cold]
    fn failure(&self, function: &str, code: u32) -> Error {
        let mut name = ptr::null();
        // SAFETY: writes a pointer to a static string, or null for a code that the driver does not know.
        unsafe { (self.cuGetErrorName)(code, &mut name) };
        if name.is_null() {
            return cuda_error(code, format!("{function} failed with the unknown CUresult {code}"));
        }
        // SAFETY: not null, so a static C string of the driver.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        cuda_error(code, format!("{function} failed: {name} (CUresult {code})"))
    }
}

fn cuda_error(code: u32, message: String) -> Error {
    let status = if code <= 999 { FLASHMLA_ERROR_CUDA + code as i32 } else { FLASHMLA_ERROR_CUDA };
    Error::new(status, message)
}

fn stub_library<T>() -> Result<T> {
    err!(
        FLASHMLA_ERROR_NO_DRIVER,
        "no CUDA driver: the libcuda.so.1 that was found is a stub of the CUDA toolkit; \
         take its folder out of LD_LIBRARY_PATH"
    )
}

/// The driver's shared library. Never closed: contexts and kernels live as long as the process.
struct Library(*mut c_void);

impl Library {
    fn open() -> Result<Library> {
        // The versioned name, which a driver has and a toolkit's development files have not. Local, so
        // that its symbols do not stand in for those of a library that is loaded later.
        // SAFETY: a C string. A shared library's initialisers run, as for any program that uses CUDA.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: null or a C string that is valid until this thread's next dl* call.
            let reason = unsafe {
                let text = libc::dlerror();
                if text.is_null() {
                    "unknown reason".into()
                } else {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
            };
            return err!(FLASHMLA_ERROR_NO_DRIVER, "no CUDA driver: libcuda.so.1 cannot be loaded ({reason})");
        }
        Ok(Library(library))
    }

    fn symbol(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: an open library and a C string.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }

    fn required(&self, name: &str, version: i32) -> Result<*mut c_void> {
        match self.symbol(name) {
            Some(symbol) => Ok(symbol),
            None => err!(
                FLASHMLA_ERROR_DRIVER_TOO_OLD,
                "the CUDA driver lacks {name}, though it says that it supports CUDA {}",
                dotted(version)
            ),
        }
    }

    /// Asked before anything else is looked up: an old driver lacks functions, and the reason is its age.
    fn driver_version(&self) -> Result<i32> {
        let Some(symbol) = self.symbol("cuDriverGetVersion") else {
            return err!(
                FLASHMLA_ERROR_NO_DRIVER,
                "no CUDA driver: the libcuda.so.1 that was found has no cuDriverGetVersion"
            );
        };
        // SAFETY: the CUDA driver API fixes the signature.
        let get_version: unsafe extern "C" fn(*mut c_int) -> u32 = unsafe { std::mem::transmute(symbol) };
        let mut version = 0;
        // SAFETY: writes one integer.
        match unsafe { get_version(&mut version) } {
            CUDA_SUCCESS => {}
            CUDA_ERROR_STUB_LIBRARY => return stub_library(),
            code => return Err(cuda_error(code, format!("cuDriverGetVersion failed: CUresult {code}"))),
        }
        if version < MIN_VERSION {
            return err!(
                FLASHMLA_ERROR_DRIVER_TOO_OLD,
                "the CUDA driver supports CUDA {}: must be {} or newer, the kernels were built with nvcc {}",
                dotted(version),
                dotted(MIN_VERSION),
                kernels::TOOLKIT_VERSION
            );
        }
        Ok(version)
    }
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}
