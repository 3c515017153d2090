//! Sparse decode: every query token attends to the tokens of an FP8 cache that its indices name, and of a
//! second cache where there is one.

use super::dense_decode::{FLAG_BATCH_INVARIANT, FLAG_LSE_EMPTY_POS_INF};
use super::layout::Layout;
use super::sizes::{latent_d_qk, product, size, softmax_scale};
use super::tensor::{check_workspace, RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

pub use super::sizes::{D_V, MAX_SIZE};

const KNOWN_FLAGS: u32 = FLAG_LSE_EMPTY_POS_INF | FLAG_BATCH_INVARIANT;

/// A cache and the indices into it, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawCache {
    pub layout: i32,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub topk: i64,
    pub kv_cache: RawTensor,
    pub indices: RawTensor,
    pub topk_length: RawTensor,
}

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub flags: u32,
    pub softmax_scale: f32,
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub d_qk: i64,
    pub q: RawTensor,
    pub cache: RawCache,
    pub extra: RawCache,
    pub attn_sink: RawTensor,
    pub out: RawTensor,
    pub lse: RawTensor,
    pub workspace: u64,
    pub workspace_size: u64,
}

/// Sizes of the second cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExtraShape {
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub topk: i64,
    /// Whether there are lengths: a plan made from them serves nothing else.
    pub has_lengths: bool,
}

/// Sizes and options without memory: what a schedule, a plan and a workspace depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub layout: Layout,
    pub lse_empty_pos_inf: bool,
    pub batch_invariant: bool,
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub topk: i64,
    pub has_lengths: bool,
    pub extra: Option<ExtraShape>,
}

/// One of the caches and what is attended to in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cache {
    pub page_block_size: i64,
    pub topk: i64,
    /// An index masks its entry unless it is at least 0 and below this.
    pub index_limit: i64,
    /// Bytes, `[num_blocks, bytes of a page]`; without pages where no query has an index.
    pub kv_cache: Tensor<2>,
    pub indices: Tensor<3>,
    /// `[b, s_q]`, the strides 0 of a dimension along which it does not change.
    pub topk_length: Option<Tensor<2>>,
}

/// A problem that any backend may run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseDecode {
    pub shape: Shape,
    pub softmax_scale: f32,
    pub q: Tensor<4>,
    pub cache: Cache,
    pub extra: Option<Cache>,
    pub attn_sink: Option<Tensor<1>>,
    pub out: Tensor<4>,
    pub lse: Option<Tensor<3>>,
    pub workspace: u64,
    pub workspace_size: u64,
}

impl Shape {
    pub fn check(raw: &Raw) -> Result<Shape> {
        let others = raw.flags & !KNOWN_FLAGS;
        if others != 0 {
            return err!(
                FLASHMLA_ERROR_UNKNOWN_ENUM,
                "flags = {:#x}: bits {others:#x} mean nothing here, it must be a combination of \
                 FLASHMLA_FLAG_LSE_EMPTY_POS_INF ({FLAG_LSE_EMPTY_POS_INF}) and FLASHMLA_FLAG_BATCH_INVARIANT \
                 ({FLAG_BATCH_INVARIANT})",
                raw.flags
            );
        }
        let layout = match Layout::check("layout", raw.cache.layout)? {
            Layout::Plain => {
                return err!(
                    FLASHMLA_ERROR_UNKNOWN_ENUM,
                    "layout = 0: must be FLASHMLA_LAYOUT_V32 (1) or FLASHMLA_LAYOUT_V4 (2)"
                )
            }
            fp8 => fp8,
        };
        size("b", raw.b, 0)?;
        size("s_q", raw.s_q, 0)?;
        size("h_q", raw.h_q, 1)?;
        size("num_blocks", raw.cache.num_blocks, 0)?;
        size("page_block_size", raw.cache.page_block_size, 1)?;
        size("topk", raw.cache.topk, 0)?;
        latent_d_qk(raw.d_qk)?;
        layout.check_d_qk("layout", raw.d_qk)?;
        product("b * s_q * h_q", &[raw.b, raw.s_q, raw.h_q])?;
        // Whole tiles are counted in 32 bits, those of both caches together.
        product("topk + extra_topk + 128", &[raw.cache.topk.saturating_add(raw.extra.topk).saturating_add(128)])?;
        Ok(Shape {
            layout,
            lse_empty_pos_inf: raw.flags & FLAG_LSE_EMPTY_POS_INF != 0,
            batch_invariant: raw.flags & FLAG_BATCH_INVARIANT != 0,
            b: raw.b,
            s_q: raw.s_q,
            h_q: raw.h_q,
            d_qk: raw.d_qk,
            num_blocks: raw.cache.num_blocks,
            page_block_size: raw.cache.page_block_size,
            topk: raw.cache.topk,
            has_lengths: raw.cache.topk_length.addr != 0,
            extra: ExtraShape::check(raw)?,
        })
    }

