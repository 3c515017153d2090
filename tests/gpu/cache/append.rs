//! Append, byte by byte: what is to be written, and nothing beside it.

use super::*;
use crate::memory::UNTOUCHED;
use flashmla::capi::kv_cache_append::*;

pub struct Case {
    pub shape: Shape,
    pub n: i64,
    pub exact: bool,
    pub wide: bool,
    /// Elements behind a row, and between slots.
    pub pad: i64,
    pub seed: u64,
}

pub fn params(case: &Case) -> flashmla_kv_cache_append_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_kv_cache_append_params_t = unsafe { std::mem::zeroed() };
    params.struct_size = size_of_val(&params);
    params.layout = layout_code(case.shape.layout);
    params.scale_rule = if case.exact { FLASHMLA_SCALE_EXACT } else { FLASHMLA_SCALE_POWER_OF_TWO };
    params.slot_type = if case.wide { FLASHMLA_INDEX_INT64 } else { FLASHMLA_INDEX_INT32 };
    params.n = case.n;
    params.d_qk = case.shape.d_qk;
    params.num_blocks = case.shape.num_blocks;
    params.page_block_size = case.shape.page;
    params
}

/// Distinct slots, and between them such that name none.
fn slots(random: &mut Random, n: i64, tokens: i64) -> Vec<i64> {
    let mut free: Vec<i64> = (0..tokens).collect();
    random.shuffle(&mut free);
    let wild = [-1, -1, -2, tokens, tokens + 1, i32::MAX as i64, i32::MIN as i64];
    (0..n)
        .map(|i| match free.get(i as usize) {
            Some(slot) if i % 5 != 3 => *slot,
            _ => random.pick(&wild),
        })
        .collect()
}

fn check(session: &Session, case: &Case) {
    let Case { shape, n, exact, wide, pad, seed } = case;
    let what = || format!("{shape:?} n={n} exact={exact} wide={wide} pad={pad}");
    let mut random = Random::new(*seed);
    let bits = rows(&mut random, *n, shape.d_qk);
    let mut slots = slots(&mut random, *n, shape.tokens());
    if *wide && *n > 3 {
        // Past 32 bits, and such that the lower half would name a token.
        slots[1] = 1 << 32;
        slots[2] = i64::MIN;
    }
    let mut image = vec![UNTOUCHED; shape.bytes()];
    for (row, slot) in bits.chunks_exact(shape.d_qk as usize).zip(&slots) {
        if (0..shape.tokens()).contains(slot) {
            shape.put(&mut image, *slot, row, *exact);
        }
    }
    let padded: Vec<u16> = bits
        .chunks_exact(shape.d_qk as usize)
        .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0xffff, *pad as usize * 8)))
        .collect();
    let step = 1 + *pad as usize;
    let rows = region(session, &padded);
    let slots = match wide {
        true => region(session, &spread(&slots, step, 0i64)),
        false => region(session, &spread(&slots.iter().map(|s| *s as i32).collect::<Vec<_>>(), step, 0i32)),
    };
    let cache = empty(session, shape.bytes());
    let mut params = params(case);
    params.rows = tensor(&rows, [shape.d_qk + pad * 8, 1, 0, 0]);
    params.slot_mapping = tensor(&slots, [step as i64, 0, 0, 0]);
    params.kv_cache = tensor_mut(&cache, shape.strides());
    let queue = session.queue().unwrap();
    // SAFETY: all memory is owned, of the sizes in the parameters.
    call(session, &queue, |stream| unsafe { flashmla_kv_cache_append(session.backend.handle.0, &params, stream) })
        .unwrap_or_else(|e| panic!("{e:?}: {}", what()));
    let got: Vec<u8> = cache.read().unwrap();
    if let Some(at) = (0..got.len()).find(|i| got[*i] != image[*i]) {
        let (page, byte) = (at as i64 / shape.page_stride, at as i64 % shape.page_stride);
        panic!("byte {byte} of page {page} is {:#x}, not {:#x}: {}", got[at], image[at], what());
    }
    for (name, region) in [("rows", &rows), ("slots", &slots), ("cache", &cache)] {
        region.check_guards(name).unwrap_or_else(|e| panic!("{e}: {}", what()));
    }
}

#[test]
fn append_writes_what_the_definition_says() {
    let session = backend_or_skip!();
    let mut seed = 0;
    for layout in LAYOUTS {
        for (page, num_blocks) in [(1, 150), (61, 5), (64, 4), (256, 2)] {
            for n in [0, 1, 7, 8, 9, 131] {
                seed += 1;
                let d_qk = match layout {
                    Layout::V4 => 512,
                    Layout::Plain if seed % 2 == 0 => 512,
                    _ => 576,
                };
                let pad = seed as i64 % 3;
                let shape = Shape::new(layout, d_qk, num_blocks, page, pad);
                let (exact, wide) = (layout == Layout::V32 && seed % 2 == 0, seed % 4 < 2);
                check(&session, &Case { shape, n, exact, wide, pad, seed });
            }
        }
    }
    // Both rules, on the same rows.
    for exact in [false, true] {
        let shape = Shape::new(Layout::V32, 576, 4, 256, 0);
        check(&session, &Case { shape, n: 1000, exact, wide: true, pad: 0, seed: 7 });
    }
    let shape = Shape::new(Layout::V4, 512, 4, 256, 0);
    check(&session, &Case { shape, n: 1000, exact: false, wide: false, pad: 0, seed: 8 });
}

/// Without pages, rows go nowhere.
#[test]
fn append_to_nothing() {
    let session = backend_or_skip!();
    let shape = Shape::new(Layout::V32, 576, 0, 64, 0);
    check(&session, &Case { shape, n: 5, exact: false, wide: true, pad: 0, seed: 1 });
}

/// Every BF16 value, in the company of others that give it every scale.
#[test]
fn append_encodes_every_bf16_value() {
    let session = backend_or_skip!();
    for (layout, exact) in [(Layout::V32, false), (Layout::V32, true), (Layout::V4, false)] {
        let shape = Shape::new(layout, crate::latent::d_qk(layout), 3, 64, 0);
        let d = shape.d_qk as usize;
        let n = shape.tokens();
        let mut random = Random::new(3);
        // Finite values; a row in which all have nearly one exponent, so that none vanishes.
        let bits: Vec<u16> = (0..n as usize * d)
            .map(|i| {
                let exponent = (i / d * 255 / n as usize) as u16;
                (random.next() as u16 & 0x807f) | (exponent.saturating_sub(random.below(3) as u16)) << 7
            })
            .collect();
        let mut image = vec![UNTOUCHED; shape.bytes()];
        bits.chunks_exact(d).enumerate().for_each(|(i, row)| shape.put(&mut image, i as i64, row, exact));
        let slots: Vec<i32> = (0..n as i32).collect();
        let (rows, slots, cache) = (region(&session, &bits), region(&session, &slots), empty(&session, shape.bytes()));
        let mut params = params(&Case { shape, n, exact, wide: false, pad: 0, seed: 0 });
        params.rows = tensor(&rows, [0; 4]);
        params.slot_mapping = tensor(&slots, [0; 4]);
        params.kv_cache = tensor_mut(&cache, [0; 4]);
        let queue = session.queue().unwrap();
        // SAFETY: all memory is owned, of the sizes in the parameters.
        call(&session, &queue, |stream| unsafe { flashmla_kv_cache_append(session.backend.handle.0, &params, stream) })
            .unwrap();
        assert!(cache.read::<u8>().unwrap() == image, "{shape:?} exact={exact}");
    }
}
