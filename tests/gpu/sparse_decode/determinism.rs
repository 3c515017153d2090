//! The same call gives the same bits, and a batch-invariant one whatever else is in the batch.

use super::call::{Call, Results};
use super::check::{compare, run_only};
use super::data::Data;
use super::oracle::expected;
use super::spec::{Extra, Spec};
use crate::memory::Fence;
use flashmla::problem::dense_decode::D_V;
use flashmla::problem::layout::Layout;

#[test]
fn twenty_times_the_same_bits() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for (layout, h_q, b, topk) in [
        (Layout::V32, 128, 3, 500),
        (Layout::V32, 17, 70, 70),
        (Layout::V4, 64, 10, 129),
        (Layout::V4, 128, 1, 2000),
        (Layout::V4, 64, 1, 4500),
        (Layout::V32, 64, 33, 600),
    ] {
        let data = Data::new(&Spec { layout, h_q, b, topk, sinks: Some(vec![0.0, 2.0]), ..Spec::default() });
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        let run = || {
            call.reset_outputs().unwrap();
            call.plan_and_run(queue.raw()).unwrap();
            queue.synchronize().unwrap();
            call.results().unwrap()
        };
        let first = run();
        for time in 1..20 {
            assert!(run() == first, "call {time} differs from the first\n    case: {}", data.spec);
        }
        call.check_inputs(&data).unwrap();
        compare(&data.spec, &first, &expected(&data)).unwrap_or_else(|e| panic!("{e}\n    case: {}", data.spec));
    }
}

/// A request of a batch, and the same request by itself. With few tokens the batch is large enough for a default plan to take
/// another kernel than for the request alone.
#[test]
fn invariant_results_do_not_depend_on_the_batch() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for (layout, h_q, b, topk, extra_topk, with_lengths) in [
        (Layout::V32, 128, 3, 5000, 200, true),
        (Layout::V32, 16, 3, 3000, 200, true),
        (Layout::V4, 64, 3, 2500, 200, true),
        (Layout::V32, 16, 300, 100, 70, true),
        (Layout::V4, 128, 150, 120, 30, true),
        // Whole query tokens, which the host knows to be that: fewer and more than thread blocks; and some that are cut.
        (Layout::V32, 16, 300, 100, 70, false),
        (Layout::V32, 128, 75, 100, 70, false),
        (Layout::V4, 64, 70, 200, 30, false),
        (Layout::V4, 128, 3, 2500, 200, false),
    ] {
        let lengths = with_lengths.then(|| vec![topk as i32, 90, topk as i32 - 30, 0, 70, topk as i32]);
        let extra_lengths = with_lengths.then(|| vec![extra_topk as i32, 20]);
        let extra = Some(Extra { page: 64, s_k: 300, topk: extra_topk, lengths: extra_lengths });
        let spec = Spec { layout, h_q, b, topk, lengths, extra, invariant: true, masked: 5, ..Spec::default() };
        let all = Data::new(&spec);
        let together = run_only(&session, &queue, Fence::Guarded, &all).unwrap();
        let b = b as usize;
        for i in (0..3).chain(b - 1..b) {
            let mut one = all.clone();
            one.spec.b = 1;
            let part = |len: usize| i * len / b..(i + 1) * len / b;
            one.q = all.q[part(all.q.len())].to_vec();
            one.cache.indices = all.cache.indices[part(all.cache.indices.len())].to_vec();
            one.cache.lengths = all.cache.lengths[part(all.cache.lengths.len())].to_vec();
            let (extra, from) = (one.extra.as_mut().unwrap(), all.extra.as_ref().unwrap());
            extra.indices = from.indices[part(from.indices.len())].to_vec();
            extra.lengths = from.lengths[part(from.lengths.len())].to_vec();
            one.q_place.shape[0] = 1;
            one.out_place.shape[0] = 1;
            one.lse_place.shape[0] = 1;
            let alone = run_only(&session, &queue, Fence::Guarded, &one).unwrap();
            let rows = 2 * h_q as usize;
            let want = Results {
                out: together.out[i * rows * D_V as usize..][..rows * D_V as usize].to_vec(),
                lse: together.lse[i * rows..][..rows].to_vec(),
            };
            assert!(alone == want, "request {i}: {spec}");
        }
    }
}
