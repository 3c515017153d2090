//! How a latent cache stores its tokens.

use super::tensor::{RawTensor, Rules, Tensor};
use crate::err;
use crate::status::Result;

/// Rows are copied 16 bytes at a time.
const ALIGN: i64 = 16;
/// Elements of the rotary part, which every layout keeps in BF16.
pub const ROPE: i64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Rows of 16-bit elements.
    #[default]
    Plain,
    /// 656 bytes a token, one after another: 512 x e4m3, 4 x FP32 scale, 64 x BF16.
    V32,
    /// 584 bytes a token: 576-byte rows (448 x e4m3, 64 x BF16) of the whole page, then 8-byte rows (7 x e8m0
    /// scale, one byte unused).
    V4,
}

impl Layout {
    pub fn check(name: &str, value: i32) -> Result<Layout> {
        match value {
            0 => Ok(Layout::Plain),
            1 => Ok(Layout::V32),
            2 => Ok(Layout::V4),
            v => err!(
                FLASHMLA_ERROR_UNKNOWN_ENUM,
                "{name} = {v}: must be FLASHMLA_LAYOUT_PLAIN (0), FLASHMLA_LAYOUT_V32 (1) or FLASHMLA_LAYOUT_V4 (2)"
            ),
        }
    }

    pub fn is_fp8(self) -> bool {
        self != Layout::Plain
    }

    /// A layout of FP8 pages has one head dim.
    pub fn check_d_qk(self, name: &str, d_qk: i64) -> Result<()> {
        let (wanted, layout) = match self {
            Layout::Plain => return Ok(()),
            Layout::V32 => (576, "FLASHMLA_LAYOUT_V32"),
            Layout::V4 => (512, "FLASHMLA_LAYOUT_V4"),
        };
        if d_qk != wanted {
            return err!(FLASHMLA_ERROR_INVALID_SHAPE, "d_qk = {d_qk}: must be {wanted}, as {name} is {layout}");
        }
        Ok(())
    }

    /// Elements with scales, and how many share one.
    pub fn quantized(self) -> (i64, i64) {
        match self {
            Layout::Plain => (0, 1),
            Layout::V32 => (512, 128),
            Layout::V4 => (448, 64),
        }
    }

    /// Bytes of a token of `d_qk` elements, its scales included.
    pub fn token_bytes(self, d_qk: i64) -> i64 {
        match self {
            Layout::Plain => 2 * d_qk,
            Layout::V32 => 656,
            Layout::V4 => 584,
        }
    }

    /// Where in a page of `page_block_size` tokens token `i` and its scales begin, in bytes. V32 keeps the
    /// rotary part behind the scales.
    pub fn token_offsets(self, page_block_size: i64, i: i64) -> (i64, i64) {
        match self {
            Layout::Plain => (0, 0),
            Layout::V32 => (i * 656, i * 656 + 512),
            Layout::V4 => (i * 576, page_block_size * 576 + i * 8),
        }
    }

    /// Where the rotary part lies in a token's row, in bytes.
    pub fn rope_offset(self) -> i64 {
        match self {
            Layout::Plain => 0,
            Layout::V32 => 528,
            Layout::V4 => 448,
        }
    }

    /// Checks a cache of FP8 pages, `[num_blocks, bytes of a page]`.
    pub fn check_pages(self, name: &str, raw: &RawTensor, num_blocks: i64, page_block_size: i64) -> Result<Tensor<2>> {
        let page_bytes = self.token_bytes(0) * page_block_size;
        let tensor = Tensor::check(name, raw, [num_blocks, page_bytes], Rules::BYTES)?;
        let stride = tensor.strides[0];
        if num_blocks > 1 && stride < page_bytes {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{name}.strides[0] = {stride}: must be at least {page_bytes}, the bytes of a page of {page_block_size} \
                 tokens"
            );
        }
        if num_blocks > 1 && stride % ALIGN != 0 {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{name}.strides[0] = {stride}: must be a multiple of {ALIGN} bytes, which rows are copied by (pad the pages)"
            );
        }
        if !tensor.is_empty() && tensor.addr % ALIGN as u64 != 0 {
            return err!(
                FLASHMLA_ERROR_MISALIGNED,
                "{name}.data = {:#x}: must be a multiple of {ALIGN} bytes, which rows are copied by",
                tensor.addr
            );
        }
        Ok(tensor)
    }
}
