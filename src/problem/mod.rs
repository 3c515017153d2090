//! From raw parameters to a checked problem, one file per operation.
//!
//! Everything here is pure: no `unsafe`, no CUDA, no reading through pointers. An address is a
//! number. What leaves this module is safe to launch on any backend.

pub mod dense_decode;
pub mod kv_cache_append;
pub mod kv_cache_gather;
pub mod layout;
pub mod map_indices;
pub mod sizes;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod tensor;
