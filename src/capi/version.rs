//! Version, status names and the last error.

use super::types::flashmla_status_t;
use crate::boundary::last_message;
use crate::status;
use std::ffi::c_char;

/// Of this header; `flashmla_version()` gives that of the library.
pub const FLASHMLA_VERSION_MAJOR: i32 = 0;
/// Of this header.
pub const FLASHMLA_VERSION_MINOR: i32 = 1;
/// Of this header.
pub const FLASHMLA_VERSION_PATCH: i32 = 0;

/// The version of the loaded library as `major * 10000 + minor * 100 + patch`.
///
/// Compare with the `FLASHMLA_VERSION_*` macros to see whether header and library are of one
/// release. Thread-safe.
#[no_mangle]
pub extern "C" fn flashmla_version() -> i32 {
    FLASHMLA_VERSION_MAJOR * 10000 + FLASHMLA_VERSION_MINOR * 100 + FLASHMLA_VERSION_PATCH
}

/// The name of a status code, such as "FLASHMLA_ERROR_NULL_POINTER"; never NULL, and
/// "FLASHMLA_ERROR_UNKNOWN" for a code that this version does not know. Static. Thread-safe.
#[no_mangle]
pub extern "C" fn flashmla_status_name(status: flashmla_status_t) -> *const c_char {
    macro_rules! names {
        ($($code:ident),* $(,)?) => {
            match status {
                $(status::$code => concat!(stringify!($code), "\0"),)*
                4001..=4999 => "FLASHMLA_ERROR_CUDA\0",
                _ => "FLASHMLA_ERROR_UNKNOWN\0",
            }
        };
    }
    let name: &'static str = names!(
        FLASHMLA_SUCCESS,
        FLASHMLA_ERROR_INVALID_ARGUMENT,
        FLASHMLA_ERROR_NULL_POINTER,
        FLASHMLA_ERROR_STRUCT_SIZE,
        FLASHMLA_ERROR_INVALID_SHAPE,
        FLASHMLA_ERROR_INVALID_STRIDE,
        FLASHMLA_ERROR_MISALIGNED,
        FLASHMLA_ERROR_UNKNOWN_ENUM,
        FLASHMLA_ERROR_OVERFLOW,
        FLASHMLA_ERROR_BUFFER_TOO_SMALL,
        FLASHMLA_ERROR_PLAN_MISMATCH,
        FLASHMLA_ERROR_INVALID_STREAM,
        FLASHMLA_ERROR_UNSUPPORTED,
        FLASHMLA_ERROR_UNSUPPORTED_DEVICE,
        FLASHMLA_ERROR_NO_DRIVER,
        FLASHMLA_ERROR_DRIVER_TOO_OLD,
        FLASHMLA_ERROR_NO_DEVICE,
        FLASHMLA_ERROR_NO_KERNELS,
        FLASHMLA_ERROR_CUDA,
        FLASHMLA_ERROR_INTERNAL,
        FLASHMLA_ERROR_PANIC,
    );
    name.as_ptr().cast()
}

/// Copies the message of this thread's last failed call into `buffer`, NUL-terminated and cut to
/// `size` bytes, and returns the bytes that the whole message needs, the NUL included (1 where no
/// call failed yet).
///
/// The message names the argument, its value and what it must be. A successful call does not
/// change it. `buffer` may be NULL if `size` is 0.
#[no_mangle]
pub unsafe extern "C" fn flashmla_last_error(buffer: *mut c_char, size: usize) -> usize {
    let mut needed = 1;
    // A failure here must not replace the message that is being read.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let message = last_message();
        needed = message.len() + 1;
        if size > 0 && !buffer.is_null() {
            let n = message.len().min(size - 1);
            // SAFETY: the caller vouches for `size` writable bytes.
            std::ptr::copy_nonoverlapping(message.as_ptr(), buffer.cast::<u8>(), n);
            *buffer.add(n) = 0;
        }
    }));
    needed
}
