//! Status codes and the error type that every layer returns.
//!
//! Codes are `i32` constants and not an enum: C enums change their type under C23, and an unknown
//! value in a Rust enum is undefined behaviour. The thousands give the category.

/// The call did what its documentation says.
pub const FLASHMLA_SUCCESS: i32 = 0;

/// An argument is wrong in a way that none of the more specific codes describes.
pub const FLASHMLA_ERROR_INVALID_ARGUMENT: i32 = 1000;
/// A required pointer is null.
pub const FLASHMLA_ERROR_NULL_POINTER: i32 = 1001;
/// `struct_size` is smaller than the first released version of the struct, or the struct is
/// larger than this library knows and its unknown tail is not 0.
pub const FLASHMLA_ERROR_STRUCT_SIZE: i32 = 1002;
/// A size is negative, or does not fit the other sizes (`h_q % h_kv != 0`).
pub const FLASHMLA_ERROR_INVALID_SHAPE: i32 = 1003;
/// A stride is negative, misaligned, or makes two elements of an output share memory.
pub const FLASHMLA_ERROR_INVALID_STRIDE: i32 = 1004;
/// A pointer is not aligned as its tensor needs.
pub const FLASHMLA_ERROR_MISALIGNED: i32 = 1005;
/// An enumerator or a flag that this version does not know.
pub const FLASHMLA_ERROR_UNKNOWN_ENUM: i32 = 1006;
/// A product of sizes or strides does not fit 63 bits, or a limit in the documentation is exceeded.
pub const FLASHMLA_ERROR_OVERFLOW: i32 = 1007;
/// The workspace or the plan buffer is smaller than its size query says.
pub const FLASHMLA_ERROR_BUFFER_TOO_SMALL: i32 = 1008;
/// The plan was not made, or was made for another problem or another context.
pub const FLASHMLA_ERROR_PLAN_MISMATCH: i32 = 1009;
/// A stream was given to a CPU context.
pub const FLASHMLA_ERROR_INVALID_STREAM: i32 = 1010;

/// The problem is valid, and this library has no kernel for it.
pub const FLASHMLA_ERROR_UNSUPPORTED: i32 = 2000;
/// The device cannot run the problem (a GPU too old, for example).
pub const FLASHMLA_ERROR_UNSUPPORTED_DEVICE: i32 = 2001;

/// No CUDA driver (`libcuda.so.1`) can be loaded.
pub const FLASHMLA_ERROR_NO_DRIVER: i32 = 3000;
/// The CUDA driver is older than this library needs.
pub const FLASHMLA_ERROR_DRIVER_TOO_OLD: i32 = 3001;
/// The device ordinal does not exist.
pub const FLASHMLA_ERROR_NO_DEVICE: i32 = 3002;
/// This library was built without GPU kernels (`FLASHMLA_NO_KERNELS`).
pub const FLASHMLA_ERROR_NO_KERNELS: i32 = 3003;

/// A call of the CUDA driver failed: `FLASHMLA_ERROR_CUDA + CUresult` for results up to 999, and
/// `FLASHMLA_ERROR_CUDA` itself for others.
pub const FLASHMLA_ERROR_CUDA: i32 = 4000;

/// A defect of this library.
pub const FLASHMLA_ERROR_INTERNAL: i32 = 5000;
/// Code of this library panicked; the panic was caught at the boundary.
pub const FLASHMLA_ERROR_PANIC: i32 = 5001;

/// A status and the message that `flashmla_last_error` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub status: i32,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(status: i32, message: impl Into<String>) -> Self {
        Error { status, message: message.into() }
    }
}

/// `error!(STATUS, "format", ...)`: an `Error`. Where calls come by often it is made in a cold function: what its
/// message names must lie in memory otherwise, wrong or not.
#[macro_export]
macro_rules! error {
    ($status:ident, $($arg:tt)*) => {
        $crate::status::Error::new($crate::status::$status, format!($($arg)*))
    };
}

/// `err!(STATUS, "format", ...)`: an `Err` of this crate's `Result`.
#[macro_export]
macro_rules! err {
    ($status:ident, $($arg:tt)*) => {
        Err($crate::error!($status, $($arg)*))
    };
}
