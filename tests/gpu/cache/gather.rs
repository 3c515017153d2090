//! Gather, bit by bit: every code under every kind of scale, ranges and indices, and rows that stay.

use super::append::{self, Case};
use super::*;
use flashmla::capi::kv_cache_append::*;
use flashmla::capi::kv_cache_gather::*;

pub fn params(shape: &Shape, n: i64) -> flashmla_kv_cache_gather_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_kv_cache_gather_params_t = unsafe { std::mem::zeroed() };
    params.struct_size = size_of_val(&params);
    params.layout = layout_code(shape.layout);
    params.n = n;
    params.d_qk = shape.d_qk;
    params.num_blocks = shape.num_blocks;
    params.page_block_size = shape.page;
    params
}

/// Any bytes: every code, and scales of all kinds, NaN and subnormal ones too.
fn image(random: &mut Random, shape: &Shape) -> Vec<u8> {
    let mut image: Vec<u8> = (0..shape.bytes()).map(|_| random.next() as u8).collect();
    if shape.layout == Layout::V32 {
        let scales = [1.0f32, 0.03, 1.7e-5, 2f32.powi(100), 3e-40, f32::NAN, 1e38, 0.0, 2f32.powi(-13)];
        for slot in 0..shape.tokens() {
            let (page, i) = (slot / shape.page * shape.page_stride, slot % shape.page * 656);
            for g in 0..4 {
                let scale = if slot % 2 == 0 { random.unit() as f32 } else { random.pick(&scales) };
                image[(page + i + 512 + 4 * g) as usize..][..4].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
    image
}

fn run(session: &Session, params: &flashmla_kv_cache_gather_params_t) {
    let queue = session.queue().unwrap();
    // SAFETY: all memory is owned, of the sizes in the parameters.
    call(session, &queue, |stream| unsafe { flashmla_kv_cache_gather(session.backend.handle.0, params, stream) })
        .unwrap_or_else(|e| panic!("{e:?}"));
}

/// `want`: rows by the slot that each should show; `None`: zeros, and `Err`: as it was.
fn compare(got: &[u16], stride: usize, shape: &Shape, image: &[u8], want: &[Result<Option<i64>, ()>], what: &str) {
    let d = shape.d_qk as usize;
    for (row, want) in want.iter().enumerate() {
        let bits = &got[row * stride..][..d];
        let wanted = match want {
            Ok(Some(slot)) => shape.get(image, *slot),
            Ok(None) => vec![0; d],
            Err(()) => vec![0xffff; d],
        };
        assert!(same_bits(bits, &wanted), "row {row} ({want:?}): {what}\n{bits:x?}\n{wanted:x?}");
    }
    for gap in got.chunks(stride).flat_map(|row| row.iter().skip(d)) {
        assert_eq!(*gap, 0xffff, "a gap was written: {what}");
    }
}

fn shapes() -> Vec<(Shape, i64)> {
    let mut shapes = Vec::new();
    for layout in LAYOUTS {
        for (k, (page, num_blocks)) in [(1, 90), (61, 4), (64, 4), (256, 2)].into_iter().enumerate() {
            let pad = k as i64 % 3;
            let d_qk = if layout == Layout::V4 || (layout == Layout::Plain && k % 2 == 0) { 512 } else { 576 };
            shapes.push((Shape::new(layout, d_qk, num_blocks, page, pad), pad));
        }
    }
    shapes
}

#[test]
fn gather_by_indices() {
    let session = backend_or_skip!();
    for (seed, (shape, pad)) in shapes().into_iter().enumerate() {
        for n in [0, 1, 8, 100] {
            let mut random = Random::new(seed as u64 + 10);
            let image = image(&mut random, &shape);
            let wild = [-1, shape.tokens() as i32, i32::MAX, i32::MIN];
            let indices: Vec<i32> = (0..n)
                .map(|i| match i % 7 {
                    6 => random.pick(&wild),
                    _ => random.below(shape.tokens() as u64) as i32,
                })
                .collect();
            let want: Vec<_> =
                indices.iter().map(|i| Ok(Some(*i as i64).filter(|slot| (0..shape.tokens()).contains(slot)))).collect();
            let stride = shape.d_qk + pad * 8;
            let (cache, out) = (region(&session, &image), empty(&session, (n * stride * 2) as usize));
            let indices = region(&session, &spread(&indices, 1 + pad as usize, 5));
            let mut params = params(&shape, n);
            params.kv_cache = tensor(&cache, shape.strides());
            params.indices = tensor(&indices, [1 + pad, 0, 0, 0]);
            params.rows = tensor_mut(&out, [stride, 1, 0, 0]);
            run(&session, &params);
            let what = format!("{shape:?} n={n}");
            compare(&out.read::<u16>().unwrap(), stride as usize, &shape, &image, &want, &what);
            assert!(cache.read::<u8>().unwrap() == image, "the cache was written: {what}");
            out.check_guards("rows").unwrap();
        }
    }
}

#[test]
fn gather_by_ranges() {
    let session = backend_or_skip!();
    for (seed, (shape, pad)) in shapes().into_iter().enumerate() {
        for (b, with_starts) in [(1, false), (3, true), (17, true), (40, false)] {
            let mut random = Random::new(seed as u64 + 50);
            let image = image(&mut random, &shape);
            let columns = 3i64;
            let wild = [-1, shape.num_blocks as i32, i32::MAX, i32::MIN];
            let table: Vec<i32> = (0..b * columns)
                .map(|_| match random.below(10) {
                    0 => random.pick(&wild),
                    _ => random.below(shape.num_blocks as u64) as i32,
                })
                .collect();
            // The first rows are nobody's, and so are the last ones.
            let mut cu = vec![2i32];
            let starts: Vec<i32> = (0..b)
                .map(|_| {
                    let most = (columns * shape.page).min(20) as u64;
                    cu.push(cu.last().unwrap() + random.below(most + 1) as i32);
                    match random.below(8) {
                        0 => random.pick(&[-3, i32::MAX, i32::MIN, (columns * shape.page) as i32 - 1]),
                        _ => random.below((columns * shape.page) as u64) as i32,
                    }
                })
                .collect();
            let n = *cu.last().unwrap() as i64 + 5;
            let want: Vec<_> = (0..n)
                .map(|row| {
                    let i = (0..b as usize).find(|i| (cu[*i] as i64..cu[*i + 1] as i64).contains(&row)).ok_or(())?;
                    let token = row - cu[i] as i64 + if with_starts { starts[i] as i64 } else { 0 };
                    if !(0..columns * shape.page).contains(&token) {
                        return Ok(None);
                    }
                    let page = table[i * columns as usize + (token / shape.page) as usize] as i64;
                    let exists = (0..shape.num_blocks).contains(&page);
                    Ok(exists.then_some(page * shape.page + token % shape.page))
                })
                .collect();
            let stride = shape.d_qk + pad * 8;
            let step = 1 + pad;
            let (cache, out) = (region(&session, &image), empty(&session, (n * stride * 2) as usize));
            let (table, cu) = (region(&session, &table), region(&session, &spread(&cu, step as usize, 1)));
            let starts = region(&session, &spread(&starts, step as usize, -1));
            let mut params = params(&shape, n);
            params.b = b;
            params.max_blocks_per_seq = columns;
            params.kv_cache = tensor(&cache, shape.strides());
            params.block_table = tensor(&table, [0; 4]);
            params.cu_seqlens = tensor(&cu, [step, 0, 0, 0]);
            if with_starts {
                params.seq_starts = tensor(&starts, [step, 0, 0, 0]);
            }
            params.rows = tensor_mut(&out, [stride, 1, 0, 0]);
            run(&session, &params);
            let what = format!("{shape:?} b={b} starts={with_starts}");
            compare(&out.read::<u16>().unwrap(), stride as usize, &shape, &image, &want, &what);
            out.check_guards("rows").unwrap();
        }
    }
}

/// Boundaries that are no boundaries give some rows or none, and touch nothing else.
#[test]
fn gather_with_wild_boundaries() {
    let session = backend_or_skip!();
    for layout in LAYOUTS {
        let shape = Shape::new(layout, crate::latent::d_qk(layout), 3, 64, 0);
        let mut random = Random::new(77);
        let image = image(&mut random, &shape);
        let (cache, out) = (region(&session, &image), empty(&session, (50 * shape.d_qk * 2) as usize));
        let table = region(&session, &[0i32, 1, 2, 0]);
        for cu in [[i32::MAX, 0, i32::MIN], [i32::MIN, 0, i32::MAX], [5, 3, 1], [-7, -7, 49]] {
            let cu = region(&session, &cu);
            let starts = region(&session, &[i32::MAX, i32::MIN]);
            let mut params = params(&shape, 50);
            (params.b, params.max_blocks_per_seq) = (2, 2);
            params.kv_cache = tensor(&cache, [0; 4]);
            params.block_table = tensor(&table, [0; 4]);
            params.cu_seqlens = tensor(&cu, [0; 4]);
            params.seq_starts = tensor(&starts, [0; 4]);
            params.rows = tensor_mut(&out, [0; 4]);
            run(&session, &params);
            out.check_guards("rows").unwrap();
        }
    }
}

/// What is appended comes back: to the bit in plain pages, and within half a step of e4m3 in others. Where
/// scales are powers of two, appending what came back changes no byte.
#[test]
fn there_and_back() {
    let session = backend_or_skip!();
    let queue = session.queue().unwrap();
    for (layout, exact) in [(Layout::Plain, false), (Layout::V32, false), (Layout::V32, true), (Layout::V4, false)] {
        let shape = Shape::new(layout, crate::latent::d_qk(layout), 5, 61, 1);
        let (n, d) = (200, shape.d_qk as usize);
        let mut random = Random::new(5);
        let table = NormalTable::new(1.0, |x| half::bf16::from_f32(x).to_bits());
        let mut bits = vec![0u16; n as usize * d];
        table.fill(&mut random, &mut bits);
        let mut slots: Vec<i32> = (0..shape.tokens() as i32).collect();
        random.shuffle(&mut slots);
        slots.truncate(n as usize);
        let (rows, slots) = (region(&session, &bits), region(&session, &slots));
        let (cache, back) = (empty(&session, shape.bytes()), empty(&session, n as usize * d * 2));
        let mut append = append::params(&Case { shape, n, exact, wide: false, pad: 0, seed: 0 });
        append.rows = tensor(&rows, [0; 4]);
        append.slot_mapping = tensor(&slots, [0; 4]);
        append.kv_cache = tensor_mut(&cache, shape.strides());
        let mut gather = params(&shape, n);
        gather.kv_cache = tensor(&cache, shape.strides());
        gather.indices = tensor(&slots, [0; 4]);
        gather.rows = tensor_mut(&back, [0; 4]);
        let append_to_it = |params: &flashmla_kv_cache_append_params_t| {
            // SAFETY: all memory is owned, of the sizes in the parameters.
            call(&session, &queue, |stream| unsafe {
                flashmla_kv_cache_append(session.backend.handle.0, params, stream)
            })
            .unwrap()
        };
        append_to_it(&append);
        run(&session, &gather);
        let got: Vec<u16> = back.read().unwrap();
        let value = |bits: u16| half::bf16::from_bits(bits).to_f64();
        if layout == Layout::Plain {
            assert!(got == bits);
            continue;
        }
        let (latent, group) = crate::latent::groups(layout);
        for (row, bits) in got.chunks_exact(d).zip(bits.chunks_exact(d)) {
            assert_eq!(row[latent..], bits[latent..], "the rotary part");
            for (got, bits) in row[..latent].chunks_exact(group).zip(bits[..latent].chunks_exact(group)) {
                let max = bits.iter().fold(0f64, |m, b| m.max(value(*b).abs()));
                for (x, b) in got.iter().zip(bits) {
                    // A step is an eighth of the binade, or that of the smallest numbers; and BF16's own half step.
                    let (x, y) = (value(*x), value(*b));
                    let bound = (y.abs() / 15.9).max(2.0 * max / 448.0 * 2f64.powi(-10)) + y.abs() / 256.0;
                    assert!((x - y).abs() <= bound, "{x} for {y}, the largest being {max}");
                }
            }
        }
        if !exact {
            let before: Vec<u8> = cache.read().unwrap();
            append.rows = tensor(&back, [0; 4]);
            append_to_it(&append);
            run(&session, &gather);
            assert!(back.read::<u16>().unwrap() == got, "values change on the second way");
            assert_eq!(before.len(), cache.bytes());
        }
    }
}
