//! What a test runs on, and the lines it prints past the harness.

use crate::cuda::{self, Context, Device};
use crate::memory::Place;
use flashmla::capi::context::*;
use flashmla::capi::types::{cudaStream_t, FLASHMLA_DEVICE_CPU};
use flashmla::capi::version::flashmla_last_error;
use flashmla::status;
use std::ffi::c_char;
use std::mem::{size_of, zeroed};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

/// A status other than success, and the library's message.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub status: i32,
    pub message: String,
}

impl From<Refusal> for String {
    fn from(r: Refusal) -> String {
        format!("status {}: {}", r.status, r.message)
    }
}

pub fn outcome(status: i32) -> Result<(), Refusal> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a null buffer of size 0 asks for the size; then the buffer has it.
    let bytes = unsafe {
        let mut buffer = vec![0 as c_char; flashmla_last_error(std::ptr::null_mut(), 0)];
        flashmla_last_error(buffer.as_mut_ptr(), buffer.len());
        buffer.iter().take(buffer.len() - 1).map(|c| *c as u8).collect::<Vec<u8>>()
    };
    Err(Refusal { status, message: String::from_utf8_lossy(&bytes).into_owned() })
}

/// A context of the library. Immutable, so any thread may use it; never destroyed.
pub struct Handle(pub *const flashmla_context_t);

// SAFETY: the library's contexts are for any number of threads.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    fn create(device: i32) -> Result<Handle, Refusal> {
        let mut context = std::ptr::null_mut();
        // SAFETY: options may be null; writes one pointer.
        outcome(unsafe { flashmla_create(device, std::ptr::null(), &mut context) })?;
        Ok(Handle(context))
    }

    fn multiprocessors(&self) -> Result<i64, Refusal> {
        // SAFETY: plain data, for which all 0 is a value; the context is live.
        unsafe {
            let mut info: flashmla_device_info_t = zeroed();
            info.struct_size = size_of::<flashmla_device_info_t>();
            outcome(flashmla_get_device_info(self.0, &mut info))?;
            Ok(info.multiprocessors as i64)
        }
    }
}

pub struct Gpu {
    pub device: Device,
    pub context: Context,
    /// As the library counts them.
    pub multiprocessors: i64,
}

pub struct Backend {
    pub handle: Handle,
    pub gpu: Option<Gpu>,
}

/// Why a test cannot run.
#[derive(Clone)]
enum Absent {
    /// This machine has no GPU that the library supports.
    Skip(String),
    /// It should have worked.
    Fail(String),
}

fn open_gpu() -> Result<Backend, Absent> {
    let ordinal = match std::env::var("FLASHMLA_TEST_DEVICE") {
        Ok(text) => text.parse().map_err(|_| Absent::Fail(format!("FLASHMLA_TEST_DEVICE={text}: not a number")))?,
        Err(_) => 0,
    };
    let cuda = cuda::available().map_err(|e| Absent::Skip(format!("no GPU ({e})")))?;
    let device = cuda.device(ordinal).map_err(Absent::Fail)?;
    let context = device.primary_context().map_err(Absent::Fail)?;
    let handle = Handle::create(ordinal).map_err(|r| match r.status {
        status::FLASHMLA_ERROR_UNSUPPORTED_DEVICE
        | status::FLASHMLA_ERROR_NO_KERNELS
        | status::FLASHMLA_ERROR_DRIVER_TOO_OLD => Absent::Skip(format!("no GPU for this build ({})", r.message)),
        _ => Absent::Fail(format!("flashmla_create: {}", String::from(r))),
    })?;
    let multiprocessors = handle.multiprocessors().map_err(|r| Absent::Fail(r.into()))?;
    Ok(Backend { handle, gpu: Some(Gpu { device, context, multiprocessors }) })
}

fn backend() -> &'static Result<Backend, Absent> {
    static BACKEND: OnceLock<Result<Backend, Absent>> = OnceLock::new();
    BACKEND.get_or_init(|| match std::env::var("FLASHMLA_TEST_BACKEND").as_deref() {
        Ok("cpu") => match Handle::create(FLASHMLA_DEVICE_CPU) {
            Ok(handle) => Ok(Backend { handle, gpu: None }),
            Err(r) => Err(Absent::Fail(r.into())),
        },
        Ok("gpu") | Err(_) => open_gpu(),
        Ok(other) => Err(Absent::Fail(format!("FLASHMLA_TEST_BACKEND={other}: must be \"gpu\" or \"cpu\""))),
    })
}

/// Some tests tolerate no other work in the process: a global-mode capture forbids allocations of
/// every thread, and large buffers want the memory for themselves.
static TURN: RwLock<()> = RwLock::new(());

