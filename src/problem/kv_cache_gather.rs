//! Gather: tokens of a paged cache as BF16 rows, named by indices or by ranges of requests.

use super::kv_cache_append::Pages;
use super::layout::Layout;
use super::sizes::{latent_d_qk, product, size};
use super::tensor::{RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub layout: i32,
    pub n: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub b: i64,
    pub max_blocks_per_seq: i64,
    pub kv_cache: RawTensor,
    pub indices: RawTensor,
    pub block_table: RawTensor,
    pub cu_seqlens: RawTensor,
    pub seq_starts: RawTensor,
    pub rows: RawTensor,
}

/// Which token goes into which row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    Indices(Tensor<1>),
    /// Row `cu_seqlens[i] + j` is token `seq_starts[i] + j` of request i.
    Ranges {
        b: i64,
        max_blocks_per_seq: i64,
        block_table: Tensor<2>,
        cu_seqlens: Tensor<1>,
        seq_starts: Option<Tensor<1>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvCacheGather {
    pub layout: Layout,
    pub n: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub kv_cache: Pages,
    pub source: Source,
    pub rows: Tensor<2>,
}

impl KvCacheGather {
    pub fn check(raw: &Raw) -> Result<KvCacheGather> {
        let Raw { n, d_qk, num_blocks, page_block_size, .. } = *raw;
        let layout = Layout::check("layout", raw.layout)?;
        size("n", n, 0)?;
        size("num_blocks", num_blocks, 0)?;
        size("page_block_size", page_block_size, 1)?;
        size("b", raw.b, 0)?;
        size("max_blocks_per_seq", raw.max_blocks_per_seq, 0)?;
        latent_d_qk(d_qk)?;
        layout.check_d_qk("layout", d_qk)?;
        let blocks = if n == 0 { 0 } else { num_blocks };
        Ok(KvCacheGather {
            layout,
            n,
            d_qk,
            num_blocks,
            page_block_size,
            kv_cache: Pages::check(layout, &raw.kv_cache, [blocks, page_block_size, d_qk], false)?,
            source: Source::check(raw)?,
            rows: Tensor::check("rows", &raw.rows, [n, d_qk], Rules::ROW_16.output())?,
        })
    }

    /// No row: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

impl Source {
    fn check(raw: &Raw) -> Result<Source> {
        let word = Rules::WORD_32;
        let (indices, table) = (raw.indices.addr, raw.block_table.addr);
        if indices != 0 && table != 0 {
            return err!(
                FLASHMLA_ERROR_INVALID_ARGUMENT,
                "indices.data = {indices:#x} and block_table.data = {table:#x}: one of them must be NULL"
            );
        }
        if raw.b == 0 && table == 0 {
            return Ok(Source::Indices(Tensor::check("indices", &raw.indices, [raw.n], word)?));
        }
        if indices != 0 {
            return err!(FLASHMLA_ERROR_INVALID_SHAPE, "b = {}: must be 0 where indices are given", raw.b);
        }
        product("max_blocks_per_seq * page_block_size", &[raw.max_blocks_per_seq, raw.page_block_size])?;
        // Nothing is read without a row.
        let b = if raw.n == 0 { 0 } else { raw.b };
        Ok(Source::Ranges {
            b,
            max_blocks_per_seq: raw.max_blocks_per_seq,
            block_table: Tensor::check("block_table", &raw.block_table, [b, raw.max_blocks_per_seq], word)?,
            cu_seqlens: Tensor::check("cu_seqlens", &raw.cu_seqlens, [if b == 0 { 0 } else { b + 1 }], word)?,
            seq_starts: Tensor::check_optional("seq_starts", &raw.seq_starts, [b], word)?,
        })
    }
}
