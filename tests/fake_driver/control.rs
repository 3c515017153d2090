//! The fake driver's control functions.

use std::ffi::{c_char, c_int, c_long, c_void, CStr, CString};

/// `struct fake_launch`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Launch {
    kernel: [u8; 64],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared_bytes: u32,
    pub overlaps: u32,
    pub attributes: u32,
    parameter_bytes: u32,
    pub device: i32,
    pub primary_context: i32,
    pub stream: u64,
    parameters: [u8; 1024],
}

impl Launch {
    pub fn kernel(&self) -> &str {
        CStr::from_bytes_until_nul(&self.kernel).unwrap().to_str().unwrap()
    }

    /// The parameter that begins at a byte.
    pub fn parameter<T: Copy>(&self, offset: usize) -> T {
        assert!(offset + size_of::<T>() <= self.parameter_bytes as usize, "{} got fewer bytes", self.kernel());
        // SAFETY: inside the array; used for structs of integers and floats.
        unsafe { self.parameters.as_ptr().add(offset).cast::<T>().read_unaligned() }
    }

    pub fn parameter_bytes(&self) -> usize {
        self.parameter_bytes as usize
    }
}

/// `struct tensor_map`, as long as a real one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorMap {
    pub address: u64,
    pub strides: [u64; 4],
    pub sizes: [u32; 5],
    pub tile: [u32; 5],
    pub data_type: u32,
    pub rank: u32,
    pub interleave: u32,
    pub swizzle: u32,
    pub promotion: u32,
    pub fill: u32,
    pub rest: [u8; 24],
}

const _: () = assert!(size_of::<TensorMap>() == 128);

/// The driver that this process has found.
#[derive(Clone, Copy)]
pub struct Fake(*mut c_void);

macro_rules! control {
    ($( $(#[$doc:meta])* fn $name:ident = $symbol:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?; )*) => {
        impl Fake { $(
            $(#[$doc])*
            pub fn $name(&self, $($arg: $type),*) $(-> $result)? {
                let symbol = self.symbol(stringify!($symbol));
                // SAFETY: the function of that name in libcuda_fake.c has this signature.
                unsafe { std::mem::transmute::<*mut c_void, extern "C" fn($($type),*) $(-> $result)?>(symbol)($($arg),*) }
            }
        )* }
    };
}

control! {
    fn set_raw = fake_set(name: *const c_char, value: c_long);
    fn fail_raw = fake_fail(function: *const c_char, nth: c_int, code: u32);
    fn fail_no_more = fake_fail_no_more();
    /// Forgets calls and launches.
    fn forget = fake_forget();
    fn call_raw = fake_call(n: c_int) -> *const c_char;
    fn launch_raw = fake_launch(n: c_int, out: *mut Launch) -> c_int;
    /// How often a device's primary context is retained.
    fn retained = fake_retained(ordinal: c_int) -> c_int;
    /// Kernels loaded for a device.
    fn loaded = fake_loaded(ordinal: c_int) -> c_int;
    /// Contexts on this thread's stack.
    fn depth = fake_depth() -> c_int;
    fn current = fake_current() -> usize;
    /// The one context on this thread's stack from now; 0: none.
    fn make_current = fake_make_current(context: usize);
    fn primary_context = fake_primary_context(ordinal: c_int) -> usize;
    fn other_context = fake_context(ordinal: c_int) -> usize;
    fn stream = fake_stream(ordinal: c_int, of_primary: c_int) -> usize;
}

impl Fake {
    pub fn open() -> Fake {
        // SAFETY: a C string; the library is never closed.
        let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "the fake driver is not in LD_LIBRARY_PATH");
        Fake(library)
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let c_name = CString::new(name).unwrap();
        // SAFETY: an open library and a C string.
        let symbol = unsafe { libc::dlsym(self.0, c_name.as_ptr()) };
        assert!(!symbol.is_null(), "libcuda.so.1 has no {name}: it is not the fake driver");
        symbol
    }

    /// "version", "devices", "capability" or "multiprocessors".
    pub fn set(&self, setting: &str, value: i64) {
        self.set_raw(CString::new(setting).unwrap().as_ptr(), value as c_long);
    }

    /// The nth call of a function from now, from 1, returns `code`; 0: every call.
    pub fn fail(&self, function: &str, nth: i32, code: u32) {
        self.fail_raw(CString::new(function).unwrap().as_ptr(), nth, code);
    }

    /// The calls since `forget`, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        // SAFETY: null or a static string.
        let call = |n| unsafe {
            let name = self.call_raw(n);
            (!name.is_null()).then(|| CStr::from_ptr(name).to_str().unwrap())
        };
        (0..).map_while(call).collect()
    }

    pub fn count(&self, function: &str) -> usize {
        self.calls().iter().filter(|call| **call == function).count()
    }

    /// The launches since `forget`, in order.
    pub fn launches(&self) -> Vec<Launch> {
        // SAFETY: integers.
        let mut launch: Launch = unsafe { std::mem::zeroed() };
        (0..).map_while(|n| (self.launch_raw(n, &mut launch) != 0).then_some(launch)).collect()
    }
}
