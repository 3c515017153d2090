//! The C surface and nothing else: extern functions, `repr(C)` structs, and their C-facing docs.
//!
//! `include/flashmla.h` is generated from this folder and from [`crate::status`]; a test compares
//! it byte by byte.

// The contract of each C function is its documentation in the header.
#![allow(clippy::missing_safety_doc)]

pub mod context;
pub mod dense_decode;
pub mod kv_cache_append;
pub mod kv_cache_gather;
pub mod map_indices;
pub mod read;
pub mod sparse_decode;
pub mod sparse_prefill;
pub mod types;
pub mod version;