    /// Query tokens: what a plan counts as its requests.
    pub fn units(&self) -> i64 {
        self.b * self.s_q
    }

    pub fn extra_topk(&self) -> i64 {
        self.extra.map_or(0, |extra| extra.topk)
    }

    /// No query at all: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.units() == 0
    }
}

impl ExtraShape {
    /// There is a second cache where any of its members is set.
    fn check(raw: &Raw) -> Result<Option<ExtraShape>> {
        let RawCache { layout, num_blocks, page_block_size, topk, kv_cache, indices, topk_length } = raw.extra;
        let pointers = [kv_cache.addr, indices.addr, topk_length.addr];
        if [num_blocks, page_block_size, topk, layout as i64] == [0; 4] && pointers == [0; 3] {
            return Ok(None);
        }
        if Layout::check("extra_layout", layout)?.is_fp8() && layout != raw.cache.layout {
            return err!(
                FLASHMLA_ERROR_UNSUPPORTED,
                "extra_layout = {layout}: must be layout = {} (or 0, which stands for it); rows of one query have one d_qk",
                raw.cache.layout
            );
        }
        size("extra_num_blocks", num_blocks, 0)?;
        size("extra_page_block_size", page_block_size, 1)?;
        size("extra_topk", topk, 0)?;
        Ok(Some(ExtraShape { num_blocks, page_block_size, topk, has_lengths: topk_length.addr != 0 }))
    }
}

/// The names of a cache's arguments, for messages.
struct Names {
    kv_cache: &'static str,
    indices: &'static str,
    topk_length: &'static str,
}

const CACHE: Names = Names { kv_cache: "kv_cache", indices: "indices", topk_length: "topk_length" };
const EXTRA: Names = Names { kv_cache: "extra_kv_cache", indices: "extra_indices", topk_length: "extra_topk_length" };

impl Cache {
    fn check(names: &Names, raw: &RawCache, shape: &Shape) -> Result<Cache> {
        let (word, Shape { b, s_q, .. }) = (Rules::WORD_32, *shape);
        let RawCache { num_blocks, page_block_size, topk, .. } = *raw;
        let pages = if b * s_q * topk == 0 { 0 } else { num_blocks };
        let indices = Rules { unit_inner: true, ..word };
        Ok(Cache {
            page_block_size,
            topk,
            // Both below 2^31.
            index_limit: (num_blocks * page_block_size).min(MAX_SIZE + 1),
            kv_cache: shape.layout.check_pages(names.kv_cache, &raw.kv_cache, pages, page_block_size)?,
            indices: Tensor::check(names.indices, &raw.indices, [b, s_q, topk], indices)?,
            topk_length: Tensor::check_optional(names.topk_length, &raw.topk_length, [b, s_q], word.broadcast())?,
        })
    }
}

impl SparseDecode {
    pub fn check(raw: &Raw) -> Result<SparseDecode> {
        let shape = Shape::check(raw)?;
        let (row, word) = (Rules::ROW_16, Rules::WORD_32);
        let Shape { b, s_q, h_q, d_qk, .. } = shape;
        if shape.units() * shape.extra_topk() > 0 {
            check_pair(&raw.extra)?;
        }
        Ok(SparseDecode {
            shape,
            softmax_scale: softmax_scale(raw.softmax_scale, d_qk)?,
            q: Tensor::check("q", &raw.q, [b, s_q, h_q, d_qk], row)?,
            cache: Cache::check(&CACHE, &raw.cache, &shape)?,
            extra: shape.extra.map(|_| Cache::check(&EXTRA, &raw.extra, &shape)).transpose()?,
            attn_sink: Tensor::check_optional("attn_sink", &raw.attn_sink, [h_q], word)?,
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

/// The second cache and the indices into it come together, where there is an index.
fn check_pair(extra: &RawCache) -> Result<()> {
    let (cache, indices) = (extra.kv_cache.addr, extra.indices.addr);
    if cache != 0 && indices == 0 {
        return err!(
            FLASHMLA_ERROR_NULL_POINTER,
            "extra_indices.data = NULL: must point to memory, as extra_kv_cache.data = {cache:#x} does"
        );
    }
    // Of a cache without pages there is nothing to point to.
    if cache == 0 && indices != 0 && extra.num_blocks != 0 {
        return err!(
            FLASHMLA_ERROR_NULL_POINTER,
            "extra_kv_cache.data = NULL: must point to memory, as extra_indices.data = {indices:#x} does"
        );
    }
    Ok(())
}
