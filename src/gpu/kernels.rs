//! The embedded kernels: machine code that `build.rs` compiled from `cuda/`, and its version.

use std::sync::OnceLock;

/// Name and bytes of one fatbin per `.cu` file; empty in a build without kernels.
pub type Fatbins = &'static [(&'static str, &'static [u8])];

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Version of the nvcc that compiled the kernels.
pub const TOOLKIT_VERSION: &str = match option_env!("FLASHMLA_NVCC_VERSION") {
    Some(version) => version,
    None => "13.0",
};

/// What precedes the first dot of [`TOOLKIT_VERSION`].
pub(super) const fn toolkit_major() -> i32 {
    let text = TOOLKIT_VERSION.as_bytes();
    let (mut major, mut i) = (0, 0);
    while i < text.len() && text[i].is_ascii_digit() {
        major = major * 10 + (text[i] - b'0') as i32;
        i += 1;
    }
    assert!(major > 0 && (i == text.len() || text[i] == b'.'), "FLASHMLA_NVCC_VERSION must be like 13.0.88");
    major
}

static SUBSTITUTE: OnceLock<Fatbins> = OnceLock::new();

/// The kernels to load.
pub(super) fn fatbins() -> Fatbins {
    SUBSTITUTE.get().copied().unwrap_or(FATBINS)
}

/// Replaces the embedded kernels in this process, once and before the first context: for tests
/// against a driver that runs no code, so that they do the same in a build without kernels.
#[doc(hidden)]
pub fn substitute(fatbins: Fatbins) {
    SUBSTITUTE.set(fatbins).expect("the kernels of a process can be replaced once");
}
