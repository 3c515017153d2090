//! The same call gives the same bits.

use super::call::Call;
use super::check::compare;
use super::data::Data;
use super::oracle::expected;
use super::spec::Spec;
use crate::memory::Fence;

#[test]
fn twenty_times_the_same_bits() {
    let session = session_or_skip!(Any);
    let queue = session.queue().unwrap();
    for (d_qk, h_q, s_q, topk) in [(576, 128, 3, 500), (576, 17, 140, 70), (512, 64, 20, 129), (512, 128, 2, 64)] {
        let data = Data::new(&Spec { d_qk, h_q, s_q, topk, sinks: Some(vec![0.0, 2.0]), ..Spec::default() });
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        let run = || {
            call.reset_outputs().unwrap();
            call.run(queue.raw()).unwrap();
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
