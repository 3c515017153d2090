//! Dense decode: attention of a few query tokens per request over a paged latent KV cache.

use super::layout::Layout;
use super::sizes::{latent_d_qk, product, size, softmax_scale};
use super::tensor::{check_workspace, RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

pub const FLAG_CAUSAL: u32 = 1;
pub const FLAG_LSE_EMPTY_POS_INF: u32 = 2;
pub const FLAG_BATCH_INVARIANT: u32 = 4;
const KNOWN_FLAGS: u32 = FLAG_CAUSAL | FLAG_LSE_EMPTY_POS_INF | FLAG_BATCH_INVARIANT;

pub use super::sizes::{D_V, MAX_SIZE};

/// Each KV head takes a thread block at least, and a grid of 2^31 - 1 must have room for those that combine as well.
const MAX_KV_HEADS: i64 = 1 << 30;

/// Element type of `q`, `kv_cache` and `out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    Bf16,
    Fp16,
}

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub dtype: i32,
    pub flags: u32,
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub h_kv: i64,
    pub d_qk: i64,
    pub d_v: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub max_blocks_per_seq: i64,
    pub softmax_scale: f32,
    pub q: RawTensor,
    pub kv_cache: RawTensor,
    pub block_table: RawTensor,
    pub cache_seqlens: RawTensor,
    pub out: RawTensor,
    pub lse: RawTensor,
    pub workspace: u64,
    pub workspace_size: u64,
    pub kv_layout: i32,
}

/// Sizes and options without memory: what a schedule, a plan and a workspace depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub dtype: Dtype,
    pub layout: Layout,
    pub causal: bool,
    pub lse_empty_pos_inf: bool,
    pub batch_invariant: bool,
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub h_kv: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub max_blocks_per_seq: i64,
}

/// A problem that any backend may run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseDecode {
    pub shape: Shape,
    pub softmax_scale: f32,
    pub q: Tensor<4>,
    /// `[num_blocks, page_block_size, h_kv, d_qk]`, or without pages where the cache is of FP8.
    pub kv_cache: Tensor<4>,
    /// Bytes, `[num_blocks, bytes of a page]`, of a cache of FP8; without pages otherwise.
    pub fp8_cache: Tensor<2>,
    pub block_table: Tensor<2>,
    pub cache_seqlens: Tensor<1>,
    pub out: Tensor<4>,
    pub lse: Option<Tensor<3>>,
    pub workspace: u64,
    pub workspace_size: u64,
}

impl Shape {
    pub fn check(raw: &Raw) -> Result<Shape> {
        let dtype = match raw.dtype {
            0 => Dtype::Bf16,
            1 => Dtype::Fp16,
            v => {
                return err!(
                    FLASHMLA_ERROR_UNKNOWN_ENUM,
                    "dtype = {v}: must be FLASHMLA_DTYPE_BF16 (0) or FLASHMLA_DTYPE_FP16 (1)"
                )
            }
        };
        if raw.flags & !KNOWN_FLAGS != 0 {
            return err!(
                FLASHMLA_ERROR_UNKNOWN_ENUM,
                "flags = {:#x}: bits {:#x} are not known to this version",
                raw.flags,
                raw.flags & !KNOWN_FLAGS
            );
        }
        size("b", raw.b, 0)?;
        size("s_q", raw.s_q, 0)?;
        size("h_q", raw.h_q, 1)?;
        size("h_kv", raw.h_kv, 1)?;
        if raw.h_kv > MAX_KV_HEADS {
            return err!(FLASHMLA_ERROR_OVERFLOW, "h_kv = {}: must be at most {MAX_KV_HEADS}", raw.h_kv);
        }
        size("num_blocks", raw.num_blocks, 0)?;
        size("page_block_size", raw.page_block_size, 1)?;
        size("max_blocks_per_seq", raw.max_blocks_per_seq, 0)?;
        if raw.h_q % raw.h_kv != 0 {
            return err!(FLASHMLA_ERROR_INVALID_SHAPE, "h_q = {}: must be a multiple of h_kv = {}", raw.h_q, raw.h_kv);
        }
        latent_d_qk(raw.d_qk)?;
        let layout = Layout::check("kv_layout", raw.kv_layout)?;
        layout.check_d_qk("kv_layout", raw.d_qk)?;
        if layout.is_fp8() && raw.h_kv != 1 {
            return err!(FLASHMLA_ERROR_INVALID_SHAPE, "h_kv = {}: must be 1 with a cache of FP8", raw.h_kv);
        }
        if layout.is_fp8() && dtype != Dtype::Bf16 {
            return err!(
                FLASHMLA_ERROR_INVALID_ARGUMENT,
                "dtype = {}: must be FLASHMLA_DTYPE_BF16 (0) with a cache of FP8, which is read as BF16",
                raw.dtype
            );
        }
        if raw.d_v != 0 && raw.d_v != D_V {
            return err!(FLASHMLA_ERROR_INVALID_SHAPE, "d_v = {}: must be 512 (or 0 for the default)", raw.d_v);
        }
        product("b * s_q * h_q", &[raw.b, raw.s_q, raw.h_q])?;
        product("s_q * (h_q / h_kv)", &[raw.s_q, raw.h_q / raw.h_kv])?;
        product("max_blocks_per_seq * page_block_size", &[raw.max_blocks_per_seq, raw.page_block_size])?;
        Ok(Shape {
            dtype,
            layout,
            causal: raw.flags & FLAG_CAUSAL != 0,
            lse_empty_pos_inf: raw.flags & FLAG_LSE_EMPTY_POS_INF != 0,
            batch_invariant: raw.flags & FLAG_BATCH_INVARIANT != 0,
            b: raw.b,
            s_q: raw.s_q,
            h_q: raw.h_q,
            h_kv: raw.h_kv,
            d_qk: raw.d_qk,
            num_blocks: raw.num_blocks,
            page_block_size: raw.page_block_size,
            max_blocks_per_seq: raw.max_blocks_per_seq,
        })
    }

