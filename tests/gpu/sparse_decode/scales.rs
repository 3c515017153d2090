//! Scales that are not powers of two, very small and very large ones, and codes and scales of NaN.

use super::call::Call;
use super::check::{compare, run_case, run_only};
use super::data::Data;
use super::oracle::expected;
use super::spec::{Scales, Spec};
use crate::check::report;
use crate::latent;
use crate::memory::Fence;
use flashmla::problem::layout::Layout;

/// Scales of either kind: the error is the same. (That an element is rounded to BF16 is a part of the contract: it is
/// with other scales than powers of two that this makes a difference.)
#[test]
fn odd_scales_cost_no_accuracy() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for h_q in [16, 64, 128] {
        let spec = Spec { h_q, topk: 512, s_k: 1000, masked: 0, ..Spec::default() };
        let rms = [Scales::Powers, Scales::Odd].map(|scales| {
            let data = Data::new(&Spec { scales, ..spec.clone() });
            let (_, margin) = run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}"));
            report(&format!("{}: h_q={h_q} {scales:?}", session.name), 1, margin);
            margin.rms
        });
        assert!(
            rms[1] <= rms[0] * 1.05,
            "h_q={h_q}: relative RMS error {:.5}, {:.5} with powers of two",
            rms[1],
            rms[0]
        );
    }
}

/// Sets every scale of a token of the first cache.
fn set_scales(data: &mut Data, token: i64, bits: u32, code: u8) {
    let cache = &mut data.cache;
    let page = &mut cache.bytes[(token / cache.page * cache.page_stride) as usize..];
    let at = latent::offsets(data.spec.layout, cache.page as usize, (token % cache.page) as usize)[1];
    match data.spec.layout {
        Layout::V4 => page[at..at + 7].fill(code),
        _ => page[at..at + 16].copy_from_slice(&bits.to_le_bytes().repeat(4)),
    }
}

/// Tokens of tiny and of large magnitude beside each other. The large ones have Q's product small, so that what
/// they weigh is moderate; that their values are far outside those of the others makes every bit of them count.
#[test]
fn scales_of_any_magnitude() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for layout in [Layout::V32, Layout::V4] {
        for h_q in [16, 64, 128] {
            for (exponent, odd) in [
                (-60, false),
                (-30, true),
                (-13, false),
                (-2, true),
                (3, false),
                (8, false),
                (9, true),
                (20, false),
                (40, true),
                (60, false),
            ] {
                let spec =
                    Spec { layout, h_q, masked: 0, q_std: 1e-3, scale: 2f32.powi(-exponent.max(0)), ..Spec::default() };
                let mut data = Data::new(&spec);
                let scale = 2f32.powi(exponent) * if odd { 1.3 } else { 1.0 };
                for token in (0..data.cache.tokens()).step_by(3) {
                    set_scales(&mut data, token, scale.to_bits(), (exponent + 127) as u8);
                }
                let results =
                    run_only(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
                // The bounds are made for values of about 0.1, codes being about 100: compare what is scaled to that.
                let down = 2f64.powi(-(exponent + 10).max(0));
                let mut want = expected(&data);
                want.out.iter_mut().for_each(|x| *x *= down);
                let mut got = results.clone();
                got.out.iter_mut().for_each(|x| {
                    *x = half::bf16::from_f64(half::bf16::from_bits(*x).to_f64() * down).to_bits();
                });
                compare(&spec, &got, &want).unwrap_or_else(|e| panic!("2^{exponent} odd={odd}: {e}: {spec}"));
            }
        }
    }
}

/// A NaN is what a token with a NaN gives where an index names it, and nowhere else: as a scale, and as a rotary
/// element. As a code it is 480 on a GPU.
#[test]
fn nan_reaches_the_queries_that_attend_to_it() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for layout in [Layout::V32, Layout::V4] {
        for h_q in [16, 128] {
            for kind in ["scale", "rope", "code"] {
                let spec = Spec { layout, h_q, masked: 0, ..Spec::default() };
                let mut data = Data::new(&spec);
                // Token 3 is one that no index of a case names.
                let source = (4..data.cache.tokens()).find(|t| data.cache.indices.contains(&(*t as i32))).unwrap();
                let page = data.cache.page as usize;
                let (from, to) =
                    (latent::offsets(layout, page, (source as usize) % page), latent::offsets(layout, page, 3));
                let base = (source / data.cache.page * data.cache.page_stride) as usize;
                for (part, bytes) in
                    [(0, latent::groups(layout).0), (1, if layout == Layout::V4 { 7 } else { 16 }), (2, 128)]
                {
                    data.cache.bytes.copy_within(base + from[part]..base + from[part] + bytes, to[part]);
                }
                match kind {
                    "scale" => set_scales(&mut data, 3, f32::NAN.to_bits(), 255),
                    "rope" => data.cache.bytes[to[2]..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes()),
                    _ => data.cache.bytes[to[0] + 5] = 0x7f,
                }
                let at = data.cache.indices_place.at([1, 0, 77]);
                data.cache.indices[at] = 3;
                let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
                call.plan_and_run(queue.raw()).unwrap();
                queue.synchronize().unwrap();
                let results = call.results().unwrap();
                let nan = |bits: &u16| half::bf16::from_bits(*bits).is_nan();
                let per_unit = results.out.len() / 4;
                for (unit, out) in results.out.chunks_exact(per_unit).enumerate() {
                    match unit == 2 && (kind != "code" || session.backend.gpu.is_none()) {
                        true => assert!(out.iter().all(nan), "{kind}: {spec}"),
                        false => assert!(!out.iter().any(nan), "{kind}: {spec}, query token {unit}"),
                    }
                }
            }
        }
    }
}