#[allow(dead_code)] // held, not read
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Wants {
    /// Either backend.
    Any,
    Gpu,
    /// A GPU, and no other test at the same time.
    GpuAlone,
    /// Either backend, and no other test at the same time.
    Alone,
}

/// A running test. Prints its time at the end.
pub struct Session {
    pub name: &'static str,
    pub backend: &'static Backend,
    began: Instant,
    _turn: Turn,
}

impl Session {
    /// `None`: the test was skipped, and a line says so.
    pub fn open(name: &'static str, wants: Wants) -> Option<Session> {
        let skip = |why: &str| {
            skip(name, why);
            None
        };
        let backend = match backend() {
            Ok(backend) => backend,
            Err(Absent::Skip(why)) => return skip(why),
            Err(Absent::Fail(why)) => panic!("{why}"),
        };
        if matches!(wants, Wants::Gpu | Wants::GpuAlone) && backend.gpu.is_none() {
            return skip("no GPU (FLASHMLA_TEST_BACKEND=cpu)");
        }
        // A test that failed in its turn leaves nothing behind that the next one needs.
        let turn = match wants {
            Wants::GpuAlone | Wants::Alone => Turn::Alone(TURN.write().unwrap_or_else(PoisonError::into_inner)),
            _ => Turn::Shared(TURN.read().unwrap_or_else(PoisonError::into_inner)),
        };
        Some(Session { name, backend, began: Instant::now(), _turn: turn })
    }

    pub fn gpu(&self) -> &'static Gpu {
        self.backend.gpu.as_ref().expect("opened with a GPU")
    }

    pub fn place(&self) -> Place<'static> {
        match &self.backend.gpu {
            Some(gpu) => Place::Device(&gpu.context),
            None => Place::Host,
        }
    }

    /// Whether the device has so much free memory; if not, the test is skipped.
    pub fn has_memory(&self, bytes: usize) -> bool {
        let (free, _) = self.gpu().context.memory_info().expect("the device's memory");
        if free < bytes {
            skip(self.name, &format!("no GPU memory for {bytes} bytes, {free} are free"));
        }
        free >= bytes
    }

    pub fn queue(&self) -> Result<Queue, String> {
        Ok(match &self.backend.gpu {
            Some(gpu) => Queue::Stream(gpu.context.stream()?),
            None => Queue::Immediate,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        say(&format!("TIME {} {:.2} s", self.name, self.began.elapsed().as_secs_f64()));
    }
}

/// Says that a test is skipped; where a GPU is required, that is a failure.
fn skip(name: &str, why: &str) {
    let required = std::env::var("FLASHMLA_REQUIRE_GPU").is_ok_and(|v| !v.is_empty() && v != "0");
    assert!(!required, "FLASHMLA_REQUIRE_GPU is set: {why}");
    say(&format!("SKIP {name} skipped: {why}"));
}

/// Where calls go: a stream, or, on the CPU, at once.
pub enum Queue {
    Immediate,
    Stream(cuda::Stream),
}

impl Queue {
    pub fn raw(&self) -> cudaStream_t {
        match self {
            Queue::Immediate => std::ptr::null_mut(),
            Queue::Stream(stream) => stream.as_ptr().cast(),
        }
    }

    pub fn synchronize(&self) -> Result<(), String> {
        match self {
            Queue::Immediate => Ok(()),
            Queue::Stream(stream) => stream.synchronize(),
        }
    }
}

/// Prints a line to stderr, past the harness, which would keep it until a test fails. The harness may
/// have left a line of its own unfinished.
pub fn say(line: &str) {
    let line = format!("\n{line}\n");
    // SAFETY: as many bytes as the string has. A reader that has gone is no reason to fail.
    let _ = unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// The name of the function it is used in, without the crate.
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let path = path.strip_suffix("::here").unwrap_or(path);
        path.split_once("::").map_or(path, |(_, rest)| rest)
    }};
}

/// The session of a test, or the end of the test where its backend is missing.
macro_rules! session_or_skip {
    ($wants:ident) => {
        match $crate::session::Session::open(test_name!(), $crate::session::Wants::$wants) {
            Some(session) => session,
            None => return,
        }
    };
}

/// For tests that know nothing of device memory: any backend.
macro_rules! backend_or_skip {
    () => {
        session_or_skip!(Any)
    };
}

macro_rules! gpu_or_skip {
    () => {
        session_or_skip!(Gpu)
    };
}

/// A GPU, with no other test beside this one.
macro_rules! gpu_alone_or_skip {
    () => {
        session_or_skip!(GpuAlone)
    };
}
