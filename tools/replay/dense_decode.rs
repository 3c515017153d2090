//! A dense decode in a file.

use super::bounds;
use super::case::{unwritten, Output, Results, D_V};
use super::failure::Failure;
use super::file::{dims, File};
use super::library::{dense_decode_params, input, output, DenseDecode, Library};
use super::target::Target;
use flashmla::capi::types::*;
use safetensors::tensor::{Dtype, TensorView};

pub struct DenseDecodeCase<'a> {
    dtype: Dtype,
    q: TensorView<'a>,
    kv_cache: TensorView<'a>,
    block_table: TensorView<'a>,
    cache_seqlens: TensorView<'a>,
    out: Option<TensorView<'a>>,
    lse: Option<TensorView<'a>>,
    softmax_scale: f32,
    causal: bool,
    pub lse_empty_pos_inf: bool,
    batch_invariant: bool,
}

impl<'a> DenseDecodeCase<'a> {
    pub fn parse(file: &File<'a>) -> Result<DenseDecodeCase<'a>, Failure> {
        let q = file.tensor("q", &[Dtype::BF16, Dtype::F16], [None; 4], "BF16 or F16 [b, s_q, h_q, d_qk]")?;
        let [b, s_q, h_q, d_qk] = dims(&q);
        let dtype = q.dtype();
        let kv_layout = format!("{dtype} [num_blocks, page_block_size, h_kv, {d_qk}], of q's type and d_qk");
        let table_layout = format!("I32 [b = {b}, max_blocks_per_seq]");
        let lens_layout = format!("I32 [b = {b}]");
        Ok(DenseDecodeCase {
            kv_cache: file.tensor("kv_cache", &[dtype], [None, None, None, Some(d_qk)], &kv_layout)?,
            block_table: file.tensor("block_table", &[Dtype::I32], [Some(b), None], &table_layout)?,
            cache_seqlens: file.tensor("cache_seqlens", &[Dtype::I32], [Some(b)], &lens_layout)?,
            out: file.optional("out", dtype, &[b, s_q, h_q, D_V])?,
            lse: file.optional("lse", Dtype::F32, &[b, h_q, s_q])?,
            softmax_scale: file.softmax_scale()?,
            causal: file.switch("causal")?,
            lse_empty_pos_inf: file.lse_empty_pos_inf()?,
            batch_invariant: file.switch("batch_invariant")?,
            dtype,
            q,
        })
    }

    pub fn run(&self, library: &Library, target: &Target) -> Result<Results<'a>, Failure> {
        let [b, s_q, h_q, d_qk] = dims(&self.q);
        let [num_blocks, page_block_size, h_kv, _] = dims(&self.kv_cache);
        let [_, max_blocks_per_seq] = dims(&self.block_table);
        let q = target.upload(self.q.data())?;
        let kv_cache = target.upload(self.kv_cache.data())?;
        let block_table = target.upload(self.block_table.data())?;
        let cache_seqlens = target.upload(self.cache_seqlens.data())?;

        let mut params = dense_decode_params();
        params.dtype = if self.dtype == Dtype::BF16 { FLASHMLA_DTYPE_BF16 } else { FLASHMLA_DTYPE_FP16 };
        params.flags = [
            (self.causal, FLASHMLA_FLAG_CAUSAL),
            (self.lse_empty_pos_inf, FLASHMLA_FLAG_LSE_EMPTY_POS_INF),
            (self.batch_invariant, FLASHMLA_FLAG_BATCH_INVARIANT),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, flag)| flags | flag);
        params.b = b as i64;
        params.s_q = s_q as i64;
        params.h_q = h_q as i64;
        params.h_kv = h_kv as i64;
        params.d_qk = d_qk as i64;
        params.num_blocks = num_blocks as i64;
        params.page_block_size = page_block_size as i64;
        params.max_blocks_per_seq = max_blocks_per_seq as i64;
        params.softmax_scale = self.softmax_scale;
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.dense_decode_kernel(&params)?;

        let (out_shape, lse_shape) = (vec![b, s_q, h_q, D_V], vec![b, h_q, s_q]);
        let out = unwritten(target, self.dtype, &out_shape)?;
        let lse = unwritten(target, Dtype::F32, &lse_shape)?;
        params.q = input(&q);
        params.kv_cache = input(&kv_cache);
        params.block_table = input(&block_table);
        params.cache_seqlens = input(&cache_seqlens);
        params.out = output(&out);
        params.lse = output(&lse);
        // SAFETY: the tensors have the sizes in the parameters and live to the end of this function.
        let decode = unsafe { DenseDecode::new(library, target, params) }?;
        decode.plan(target.stream())?;
        decode.run(target.stream())?;
        target.synchronize()?;
        let outputs = vec![
            Output {
                name: "out",
                dtype: self.dtype,
                shape: out_shape,
                bytes: out.read()?,
                reference: self.out.clone(),
                bound: bounds::OUT,
            },
            Output {
                name: "lse",
                dtype: Dtype::F32,
                shape: lse_shape,
                bytes: lse.read()?,
                reference: self.lse.clone(),
                bound: bounds::LSE,
            },
        ];
        Ok(Results { kernel, outputs })
    }
}
