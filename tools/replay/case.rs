//! What a file asks for: an operation, its inputs, and outputs to compare with.

use super::bounds::Bound;
use super::dense_decode::DenseDecodeCase;
use super::failure::Failure;
use super::file::File;
use super::library::Library;
use super::sparse_decode::SparseDecodeCase;
use super::sparse_prefill::SparsePrefillCase;
use super::target::{Memory, Target};
use safetensors::tensor::{Dtype, TensorView};

/// Columns of `out`.
pub const D_V: usize = 512;

pub enum Case<'a> {
    DenseDecode(DenseDecodeCase<'a>),
    SparseDecode(SparseDecodeCase<'a>),
    SparsePrefill(SparsePrefillCase<'a>),
}

impl<'a> Case<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Case<'a>, Failure> {
        let file = File::parse(bytes)?;
        let op = file.one_of("op", None, &["dense_decode", "sparse_decode", "sparse_prefill"])?;
        // A file that counts in another base would compare wrongly.
        file.one_of("lse_base", Some("e"), &["e"])?;
        Ok(match op.as_str() {
            "dense_decode" => Case::DenseDecode(DenseDecodeCase::parse(&file)?),
            "sparse_decode" => Case::SparseDecode(SparseDecodeCase::parse(&file)?),
            _ => Case::SparsePrefill(SparsePrefillCase::parse(&file)?),
        })
    }

    pub fn op(&self) -> &'static str {
        match self {
            Case::DenseDecode(_) => "dense_decode",
            Case::SparseDecode(_) => "sparse_decode",
            Case::SparsePrefill(_) => "sparse_prefill",
        }
    }

    pub fn lse_empty_pos_inf(&self) -> bool {
        match self {
            Case::DenseDecode(case) => case.lse_empty_pos_inf,
            Case::SparseDecode(case) => case.lse_empty_pos_inf,
            Case::SparsePrefill(case) => case.lse_empty_pos_inf,
        }
    }

    pub fn run(&self, library: &Library, target: &Target) -> Result<Results<'a>, Failure> {
        match self {
            Case::DenseDecode(case) => case.run(library, target),
            Case::SparseDecode(case) => case.run(library, target),
            Case::SparsePrefill(case) => case.run(library, target),
        }
    }
}

pub struct Results<'a> {
    pub kernel: String,
    pub outputs: Vec<Output<'a>>,
}

/// A computed tensor, and the one that the file has.
pub struct Output<'a> {
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    pub reference: Option<TensorView<'a>>,
    pub bound: Bound,
}

/// Memory for an output, NaN everywhere: an element that is not written shows.
pub fn unwritten(target: &Target, dtype: Dtype, shape: &[usize]) -> Result<Memory, Failure> {
    let bytes = if dtype == Dtype::F32 { 4 } else { 2 };
    target.upload(&vec![0xff; shape.iter().product::<usize>() * bytes])
}
