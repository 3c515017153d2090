//! Map indices: token positions of a request, through its block table, to indices into the cache.

use super::sizes::{product, size};
use super::tensor::{RawTensor, Rules, Tensor};
use crate::status::Result;

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub b: i64,
    pub s_q: i64,
    pub topk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub max_blocks_per_seq: i64,
    pub positions: RawTensor,
    pub block_table: RawTensor,
    pub cache_seqlens: RawTensor,
    pub indices: RawTensor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapIndices {
    pub b: i64,
    pub s_q: i64,
    pub topk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub max_blocks_per_seq: i64,
    pub positions: Tensor<3>,
    pub block_table: Tensor<2>,
    pub cache_seqlens: Option<Tensor<1>>,
    pub indices: Tensor<3>,
}

impl MapIndices {
    pub fn check(raw: &Raw) -> Result<MapIndices> {
        let Raw { b, s_q, topk, num_blocks, page_block_size, max_blocks_per_seq, .. } = *raw;
        size("b", b, 0)?;
        size("s_q", s_q, 0)?;
        size("topk", topk, 0)?;
        size("num_blocks", num_blocks, 0)?;
        size("page_block_size", page_block_size, 1)?;
        size("max_blocks_per_seq", max_blocks_per_seq, 0)?;
        product("b * s_q", &[b, s_q])?;
        product("max_blocks_per_seq * page_block_size", &[max_blocks_per_seq, page_block_size])?;
        let rows = Rules { unit_inner: true, ..Rules::WORD_32 };
        // Nothing is read for no index.
        let tables = if s_q * topk == 0 { 0 } else { b };
        Ok(MapIndices {
            b,
            s_q,
            topk,
            num_blocks,
            page_block_size,
            max_blocks_per_seq,
            positions: Tensor::check("positions", &raw.positions, [b, s_q, topk], rows)?,
            block_table: Tensor::check("block_table", &raw.block_table, [tables, max_blocks_per_seq], Rules::WORD_32)?,
            cache_seqlens: Tensor::check_optional("cache_seqlens", &raw.cache_seqlens, [tables], Rules::WORD_32)?,
            indices: Tensor::check("indices", &raw.indices, [b, s_q, topk], rows.output())?,
        })
    }

    /// No index: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.b * self.s_q == 0 || self.topk == 0
    }
}
