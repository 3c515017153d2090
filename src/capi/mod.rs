//! The C surface and nothing else: extern functions, `repr(C)` structs, and their C-facing docs.
//!
//! `include/flashmla.h` is generated from this folder and from [`crate::status`]; a test compares
//! it byte by byte.

pub mod context;
pub mod dense_decode;
pub mod read;
pub mod types;
pub mod version;
