//! Append: BF16 rows into the slots of a paged cache, quantised where its layout asks for that.

use super::layout::Layout;
use super::sizes::{latent_d_qk, size};
use super::tensor::{RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

/// How a scale follows from the largest magnitude of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleRule {
    /// The power of two next above `max / 448`, at least 2^-13.
    PowerOfTwo,
    /// `max / 448`, at least 2^-126.
    Exact,
}

/// The type of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexType {
    Int32,
    Int64,
}

impl IndexType {
    fn check(name: &str, value: i32) -> Result<IndexType> {
        match value {
            0 => Ok(IndexType::Int32),
            1 => Ok(IndexType::Int64),
            v => err!(
                FLASHMLA_ERROR_UNKNOWN_ENUM,
                "{name} = {v}: must be FLASHMLA_INDEX_INT32 (0) or FLASHMLA_INDEX_INT64 (1)"
            ),
        }
    }
}

/// The caller's parameters, pointers as addresses, nothing checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    pub layout: i32,
    pub scale_rule: i32,
    pub slot_type: i32,
    pub n: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub rows: RawTensor,
    pub slot_mapping: RawTensor,
    pub kv_cache: RawTensor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvCacheAppend {
    pub layout: Layout,
    pub scale_rule: ScaleRule,
    pub slot_type: IndexType,
    pub n: i64,
    pub d_qk: i64,
    pub num_blocks: i64,
    pub page_block_size: i64,
    pub rows: Tensor<2>,
    pub slot_mapping: Tensor<1>,
    pub kv_cache: Pages,
}

/// The pages of a cache of any layout; strides in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pages {
    pub addr: u64,
    pub page_stride: i64,
    /// Of plain rows.
    pub row_stride: i64,
    /// What an implementation may touch, in bytes from `addr`.
    pub extent: i64,
}

impl Pages {
    /// Plain: `[num_blocks, page_block_size, d_qk]` of 16 bits; FP8: `[num_blocks, bytes of a page]`.
    pub fn check(layout: Layout, raw: &RawTensor, sizes: [i64; 3], output: bool) -> Result<Pages> {
        let [num_blocks, page_block_size, _] = sizes;
        if layout.is_fp8() {
            let t = layout.check_pages("kv_cache", raw, num_blocks, page_block_size)?;
            return Ok(Pages { addr: t.addr, page_stride: t.strides[0], row_stride: 0, extent: t.extent() });
        }
        let rules = if output { Rules::ROW_16.output() } else { Rules::ROW_16 };
        let t = Tensor::check("kv_cache", raw, sizes, rules)?;
        let [page_stride, row_stride, _] = t.strides.map(|s| 2 * s);
        Ok(Pages { addr: t.addr, page_stride, row_stride, extent: 2 * t.extent() })
    }
}

impl KvCacheAppend {
    pub fn check(raw: &Raw) -> Result<KvCacheAppend> {
        let layout = Layout::check("layout", raw.layout)?;
        let scale_rule = match raw.scale_rule {
            0 => ScaleRule::PowerOfTwo,
            1 => ScaleRule::Exact,
            v => {
                return err!(
                    FLASHMLA_ERROR_UNKNOWN_ENUM,
                    "scale_rule = {v}: must be FLASHMLA_SCALE_POWER_OF_TWO (0) or FLASHMLA_SCALE_EXACT (1)"
                )
            }
        };
        if layout == Layout::V4 && scale_rule == ScaleRule::Exact {
            return err!(
                FLASHMLA_ERROR_INVALID_ARGUMENT,
                "scale_rule = 1: must be FLASHMLA_SCALE_POWER_OF_TWO (0), as FLASHMLA_LAYOUT_V4 keeps no other scales"
            );
        }
        let slot_type = IndexType::check("slot_type", raw.slot_type)?;
        size("n", raw.n, 0)?;
        size("num_blocks", raw.num_blocks, 0)?;
        size("page_block_size", raw.page_block_size, 1)?;
        latent_d_qk(raw.d_qk)?;
        layout.check_d_qk("layout", raw.d_qk)?;
        let slot = match slot_type {
            IndexType::Int32 => Rules::WORD_32,
            IndexType::Int64 => Rules { elem_bytes: 8, align: 8, ..Rules::WORD_32 },
        };
        let blocks = if raw.n == 0 { 0 } else { raw.num_blocks };
        let pages = [blocks, raw.page_block_size, raw.d_qk];
        Ok(KvCacheAppend {
            layout,
            scale_rule,
            slot_type,
            n: raw.n,
            d_qk: raw.d_qk,
            num_blocks: raw.num_blocks,
            page_block_size: raw.page_block_size,
            rows: Tensor::check("rows", &raw.rows, [raw.n, raw.d_qk], Rules::ROW_16)?,
            slot_mapping: Tensor::check("slot_mapping", &raw.slot_mapping, [raw.n], slot)?,
            kv_cache: Pages::check(layout, &raw.kv_cache, pages, true)?,
        })
    }

    /// No row, or nowhere to put one: success without a launch.
    pub fn is_empty(&self) -> bool {
        self.n == 0 || self.num_blocks == 0
    }
}
