//! The tensors of a case, wherever it runs, and the operation on them.

use super::failure::Failure;
use super::library::{DenseDecode, Library, SparseDecode, SparsePrefill};
use super::target::{Memory, Target};
use flashmla::capi::dense_decode::flashmla_dense_decode_params_t;
use flashmla::capi::kv_cache_append::flashmla_kv_cache_append_params_t;
use flashmla::capi::kv_cache_gather::flashmla_kv_cache_gather_params_t;
use flashmla::capi::map_indices::flashmla_map_indices_params_t;
use flashmla::capi::sparse_decode::flashmla_sparse_decode_params_t;
use flashmla::capi::sparse_prefill::flashmla_sparse_prefill_params_t;
use std::ffi::c_void;

pub struct Problem {
    /// The kernel that the library chooses.
    pub kernel: String,
    pub params: Params,
    // The parameters point to them.
    pub _tensors: Vec<Memory>,
}

pub enum Params {
    DenseDecode(flashmla_dense_decode_params_t),
    SparseDecode(flashmla_sparse_decode_params_t),
    SparsePrefill(flashmla_sparse_prefill_params_t),
    Append(flashmla_kv_cache_append_params_t),
    Gather(flashmla_kv_cache_gather_params_t),
    Map(flashmla_map_indices_params_t),
}

impl Problem {
    /// The operation, ready to be planned and run as long as this lives.
    pub fn operation<'a>(&'a self, library: &'a Library, target: &Target) -> Result<Operation<'a>, Failure> {
        // SAFETY: the tensors have the sizes in the parameters, lie on the target that they were made for,
        // and outlive the borrow.
        unsafe {
            Ok(match self.params {
                Params::DenseDecode(params) => Operation::DenseDecode(DenseDecode::new(library, target, params)?),
                Params::SparseDecode(params) => Operation::SparseDecode(SparseDecode::new(library, target, params)?),
                Params::Append(params) => Operation::Append(library, params),
                Params::Gather(params) => Operation::Gather(library, params),
                Params::Map(params) => Operation::Map(library, params),
                Params::SparsePrefill(params) => Operation::SparsePrefill(SparsePrefill::new(library, target, params)?),
            })
        }
    }
}

pub enum Operation<'a> {
    DenseDecode(DenseDecode<'a>),
    SparseDecode(SparseDecode<'a>),
    SparsePrefill(SparsePrefill<'a>),
    Append(&'a Library, flashmla_kv_cache_append_params_t),
    Gather(&'a Library, flashmla_kv_cache_gather_params_t),
    Map(&'a Library, flashmla_map_indices_params_t),
}

impl Operation<'_> {
    pub fn has_plan(&self) -> bool {
        matches!(self, Operation::DenseDecode(_) | Operation::SparseDecode(_))
    }

    /// Makes the plan, on the stream, where the operation has one.
    pub fn plan(&self, stream: *mut c_void) -> Result<(), Failure> {
        match self {
            Operation::DenseDecode(decode) => decode.plan(stream),
            Operation::SparseDecode(decode) => decode.plan(stream),
            _ => Ok(()),
        }
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: *mut c_void) -> Result<(), Failure> {
        match self {
            Operation::DenseDecode(decode) => decode.run(stream),
            Operation::SparseDecode(decode) => decode.run(stream),
            Operation::SparsePrefill(prefill) => prefill.run(stream),
            // SAFETY: `operation` vouches for the tensors.
            Operation::Append(library, params) => unsafe { library.kv_cache_append(params, stream) },
            // SAFETY: as above.
            Operation::Gather(library, params) => unsafe { library.kv_cache_gather(params, stream) },
            // SAFETY: as above.
            Operation::Map(library, params) => unsafe { library.map_indices(params, stream) },
        }
    }

    pub fn workspace_bytes(&self) -> usize {
        match self {
            Operation::DenseDecode(decode) => decode.workspace_bytes(),
            Operation::SparseDecode(decode) => decode.workspace_bytes(),
            Operation::SparsePrefill(prefill) => prefill.workspace_bytes(),
            _ => 0,
        }
    }
}

/// Sizes multiplied.
pub fn bytes(factors: &[i64]) -> Result<usize, Failure> {
    factors
        .iter()
        .try_fold(1i64, |product, factor| product.checked_mul(*factor))
        .map(|n| n as usize)
        .ok_or(Failure::Usage(format!("{factors:?} multiplied: too large")))
}
