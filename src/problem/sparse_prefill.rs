//! Sparse prefill: every query token attends to the rows of a BF16 latent KV that its indices name.

use super::sizes::{latent_d_qk, size, softmax_scale};
use super::tensor::{check_workspace, RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

pub use super::sizes::D_V;

pub const FLAG_LSE_EMPTY_POS_INF: u32 = super::dense_decode::FLAG_LSE_EMPTY_POS_INF;

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub flags: u32,
    pub softmax_scale: f32,
    pub s_q: i64,
    pub h_q: i64,
    pub s_kv: i64,
    pub d_qk: i64,
    pub topk: i64,
    pub q: RawTensor,
    pub kv: RawTensor,
    pub indices: RawTensor,
    pub topk_length: RawTensor,
    pub attn_sink: RawTensor,
    pub out: RawTensor,
    pub max_logits: RawTensor,
    pub lse: RawTensor,
    pub workspace: u64,
    pub workspace_size: u64,
}

/// Sizes and options without memory: what a choice of kernel and a workspace depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub lse_empty_pos_inf: bool,
    pub s_q: i64,
    pub h_q: i64,
    pub s_kv: i64,
    pub d_qk: i64,
    pub topk: i64,
}

/// A problem that any backend may run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparsePrefill {
    pub shape: Shape,
    pub softmax_scale: f32,
    pub q: Tensor<3>,
    /// Without rows where no query has an index: nothing is read of it then.
    pub kv: Tensor<3>,
    pub indices: Tensor<3>,
    pub topk_length: Option<Tensor<1>>,
    pub attn_sink: Option<Tensor<1>>,
    pub out: Tensor<3>,
    pub max_logits: Option<Tensor<2>>,
    pub lse: Option<Tensor<2>>,
    pub workspace: u64,
    pub workspace_size: u64,
}

impl Shape {
    pub fn check(raw: &Raw) -> Result<Shape> {
        let others = raw.flags & !FLAG_LSE_EMPTY_POS_INF;
        if others != 0 {
            return err!(
                FLASHMLA_ERROR_UNKNOWN_ENUM,
                "flags = {:#x}: bits {others:#x} mean nothing here, it must be 0 or FLASHMLA_FLAG_LSE_EMPTY_POS_INF ({})",
                raw.flags,
                FLAG_LSE_EMPTY_POS_INF
            );
        }
        size("s_q", raw.s_q, 0)?;
        size("h_q", raw.h_q, 1)?;
        size("s_kv", raw.s_kv, 0)?;
        size("topk", raw.topk, 0)?;
        latent_d_qk(raw.d_qk)?;
        Ok(Shape {
            lse_empty_pos_inf: raw.flags & FLAG_LSE_EMPTY_POS_INF != 0,
            s_q: raw.s_q,
            h_q: raw.h_q,
            s_kv: raw.s_kv,
            d_qk: raw.d_qk,
            topk: raw.topk,
        })
    }

    /// No query at all: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.s_q == 0
    }
}

impl SparsePrefill {
    pub fn check(raw: &Raw) -> Result<SparsePrefill> {
        let shape = Shape::check(raw)?;
        let (row, word) = (Rules::ROW_16, Rules::WORD_32);
        let Shape { s_q, h_q, s_kv, d_qk, topk, .. } = shape;
        let rows = if s_q * topk == 0 { 0 } else { s_kv };
        Ok(SparsePrefill {
            shape,
            softmax_scale: softmax_scale(raw.softmax_scale, d_qk)?,
            q: Tensor::check("q", &raw.q, [s_q, h_q, d_qk], row)?,
            kv: Tensor::check("kv", &raw.kv, [rows, 1, d_qk], row)?,
            indices: Tensor::check("indices", &raw.indices, [s_q, 1, topk], Rules { unit_inner: true, ..word })?,
            topk_length: Tensor::check_optional("topk_length", &raw.topk_length, [s_q], word)?,
            attn_sink: Tensor::check_optional("attn_sink", &raw.attn_sink, [h_q], word)?,
            out: Tensor::check("out", &raw.out, [s_q, h_q, D_V], row.output())?,
            max_logits: Tensor::check_optional("max_logits", &raw.max_logits, [s_q, h_q], word.output())?,
            lse: Tensor::check_optional("lse", &raw.lse, [s_q, h_q], word.output())?,
            workspace: raw.workspace,
            workspace_size: raw.workspace_size,
        })
    }

    /// The workspace must hold `needed` bytes, as the layout of the launch says.
    pub fn check_workspace(&self, needed: u64) -> Result<()> {
        check_workspace(self.workspace, self.workspace_size, needed)
    }
}
