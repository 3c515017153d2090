//! Workspace and plan of exactly the size that the query gives: enough, and no byte less.
//! (Every test of this suite runs with exactly these sizes, between guards.)

use crate::check::run_case;
use crate::data::Data;
use crate::decode::{sizes_of, workspace_size, Decode};
use crate::memory::{Fence, UNTOUCHED};
use crate::spec::Spec;
use flashmla::status::FLASHMLA_ERROR_BUFFER_TOO_SMALL;

/// Cases that are split, and whose need is that of the query (it covers smaller `s_q`, too).
fn split_cases() -> Vec<Spec> {
    [(16, false), (128, false), (200, false), (16, true), (128, true)]
        .map(|(h_q, invariant)| Spec { h_q, invariant, lens: vec![7000, 2500, 0, 70], ..Spec::default() })
        .to_vec()
}

#[test]
fn exactly_the_size_asked_for_suffices() {
    let session = backend_or_skip!();
    for spec in split_cases() {
        let data = Data::new(&spec);
        let size = workspace_size(&session.backend.handle, &sizes_of(&data)).unwrap();
        // On a GPU these cases split; the CPU never does.
        assert_eq!(size > 0, session.backend.gpu.is_some(), "{spec}");
        let queue = session.queue().unwrap();
        if let Err(why) = run_case(&session, &queue, Fence::Guarded, &data) {
            panic!("{why}\n    case: {spec}");
        }
    }
}

#[test]
fn one_byte_less_is_refused_and_nothing_is_written() {
    let session = gpu_or_skip!();
    for spec in split_cases() {
        let data = Data::new(&spec);
        let queue = session.queue().unwrap();
        let mut decode =
            Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).expect("device memory");
        decode.make_plan(queue.raw()).unwrap();
        decode.params.workspace_size -= 1;
        let refusal = decode.run(queue.raw()).unwrap_err();
        assert_eq!(refusal.status, FLASHMLA_ERROR_BUFFER_TOO_SMALL, "{spec}: {}", refusal.message);
        assert!(refusal.message.contains("workspace_size"), "{}", refusal.message);

        decode.params.workspace_size += 1;
        decode.plan_record().size -= 1;
        for refused in [decode.make_plan(queue.raw()), decode.run(queue.raw())] {
            let refusal = refused.unwrap_err();
            assert_eq!(refusal.status, FLASHMLA_ERROR_BUFFER_TOO_SMALL, "{spec}: {}", refusal.message);
            assert!(refusal.message.contains("plan.size"), "{}", refusal.message);
        }
        queue.synchronize().unwrap();
        for region in [&decode.out, &decode.lse, &decode.workspace] {
            assert!(region.read::<u8>().unwrap().iter().all(|byte| *byte == UNTOUCHED), "{spec}: written");
        }
    }
}

#[test]
fn a_workspace_for_the_maxima_serves_smaller_problems() {
    let session = gpu_or_skip!();
    for (h_q, invariant) in [(16, false), (128, false), (24, true), (128, true)] {
        let most = Spec { h_q, s_q: 9, lens: vec![5000; 6], invariant, ..Spec::default() };
        let enough = workspace_size(&session.backend.handle, &sizes_of(&Data::new(&most))).unwrap();
        for (s_q, b, len) in
            [(9, 6, 5000), (9, 1, 5000), (1, 6, 5000), (4, 2, 300), (5, 1, 4999), (8, 6, 64), (1, 1, 1)]
        {
            let less = Spec { s_q, lens: vec![len; b], ..most.clone() };
            let size = workspace_size(&session.backend.handle, &sizes_of(&Data::new(&less))).unwrap();
            assert!(size <= enough, "{size} bytes for {less}, {enough} for {most}");
        }
    }
}
