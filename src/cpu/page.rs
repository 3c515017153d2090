//! Tokens of a latent cache of any layout: read as what their dequantisation to BF16 gives, and written from BF16.

use super::fp8::*;
use crate::problem::kv_cache_append::ScaleRule;
use crate::problem::layout::{Layout, ROPE};
use half::bf16;
use std::sync::LazyLock;

/// Tokens of FP8 pages: `bytes` from the first page on, pages `page_stride` bytes apart.
#[derive(Clone, Copy)]
pub struct Fp8Pages<'a> {
    pub layout: Layout,
    pub bytes: &'a [u8],
    pub page_stride: i64,
    pub page_block_size: i64,
}

impl Fp8Pages<'_> {
    /// The token of index `page * page_block_size + offset`, which must be one of the cache's.
    pub fn read(&self, index: i64, to: &mut [f32]) {
        let (page, offset) = (index / self.page_block_size, index % self.page_block_size);
        let page = (page * self.page_stride) as usize;
        let (data, scales) = self.layout.token_offsets(self.page_block_size, offset);
        let data = &self.bytes[page + data as usize..];
        read_token(self.layout, data, &self.bytes[page + scales as usize..], to);
    }
}

/// A token from its row and its scales, which begin the slices: bf16(e4m3 * scale), the product in FP32.
pub fn read_token(layout: Layout, data: &[u8], scales: &[u8], to: &mut [f32]) {
    let (quantized, group) = layout.quantized();
    let (quantized, group) = (quantized as usize, group as usize);
    let values: &[f32; 256] = &E4M3;
    for (g, to) in to[..quantized].chunks_exact_mut(group).enumerate() {
        let scale = match layout {
            Layout::V4 => e8m0_to_f32(scales[g]),
            _ => f32::from_le_bytes(scales[4 * g..4 * g + 4].try_into().unwrap_or_default()),
        };
        for (x, code) in to.iter_mut().zip(&data[g * group..]) {
            *x = bf16::from_f32(values[*code as usize] * scale).to_f32();
        }
    }
    let rope = &data[layout.rope_offset() as usize..][..2 * ROPE as usize];
    for (x, bytes) in to[quantized..].iter_mut().zip(rope.chunks_exact(2)) {
        *x = f32::from_bits((u16::from_le_bytes([bytes[0], bytes[1]]) as u32) << 16);
    }
}

/// A token as the bytes of its row, without what is between (V32 keeps its scales there), and its scales.
pub struct Quantized {
    pub codes: Vec<u8>,
    pub scales: Vec<u8>,
    pub rope: Vec<u8>,
}

/// Quantises a row of BF16 bits.
pub fn quantize(layout: Layout, rule: ScaleRule, row: &[u16]) -> Quantized {
    let (quantized, group) = layout.quantized();
    let (latent, rope) = row.split_at(quantized as usize);
    let value = |bits: &u16| f32::from_bits((*bits as u32) << 16);
    let mut codes = Vec::with_capacity(latent.len());
    let mut scales = Vec::with_capacity(16);
    for group in latent.chunks_exact(group as usize) {
        // Magnitudes without their sign are ordered as integers are, NaN above all.
        let max = value(&group.iter().map(|bits| bits & 0x7fff).max().unwrap_or(0));
        let scale = match rule {
            ScaleRule::PowerOfTwo => scale_power_of_two(max),
            ScaleRule::Exact => scale_exact(max),
        };
        codes.extend(group.iter().map(|bits| f32_to_e4m3(value(bits) / scale)));
        match layout {
            Layout::V4 => scales.push(f32_to_e8m0(scale)),
            _ => scales.extend(scale_bits(scale).to_le_bytes()),
        }
    }
    if layout == Layout::V4 {
        scales.push(0);
    }
    Quantized { codes, scales, rope: rope.iter().flat_map(|bits| bits.to_le_bytes()).collect() }
}

/// One NaN of all.
fn scale_bits(scale: f32) -> u32 {
    if scale.is_nan() {
        0x7fff_ffff
    } else {
        scale.to_bits()
    }
}

/// The value of every code.
static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|code| e4m3_to_f32(code as u8)));
