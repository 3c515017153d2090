//! Captured into a CUDA graph: no call that a capture forbids, the same bits as without one, and a replay finds the
//! indices, lengths and contents that are there by then, and plans for them.

use super::call::Call;
use super::check::run_only;
use super::data::Data;
use super::spec::{Extra, Spec};
use crate::cuda::CaptureMode;
use crate::memory::Fence;
use flashmla::problem::layout::Layout;

#[test]
fn captured_and_replayed_after_changes_in_place() {
    let session = sparse_or_skip!(GpuAlone);
    for (layout, h_q, topk) in [(Layout::V32, 128, 200), (Layout::V32, 16, 3000), (Layout::V4, 64, 700)] {
        let extra = |lengths: &[i32]| Some(Extra { page: 64, s_k: 300, topk: 100, lengths: Some(lengths.to_vec()) });
        let first = Spec {
            layout,
            h_q,
            topk,
            b: 5,
            lengths: Some(vec![topk as i32, 0, 77]),
            extra: extra(&[100, 3]),
            sinks: Some(vec![1.0]),
            ..Spec::default()
        };
        let later = Spec {
            lengths: Some(vec![3, topk as i32, 100, 64]),
            extra: extra(&[0, 64, 65]),
            masked: 50,
            seed: 2,
            ..first.clone()
        };
        let [first, second] = [Data::new(&first), Data::new(&later)];
        let eager = |data| run_only(&session, &session.queue().unwrap(), Fence::Guarded, data).unwrap();
        let want = [eager(&first), eager(&second)];
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &first).unwrap();
        let stream = session.gpu().context.stream().unwrap();
        let graph = stream
            .capture_in(CaptureMode::Global, |stream| Ok(call.plan_and_run(stream.as_ptr().cast())?))
            .unwrap_or_else(|e| panic!("{e}: {}", first.spec));
        for (data, want) in [(&first, &want[0]), (&second, &want[1]), (&first, &want[0])] {
            call.update(data).unwrap();
            call.reset_outputs().unwrap();
            stream.launch_graph(&graph).unwrap();
            stream.synchronize().unwrap();
            assert!(call.results().unwrap() == *want, "{}", data.spec);
        }
    }
}
