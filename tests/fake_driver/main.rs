//! The driver layer against a stand-in for the CUDA driver (`libcuda_fake.c`), through the C API:
//! runs on any machine with a C compiler, with and without embedded kernels.
//!
//! A process loads one `libcuda.so.1`, once; so each test runs its body in a process of its own.

mod api;
mod control;
mod create;
mod failures;
mod host_allocations;
mod kv_cache;
mod launches;
mod process;
mod sparse_decode;
mod sparse_prefill;
mod streams;
mod threads;
