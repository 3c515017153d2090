//! A sparse prefill in a file.

use super::bounds;
use super::case::{unwritten, Output, Results, D_V};
use super::failure::Failure;
use super::file::{dims, File};
use super::library::{input, output, sparse_prefill_params, Library, SparsePrefill};
use super::target::Target;
use flashmla::capi::types::*;
use safetensors::tensor::{Dtype, TensorView};

pub struct SparsePrefillCase<'a> {
    q: TensorView<'a>,
    kv: TensorView<'a>,
    indices: TensorView<'a>,
    topk_length: Option<TensorView<'a>>,
    attn_sink: Option<TensorView<'a>>,
    out: Option<TensorView<'a>>,
    max_logits: Option<TensorView<'a>>,
    lse: Option<TensorView<'a>>,
    softmax_scale: f32,
    pub lse_empty_pos_inf: bool,
}

impl<'a> SparsePrefillCase<'a> {
    pub fn parse(file: &File<'a>) -> Result<SparsePrefillCase<'a>, Failure> {
        let q = file.tensor("q", &[Dtype::BF16], [None; 3], "BF16 [s_q, h_q, d_qk]")?;
        let [s_q, h_q, d_qk] = dims(&q);
        let kv_layout = format!("BF16 [s_kv, 1, {d_qk}], of q's d_qk");
        let indices_layout = format!("I32 [s_q = {s_q}, 1, topk]");
        Ok(SparsePrefillCase {
            kv: file.tensor("kv", &[Dtype::BF16], [None, Some(1), Some(d_qk)], &kv_layout)?,
            indices: file.tensor("indices", &[Dtype::I32], [Some(s_q), Some(1), None], &indices_layout)?,
            topk_length: file.optional("topk_length", Dtype::I32, &[s_q])?,
            attn_sink: file.optional("attn_sink", Dtype::F32, &[h_q])?,
            out: file.optional("out", Dtype::BF16, &[s_q, h_q, D_V])?,
            max_logits: file.optional("max_logits", Dtype::F32, &[s_q, h_q])?,
            lse: file.optional("lse", Dtype::F32, &[s_q, h_q])?,
            softmax_scale: file.softmax_scale()?,
            lse_empty_pos_inf: file.lse_empty_pos_inf()?,
            q,
        })
    }

    pub fn run(&self, library: &Library, target: &Target) -> Result<Results<'a>, Failure> {
        let [s_q, h_q, d_qk] = dims(&self.q);
        let [s_kv, _, _] = dims(&self.kv);
        let [_, _, topk] = dims(&self.indices);
        let q = target.upload(self.q.data())?;
        let kv = target.upload(self.kv.data())?;
        let indices = target.upload(self.indices.data())?;
        let upload = |view: &Option<TensorView>| view.as_ref().map(|view| target.upload(view.data())).transpose();
        let (topk_length, attn_sink) = (upload(&self.topk_length)?, upload(&self.attn_sink)?);

        let mut params = sparse_prefill_params();
        params.flags = if self.lse_empty_pos_inf { FLASHMLA_FLAG_LSE_EMPTY_POS_INF } else { 0 };
        params.softmax_scale = self.softmax_scale;
        params.s_q = s_q as i64;
        params.h_q = h_q as i64;
        params.s_kv = s_kv as i64;
        params.d_qk = d_qk as i64;
        params.topk = topk as i64;
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.sparse_prefill_kernel(&params)?;

        let (out_shape, log_shape) = (vec![s_q, h_q, D_V], vec![s_q, h_q]);
        let out = unwritten(target, Dtype::BF16, &out_shape)?;
        let max_logits = unwritten(target, Dtype::F32, &log_shape)?;
        let lse = unwritten(target, Dtype::F32, &log_shape)?;
        params.q = input(&q);
        params.kv = input(&kv);
        params.indices = input(&indices);
        if let Some(topk_length) = &topk_length {
            params.topk_length = input(topk_length);
        }
        if let Some(attn_sink) = &attn_sink {
            params.attn_sink = input(attn_sink);
        }
        params.out = output(&out);
        params.max_logits = output(&max_logits);
        params.lse = output(&lse);
        // SAFETY: the tensors have the sizes in the parameters and live to the end of this function.
        let prefill = unsafe { SparsePrefill::new(library, target, params) }?;
        prefill.run(target.stream())?;
        target.synchronize()?;
        let log = |name, memory: &super::target::Memory, reference: &Option<TensorView<'a>>| {
            Ok::<_, Failure>(Output {
                name,
                dtype: Dtype::F32,
                shape: log_shape.clone(),
                bytes: memory.read()?,
                reference: reference.clone(),
                bound: bounds::PREFILL_LOGS,
            })
        };
        let out = Output {
            name: "out",
            dtype: Dtype::BF16,
            shape: out_shape,
            bytes: out.read()?,
            reference: self.out.clone(),
            bound: bounds::OUT,
        };
        let outputs = vec![out, log("max_logits", &max_logits, &self.max_logits)?, log("lse", &lse, &self.lse)?];
        Ok(Results { kernel, outputs })
    }
}
