//! The FP8 layouts of a cache by their definition, in double precision where rounding is not a part of it:
//! what the library is compared with, and how tests make caches.

use flashmla::problem::layout::Layout;
use std::cmp::Ordering;
use std::sync::OnceLock;

/// Bytes of a page's tokens, without what a stride may leave behind them.
pub fn page_bytes(layout: Layout, page_block_size: i64) -> i64 {
    match layout {
        Layout::Plain => panic!("plain rows have no bytes of their own"),
        Layout::V32 => 656 * page_block_size,
        Layout::V4 => 584 * page_block_size,
    }
}

pub fn d_qk(layout: Layout) -> i64 {
    match layout {
        Layout::V4 => 512,
        _ => 576,
    }
}

/// Elements with scales, and how many share one.
pub fn groups(layout: Layout) -> (usize, usize) {
    match layout {
        Layout::V4 => (448, 64),
        _ => (512, 128),
    }
}

/// Where in a page the parts of token `i` begin: codes, scales, rotary part.
pub fn offsets(layout: Layout, page_block_size: usize, i: usize) -> [usize; 3] {
    match layout {
        Layout::V4 => [i * 576, page_block_size * 576 + i * 8, i * 576 + 448],
        _ => [i * 656, i * 656 + 512, i * 656 + 528],
    }
}

pub fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = ((code >> 3 & 15) as i32, (code & 7) as f64 / 8.0);
    let magnitude = match exponent {
        15 if code & 7 == 7 => f64::NAN,
        0 => mantissa * 2f64.powi(-6),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
    };
    if code < 0x80 {
        magnitude
    } else {
        -magnitude
    }
}

/// The nearest code, of two the even one.
pub fn to_e4m3(x: f32) -> u8 {
    static VALUES: OnceLock<Vec<f64>> = OnceLock::new();
    let values = VALUES.get_or_init(|| (0..0x7f).map(e4m3).collect());
    if x.is_nan() {
        return 0x7f;
    }
    let magnitude = x.abs() as f64;
    // The first value that is not below, and the one before it.
    let above = values.partition_point(|value| *value < magnitude).min(0x7e);
    let below = above.saturating_sub(1);
    let distance = |code: usize| (values[code] - magnitude).abs();
    let nearest = match distance(below).partial_cmp(&distance(above)) {
        Some(Ordering::Less) => below,
        Some(Ordering::Equal) if below % 2 == 0 => below,
        _ => above,
    };
    nearest as u8 | if x.is_sign_negative() { 0x80 } else { 0 }
}

pub fn e8m0(code: u8) -> f64 {
    match code {
        255 => f64::NAN,
        _ => 2f64.powi(code as i32 - 127),
    }
}

/// The scale of group `g`, whose scales begin the slice.
pub fn scale(layout: Layout, scales: &[u8], g: usize) -> f64 {
    match layout {
        Layout::V4 => e8m0(scales[g]),
        _ => f32::from_le_bytes(scales[4 * g..4 * g + 4].try_into().unwrap()) as f64,
    }
}

/// The elements of token `i` of a page: products that nobody has rounded.
pub fn token(layout: Layout, page: &[u8], page_block_size: usize, i: usize) -> Vec<f64> {
    let [codes, scales, rope] = offsets(layout, page_block_size, i);
    let (quantized, group) = groups(layout);
    let latent = (0..quantized).map(|k| e4m3(page[codes + k]) * scale(layout, &page[scales..], k / group));
    let rope = page[rope..rope + 128].chunks_exact(2);
    latent.chain(rope.map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64())).collect()
}

/// The scale of a group with this largest magnitude.
pub fn scale_for(max: f32, exact: bool) -> f32 {
    if !max.is_finite() {
        return f32::NAN;
    }
    if exact {
        return (max / 448.0).max(f32::MIN_POSITIVE);
    }
    let mut exponent = -13;
    while 2f64.powi(exponent) < (max / 448.0) as f64 {
        exponent += 1;
    }
    2f64.powi(exponent) as f32
}

/// Writes a token of BF16 bits into a page.
pub fn put(layout: Layout, page: &mut [u8], page_block_size: usize, i: usize, row: &[u16], exact: bool) {
    let [codes, scales, rope] = offsets(layout, page_block_size, i);
    let (quantized, group) = groups(layout);
    let values: Vec<f32> = row.iter().map(|bits| half::bf16::from_bits(*bits).to_f32()).collect();
    for (g, values) in values[..quantized].chunks_exact(group).enumerate() {
        // f32::max leaves NaN out.
        let max = match values.iter().any(|x| x.is_nan()) {
            true => f32::NAN,
            false => values.iter().fold(0f32, |a, b| a.max(b.abs())),
        };
        let s = scale_for(max, exact);
        for (k, x) in values.iter().enumerate() {
            page[codes + g * group + k] = to_e4m3(x / s);
        }
        match layout {
            Layout::V4 if s.is_nan() => page[scales + g] = 255,
            Layout::V4 => page[scales + g] = (s.log2() as i32 + 127) as u8,
            _ if s.is_nan() => page[scales + 4 * g..][..4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes()),
            _ => page[scales + 4 * g..][..4].copy_from_slice(&s.to_le_bytes()),
        }
    }
    if layout == Layout::V4 {
        page[scales + 7] = 0;
    }
    for (k, bits) in row[quantized..].iter().enumerate() {
        page[rope + 2 * k..][..2].copy_from_slice(&bits.to_le_bytes());
    }
}
