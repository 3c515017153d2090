//! The tensors of a case, wherever it runs.

use super::case::{Case, Dtype, D_V};
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::{dense_decode_params, input, output, DenseDecode, Library};
use super::target::{Memory, Target};
use flashmla::capi::dense_decode::flashmla_dense_decode_params_t;
use flashmla::capi::types::*;

pub struct Problem {
    /// The kernel that the library chooses.
    pub kernel: String,
    params: flashmla_dense_decode_params_t,
    // The parameters point to them.
    _tensors: [Memory; 6],
}

impl Problem {
    /// `random` gives memory of some size in bytes, filled with random elements.
    pub fn new(
        case: &Case,
        batch_invariant: bool,
        library: &Library,
        target: &Target,
        mut random: impl FnMut(usize) -> Result<Memory, Failure>,
    ) -> Result<Problem, Failure> {
        let mut params = sizes(case, batch_invariant);
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.dense_decode_kernel(&params)?;
        let queries = bytes(&[2, case.b, case.s_q, case.h_q, case.d_qk])?;
        let cache = bytes(&[2, params.num_blocks, case.page_block_size, case.h_kv, case.d_qk])?;
        let lens: Vec<u8> = case.lens.iter().flat_map(|len| (*len as i32).to_le_bytes()).collect();
        let table = inputs::block_table(case, &mut Random::new(3));
        let table: Vec<u8> = table.iter().flat_map(|page| page.to_le_bytes()).collect();
        let tensors = [
            random(queries)?,
            random(cache)?,
            target.upload(&table)?,
            target.upload(&lens)?,
            target.alloc(bytes(&[2, case.b, case.s_q, case.h_q, D_V])?)?,
            target.alloc(bytes(&[4, case.b, case.s_q, case.h_q])?)?,
        ];
        params.q = input(&tensors[0]);
        params.kv_cache = input(&tensors[1]);
        params.block_table = input(&tensors[2]);
        params.cache_seqlens = input(&tensors[3]);
        params.out = output(&tensors[4]);
        params.lse = output(&tensors[5]);
        Ok(Problem { kernel, params, _tensors: tensors })
    }

    /// The operation, ready to be planned and run as long as this lives.
    pub fn decode<'a>(&'a self, library: &'a Library, target: &Target) -> Result<DenseDecode<'a>, Failure> {
        // SAFETY: the tensors have the sizes in the parameters, lie on the target that `new` got,
        // and outlive the borrow.
        unsafe { DenseDecode::new(library, target, self.params) }
    }
}

/// Parameters without tensors.
fn sizes(case: &Case, batch_invariant: bool) -> flashmla_dense_decode_params_t {
    let mut params = dense_decode_params();
    params.dtype = match case.dtype {
        Dtype::Bf16 => FLASHMLA_DTYPE_BF16,
        Dtype::Fp16 => FLASHMLA_DTYPE_FP16,
    };
    params.flags = if case.causal { FLASHMLA_FLAG_CAUSAL } else { 0 };
    params.flags |= if batch_invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
    params.b = case.b;
    params.s_q = case.s_q;
    params.h_q = case.h_q;
    params.h_kv = case.h_kv;
    params.d_qk = case.d_qk;
    params.page_block_size = case.page_block_size;
    params.max_blocks_per_seq = inputs::blocks_per_request(case);
    params.num_blocks = case.b * params.max_blocks_per_seq;
    params
}

fn bytes(factors: &[i64]) -> Result<usize, Failure> {
    factors
        .iter()
        .try_fold(1i64, |product, factor| product.checked_mul(*factor))
        .map(|n| n as usize)
        .ok_or(Failure::Usage(format!("{factors:?} multiplied: too large")))
}
