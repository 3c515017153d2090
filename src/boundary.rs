//! What every C function goes through: the panic guard and the last error of the thread.

use crate::status::{Error, Result, FLASHMLA_ERROR_PANIC, FLASHMLA_SUCCESS};
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};

thread_local! {
    static LAST_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Runs the body of a C function: an error becomes its status and the thread's last error, and so
/// does a panic, which must not cross into C. Success leaves the last error as it is.
pub fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    // State that a panic could leave torn is behind locks or local to the call.
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return FLASHMLA_SUCCESS,
        Ok(Err(error)) => error,
        Err(payload) => {
            let what = payload
                .downcast_ref::<&str>()
                .map(|s| s.to_string())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "unknown panic".into());
            Error::new(FLASHMLA_ERROR_PANIC, format!("internal panic: {what}"))
        }
    };
    let status = error.status;
    // A thread that is being torn down has no storage left; the status still tells.
    let _ = LAST_ERROR.try_with(|slot| *slot.borrow_mut() = Some(error));
    status
}

/// The message of the last failed call of this thread, empty if none failed.
pub fn last_message() -> String {
    LAST_ERROR.with(|slot| slot.borrow().as_ref().map(|e| e.message.clone()).unwrap_or_default())
}
