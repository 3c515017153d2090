//! Indices and lengths live on the device, where no host checks them. Wrong ones mask and are clamped, and
//! touch nothing else.

use super::call::Call;
use super::check::{check_all, run_case};
use super::data::Data;
use super::spec::Spec;
use crate::memory::Fence;
use crate::random::Random;
use crate::spec::Layout;

const WILD: [i32; 8] = [i32::MIN, -65536, -64, -1, 1 << 20, 1 << 30, 2147480000, i32::MAX];

#[test]
fn wild_indices_alone_attend_to_nothing() {
    let session = session_or_skip!(Any);
    let queue = session.queue().unwrap();
    let mut random = Random::new(4);
    for (d_qk, h_q, topk, lse_pos_inf) in [(576, 16, 200, false), (576, 128, 64, true), (512, 64, 513, false)] {
        let spec = Spec { d_qk, h_q, topk, lse_pos_inf, s_q: 5, layout: Layout::Padded, ..Spec::default() };
        let mut data = Data::new(&spec);
        data.indices.iter_mut().for_each(|index| *index = random.pick(&WILD));
        // Of the KV nothing is named now.
        data.kv.fill(0xffff);
        let (results, _) = run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
        assert!(results.out.iter().all(|bits| *bits == 0), "{spec}");
    }
}

/// The first row behind the KV and the last row of it differ by one.
#[test]
fn indices_at_the_ends() {
    let session = session_or_skip!(Any);
    let queue = session.queue().unwrap();
    for (d_qk, h_q, s_kv) in [(576, 16, 1), (576, 128, 64), (512, 64, 65), (512, 100, 300)] {
        let spec = Spec { d_qk, h_q, s_kv, topk: 8, masked: 0, ..Spec::default() };
        let mut data = Data::new(&spec);
        let last = s_kv as i32 - 1;
        for t in 0..spec.s_q {
            for (j, index) in [last, -1, 0, last + 1, 0, last, -s_kv as i32, i32::MAX].into_iter().enumerate() {
                data.indices[data.places.indices.at([t, 0, j as i64])] = index;
            }
        }
        // These two rows, of the values that other rows have.
        for row in [0, s_kv - 1] {
            for (i, bits) in data.kv[data.places.kv.at([row, 0, 0])..][..d_qk as usize].iter_mut().enumerate() {
                *bits = 0x3dcc ^ ((i as u16 * 7 + row as u16) & 0x803f);
            }
        }
        run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
    }
}

#[test]
fn wild_lengths_are_clamped() {
    let session = session_or_skip!(Any);
    let mut specs = Vec::new();
    for d_qk in [576, 512] {
        for (h_q, topk) in [(16, 0), (16, 130), (64, 64), (128, 200)] {
            specs.push(Spec { d_qk, h_q, topk, s_q: 9, lengths: Some(WILD.to_vec()), ..Spec::default() });
        }
    }
    check_all(&session, specs);
}

/// Not a number is what a row of NaN gives where an index does name it: no masking hides wrong data.
#[test]
fn a_named_row_of_nan_shows() {
    let session = session_or_skip!(Any);
    let queue = session.queue().unwrap();
    for h_q in [16, 128] {
        let spec = Spec { h_q, masked: 0, s_q: 2, ..Spec::default() };
        let mut data = Data::new(&spec);
        let at = data.places.indices.at([1, 0, 77]);
        // Row 3 is one that no index of a case names.
        data.indices[at] = 3;
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        call.run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        let results = call.results().unwrap();
        let nan = |bits: &u16| half::bf16::from_bits(*bits).is_nan();
        let (first, second) = results.out.split_at(results.out.len() / 2);
        assert!(!first.iter().any(nan) && second.iter().all(nan), "{spec}");
    }
}
