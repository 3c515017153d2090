//! The CPU backend: the operations of the contract in plain multi-threaded Rust, one file each.

pub mod dense_decode;
pub mod fp8;
pub mod kv_cache_append;
pub mod kv_cache_gather;
pub mod map_indices;
pub mod page;
mod share;
pub mod softmax;
pub mod sparse_decode;
pub mod sparse_prefill;

use crate::err;
use crate::status::Result;

pub struct CpuDevice {
    threads: usize,
}

impl CpuDevice {
    /// `threads` 0: one per available core.
    pub fn new(threads: i32) -> Result<CpuDevice> {
        if !(0..=4096).contains(&threads) {
            return err!(FLASHMLA_ERROR_INVALID_ARGUMENT, "options.cpu_threads = {threads}: must be 0 .. 4096");
        }
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n as usize,
        };
        Ok(CpuDevice { threads })
    }

    pub fn threads(&self) -> usize {
        self.threads
    }
}
