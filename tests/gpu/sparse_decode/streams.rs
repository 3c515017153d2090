//! One context, threads and streams of their own: the bits are those of a call alone.

use super::call::Call;
use super::check::run_only;
use super::data::Data;
use super::spec::{Extra, Spec};
use crate::memory::Fence;
use flashmla::problem::layout::Layout;

#[test]
fn threads_with_streams_of_their_own() {
    let session = sparse_or_skip!(Any);
    let specs: Vec<Spec> = (0..8)
        .map(|i| Spec {
            layout: if i % 2 == 0 { Layout::V32 } else { Layout::V4 },
            h_q: [16, 64, 128, 5][i % 4],
            b: 1 + i as i64,
            topk: [2000, 130, 64, 700][i / 2],
            extra: (i % 3 == 0).then_some(Extra { page: 2, s_k: 100, topk: 70, lengths: Some(vec![70, 1]) }),
            seed: i as u64,
            ..Spec::default()
        })
        .collect();
    std::thread::scope(|scope| {
        for spec in &specs {
            let session = &session;
            scope.spawn(move || {
                let data = Data::new(spec);
                let queue = session.queue().unwrap();
                let want = run_only(session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{e}: {spec}"));
                let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
                // The CPU backend is slow, and its calls are alone anyway.
                for time in 0..if session.backend.gpu.is_some() { 50 } else { 2 } {
                    call.reset_outputs().unwrap();
                    call.plan_and_run(queue.raw()).unwrap();
                    queue.synchronize().unwrap();
                    assert!(call.results().unwrap() == want, "call {time}: {spec}");
                }
            });
        }
    });
}
