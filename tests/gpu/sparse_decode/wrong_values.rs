//! Indices and lengths live on the device, where no host checks them. Wrong ones mask and are clamped, and touch
//! nothing else. Nor does a plan for other lengths.

use super::call::Call;
use super::check::{check_all, run_case};
use super::data::Data;
use super::spec::{Extra, Spec};
use crate::memory::Fence;
use crate::random::Random;
use crate::spec::Layout as Strides;
use flashmla::problem::layout::Layout;

const WILD: [i32; 8] = [i32::MIN, -65536, -64, -1, 1 << 20, 1 << 30, 2147480000, i32::MAX];

#[test]
fn wild_indices_alone_attend_to_nothing() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    let mut random = Random::new(4);
    for (layout, h_q, topk, lse_pos_inf) in
        [(Layout::V32, 16, 200, false), (Layout::V32, 128, 64, true), (Layout::V4, 64, 513, false)]
    {
        let extra = Some(Extra { page: 64, s_k: 100, topk: 70, lengths: None });
        let spec = Spec { layout, h_q, topk, lse_pos_inf, extra, strides: Strides::Padded, ..Spec::default() };
        let mut data = Data::new(&spec);
        for cache in [&mut data.cache].into_iter().chain(data.extra.as_mut()) {
            cache.indices.iter_mut().for_each(|index| *index = random.pick(&WILD));
            // Of the cache nothing is named now.
            cache.bytes.fill(0xff);
        }
        let (results, _) = run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
        assert!(results.out.iter().all(|bits| *bits == 0), "{spec}");
    }
}

/// The first token behind the cache and the last token of it differ by one.
#[test]
fn indices_at_the_ends() {
    let session = sparse_or_skip!(Any);
    for layout in [Layout::V32, Layout::V4] {
        for (h_q, page, s_k) in [(16, 1, 1), (128, 64, 64), (64, 61, 122), (100, 2, 300)] {
            let spec = Spec { layout, h_q, page, s_k, topk: 8, masked: 0, ..Spec::default() };
            let mut data = Data::new(&spec);
            // Two tokens with the contents of others, wherever there is more than one.
            let tokens = data.cache.tokens();
            let last = tokens as i32 - 1;
            for (i, t) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                for (j, index) in [last, -1, 0, last + 1, 0, last, -tokens as i32, i32::MAX].into_iter().enumerate() {
                    data.cache.indices[data.cache.indices_place.at([i, t, j as i64])] = index;
                }
            }
            let mut random = Random::new(9);
            for token in [0, tokens - 1] {
                let place = crate::latent::offsets(layout, page as usize, (token % page) as usize);
                let (quantized, group) = crate::latent::groups(layout);
                let page = &mut data.cache.bytes[(token / page * data.cache.page_stride) as usize..];
                page[place[0]..][..quantized].iter_mut().for_each(|x| *x = random.below(0x70) as u8);
                for g in 0..quantized / group {
                    match layout {
                        Layout::V4 => page[place[1] + g] = 117,
                        _ => page[place[1] + 4 * g..][..4].copy_from_slice(&1e-3f32.to_le_bytes()),
                    }
                }
                page[place[2]..][..128].chunks_exact_mut(2).for_each(|x| x.copy_from_slice(&0x3dccu16.to_le_bytes()));
            }
            let queue = session.queue().unwrap();
            run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
        }
    }
}

#[test]
fn wild_lengths_are_clamped() {
    let session = sparse_or_skip!(Any);
    let mut specs = Vec::new();
    for layout in [Layout::V32, Layout::V4] {
        for (h_q, topk) in [(16, 0), (16, 130), (64, 64), (128, 200)] {
            let extra = Some(Extra { page: 2, s_k: 100, topk: 70, lengths: Some(WILD.to_vec()) });
            specs.push(Spec { layout, h_q, topk, b: 5, lengths: Some(WILD.to_vec()), extra, ..Spec::default() });
        }
    }
    check_all(&session, specs);
}

/// Lengths that changed after the plan was made: some result, and no access outside.
#[test]
fn a_plan_for_other_lengths_does_no_harm() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for (h_q, invariant) in [(16, false), (128, false), (64, true)] {
        let spec = Spec { h_q, invariant, b: 9, topk: 3000, lengths: Some(vec![0, 3000, 70]), ..Spec::default() };
        let first = Data::new(&spec);
        let second = Data::new(&Spec { lengths: Some(vec![3000, 5, 2999, 1]), ..spec.clone() });
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &first).unwrap();
        call.make_plan(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        call.update(&second).unwrap();
        call.run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        call.results().unwrap_or_else(|e| panic!("{e}: {spec}"));
        // A plan of garbage.
        for fill in [0x00u8, 0x7f, 0xff] {
            call.plan.write(0, &vec![fill; call.plan.bytes()]).unwrap();
            call.run(queue.raw()).unwrap();
            queue.synchronize().unwrap();
            call.results().unwrap_or_else(|e| panic!("{e}: {spec}"));
        }
    }
}
