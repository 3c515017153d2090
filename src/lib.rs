//! Multi-head Latent Attention kernels behind a stable C ABI.
//!
//! A call flows one way: C function ([`capi`]) -> checked problem ([`problem`]) -> schedule and
//! workspace ([`schedule`], [`workspace`]) -> launch (`gpu`) -> kernel (`cuda/`), or to the CPU
//! backend ([`cpu`]). Only `capi` has `extern "C"`; only `capi` and `gpu` have `unsafe`.

pub mod boundary;
pub mod capi;
pub mod context;
pub mod cpu;
pub mod gpu;
pub mod problem;
pub mod schedule;
pub mod status;
pub mod workspace;
