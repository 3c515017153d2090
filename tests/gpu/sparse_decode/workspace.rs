//! Workspace and plan of exactly the size that the query gives: enough, and no byte less.
//! (Every test of this folder runs with exactly these sizes, between guards.)

use super::call::{plan_size, sizes_of, workspace_size, Call};
use super::data::Data;
use super::spec::{Extra, Spec};
use crate::memory::{Fence, UNTOUCHED};
use flashmla::status::FLASHMLA_ERROR_BUFFER_TOO_SMALL;

#[test]
fn one_byte_less_is_refused_and_nothing_is_written() {
    let session = sparse_or_skip!(Gpu);
    for (h_q, invariant) in [(16, false), (128, false), (64, true)] {
        let spec = Spec { h_q, invariant, topk: 3000, s_k: 1000, ..Spec::default() };
        let data = Data::new(&spec);
        let queue = session.queue().unwrap();
        let mut call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        assert!(call.params.workspace_size > 0, "{spec}");
        call.make_plan(queue.raw()).unwrap();
        call.params.workspace_size -= 1;
        let refusal = call.run(queue.raw()).unwrap_err();
        assert_eq!(refusal.status, FLASHMLA_ERROR_BUFFER_TOO_SMALL, "{spec}: {}", refusal.message);
        call.params.workspace_size += 1;
        call.plan_record().size -= 1;
        for refused in [call.make_plan(queue.raw()), call.run(queue.raw())] {
            let refusal = refused.unwrap_err();
            assert_eq!(refusal.status, FLASHMLA_ERROR_BUFFER_TOO_SMALL, "{spec}: {}", refusal.message);
            assert!(refusal.message.contains("plan.size"), "{}", refusal.message);
        }
        queue.synchronize().unwrap();
        for region in [&call.out, &call.lse, &call.workspace] {
            assert!(region.read::<u8>().unwrap().iter().all(|byte| *byte == UNTOUCHED), "{spec}: written");
        }
    }
}

/// What is asked for the maxima suffices for less, and nothing is asked where nothing is split.
#[test]
fn sizes_are_monotone() {
    let session = sparse_or_skip!(Any);
    let handle = &session.backend.handle;
    for h_q in [1, 16, 64, 65, 128] {
        for invariant in [false, true] {
            let size = |b, s_q, topk, extra| {
                let extra = (extra > 0).then_some(Extra { page: 64, s_k: 300, topk: extra, lengths: None });
                let params = sizes_of(&Spec { h_q, b, s_q, topk, extra, invariant, ..Spec::default() });
                (workspace_size(handle, &params).unwrap(), plan_size(handle, &params).unwrap())
            };
            let most = size(300, 4, 8192, 1024);
            for b in [0, 1, 2, 131, 132, 300] {
                for (s_q, topk, extra) in [(0, 5, 5), (1, 8192, 1024), (4, 8192, 0), (2, 64, 64), (4, 130, 1024)] {
                    let less = size(b, s_q, topk, extra);
                    assert!(less.0 <= most.0 && less.1 <= most.1, "{less:?} {most:?} b={b} s_q={s_q} topk={topk}");
                }
            }
            assert_eq!(size(5, 2, 128, 64).0, 0, "three tiles are not split");
            assert_eq!(size(0, 2, 8192, 64), (0, 0));
        }
    }
}
