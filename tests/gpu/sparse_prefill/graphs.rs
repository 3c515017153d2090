//! Captured into a CUDA graph: no call that a capture forbids, the same bits as without one, and a replay
//! finds the indices, lengths and contents that are there by then.

use super::call::Call;
use super::check::run_only;
use super::data::Data;
use super::spec::Spec;
use crate::cuda::CaptureMode;
use crate::memory::Fence;

#[test]
fn captured_and_replayed_after_changes_in_place() {
    let session = session_or_skip!(GpuAlone);
    for (d_qk, h_q) in [(576, 128), (576, 16), (512, 64)] {
        let lengths = Some(vec![200, 0, 77]);
        let spec = Spec { d_qk, h_q, lengths, s_q: 9, topk: 200, sinks: Some(vec![1.0]), ..Spec::default() };
        let later = Spec { lengths: Some(vec![3, 200, 100, 64]), masked: 50, seed: 2, ..spec.clone() };
        let [first, second] = [Data::new(&spec), Data::new(&later)];
        let eager = |data| run_only(&session, &session.queue().unwrap(), Fence::Guarded, data).unwrap();
        let want = [eager(&first), eager(&second)];

        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &first).unwrap();
        let stream = session.gpu().context.stream().unwrap();
        let graph = stream
            .capture_in(CaptureMode::Global, |stream| Ok(call.run(stream.as_ptr().cast())?))
            .unwrap_or_else(|e| panic!("{e}: {spec}"));
        for (data, want) in [(&first, &want[0]), (&second, &want[1]), (&first, &want[0])] {
            call.update(data).unwrap();
            call.reset_outputs().unwrap();
            stream.launch_graph(&graph).unwrap();
            stream.synchronize().unwrap();
            assert!(call.results().unwrap() == *want, "{spec}");
        }
    }
}
