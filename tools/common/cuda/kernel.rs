//! Kernels from a fatbin.

use super::context::Context;
use super::driver::Handle;
use super::Result;
use std::ffi::CString;
use std::ptr::null_mut;

/// A loaded fatbin, unloaded when dropped.
pub struct Library {
    context: Context,
    handle: Handle,
    // The driver may read the image later, when a kernel is first used.
    _image: Box<[u8]>,
}

impl Library {
    pub fn load(context: &Context, image: &[u8]) -> Result<Library> {
        let image: Box<[u8]> = image.into();
        let mut handle = 0;
        context.with(|driver| {
            // SAFETY: a fatbin, which carries its own size; no options.
            let code = unsafe {
                let data = image.as_ptr().cast();
                (driver.cuLibraryLoadData)(&mut handle, data, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0)
            };
            driver.check("cuLibraryLoadData", code)
        })?;
        Ok(Library { context: context.clone(), handle, _image: image })
    }

    pub fn kernel(&self, name: &str) -> Result<Kernel<'_>> {
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        let driver = self.context.driver();
        let mut handle = 0;
        // SAFETY: a live library and a C string; writes one handle.
        let code = unsafe { (driver.cuLibraryGetKernel)(&mut handle, self.handle, c_name.as_ptr()) };
        driver.check("cuLibraryGetKernel", code).map_err(|e| format!("kernel {name}: {e}"))?;
        Ok(Kernel { handle, _library: self })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let driver = self.context.driver();
        // SAFETY: loaded by this struct and unloaded once.
        driver.report("cuLibraryUnload", unsafe { (driver.cuLibraryUnload)(self.handle) });
    }
}

/// A kernel, which lives as long as its library. It serves every context.
pub struct Kernel<'a> {
    handle: Handle,
    _library: &'a Library,
}

impl Kernel<'_> {
    pub(super) fn raw(&self) -> Handle {
        self.handle
    }
}