    /// Query heads that share one KV head.
    pub fn group(&self) -> i64 {
        // Divisions are slow, calls ask this often, and a latent cache has one KV head.
        match self.h_kv {
            1 => self.h_q,
            n => self.h_q / n,
        }
    }

    /// Query rows (token, head of the group) that attend to the same KV head of a request.
    pub fn rows(&self) -> i64 {
        self.s_q * self.group()
    }

    /// Lengths are clamped to what the block table can address; without a cache that is nothing.
    pub fn max_tokens(&self) -> i64 {
        if self.num_blocks == 0 {
            return 0;
        }
        self.max_blocks_per_seq * self.page_block_size
    }

    /// No query at all: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.b == 0 || self.s_q == 0
    }
}

impl DenseDecode {
    #[inline(always)]
    pub fn check(raw: &Raw) -> Result<DenseDecode> {
        let shape = Shape::check(raw)?;
        let scale = softmax_scale(raw.softmax_scale, shape.d_qk)?;
        let (row, word) = (Rules::ROW_16, Rules::WORD_32);
        let Shape { b, s_q, h_q, h_kv, d_qk, .. } = shape;
        // The CPU backend and the copy engine read no cache row where a request has no block.
        let blocks = if b * shape.max_blocks_per_seq == 0 { 0 } else { shape.num_blocks };
        let (kv_cache, fp8_cache) = match shape.layout.is_fp8() {
            true => {
                let pages = shape.layout.check_pages("kv_cache", &raw.kv_cache, blocks, shape.page_block_size)?;
                (Tensor::EMPTY, pages)
            }
            false => {
                let sizes = [blocks, shape.page_block_size, h_kv, d_qk];
                (Tensor::check("kv_cache", &raw.kv_cache, sizes, row)?, Tensor::EMPTY)
            }
        };
        Ok(DenseDecode {
            shape,
            softmax_scale: scale,
            q: Tensor::check("q", &raw.q, [b, s_q, h_q, d_qk], row)?,
            kv_cache,
            fp8_cache,
            block_table: Tensor::check("block_table", &raw.block_table, [b, shape.max_blocks_per_seq], word)?,
            cache_seqlens: Tensor::check("cache_seqlens", &raw.cache_seqlens, [b], word)?,
            out: Tensor::check("out", &raw.out, [b, s_q, h_q, D_V], row.output())?,
            lse: Tensor::check_optional("lse", &raw.lse, [b, h_q, s_q], word.output())?,
            workspace: raw.workspace,
            workspace_size: raw.workspace_size,
        })
    }

    /// The workspace must hold `needed` bytes, as the layout of the launch says.
    pub fn check_workspace(&self, needed: u64) -> Result<()> {
        check_workspace(self.workspace, self.workspace_size, needed)
    }
}
