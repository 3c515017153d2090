//! Captured into a CUDA graph: no call that a capture forbids, and the same bits as without one.

use crate::check::{compare, run_only};
use crate::cuda::{CaptureMode, GraphExec, Stream};
use crate::data::Data;
use crate::decode::{Decode, Results};
use crate::memory::Fence;
use crate::oracle::expected;
use crate::session::{Queue, Session};
use crate::spec::Spec;

/// One for each way through the library: one row block and two, whole requests alone, split
/// ones, batch-invariant plans whose pieces stay in one hand and not.
fn cases() -> Vec<Spec> {
    let base = Spec { s_q: 2, causal: true, ..Spec::default() };
    vec![
        Spec { h_q: 16, lens: vec![3000, 0, 1, 640], ..base.clone() },
        Spec { h_q: 64, lens: vec![2000, 100, 64, 0], ..base.clone() },
        Spec { h_q: 16, lens: vec![60, 0, 1, 64], ..base.clone() },
        Spec { h_q: 64, lens: vec![3000, 0, 1, 640], invariant: true, ..base.clone() },
        // One more than there are multiprocessors: pieces change hands.
        Spec { h_q: 4, lens: vec![640; 133], invariant: true, ..base },
    ]
}

/// The same sizes with other lengths, pages and values: what a later decode step brings.
fn later(spec: &Spec) -> Spec {
    let mut spec = Spec { columns: Some(spec.columns()), seed: spec.seed + 1, ..spec.clone() };
    let pages = spec.num_blocks();
    spec.lens.rotate_left(1);
    spec.lens[0] += 1;
    // As many pages in all, so that the cache keeps its size.
    spec.spare_pages += pages - spec.num_blocks();
    assert!(spec.spare_pages >= 0 && spec.num_blocks() == pages, "{spec}");
    spec
}

fn eager(session: &Session, data: &Data) -> Results {
    run_only(session, &session.queue().unwrap(), Fence::Guarded, data).unwrap()
}

fn load(session: &Session, data: &Data) -> Decode<'static> {
    Decode::new(&session.backend.handle, session.place(), Fence::Guarded, data).unwrap()
}

fn update(decode: &Decode, data: &Data) {
    decode.q.write(0, &data.q).unwrap();
    decode.kv.write(0, &data.kv).unwrap();
    decode.table.write(0, &data.table).unwrap();
    decode.lens.write(0, &data.lens).unwrap();
}

fn capture(stream: &Stream, mode: CaptureMode, decode: &Decode) -> GraphExec {
    stream.capture_in(mode, |stream| Ok(decode.plan_and_run(stream.as_ptr().cast())?)).unwrap()
}

fn replay(stream: &Stream, graph: &GraphExec, decode: &Decode) -> Results {
    decode.reset_outputs().unwrap();
    stream.launch_graph(graph).unwrap();
    stream.synchronize().unwrap();
    decode.results().unwrap()
}

fn captured_equals_eager(session: &Session, mode: CaptureMode) {
    for spec in cases() {
        let data = Data::new(&spec);
        let want = eager(session, &data);
        let decode = load(session, &data);
        let stream = session.gpu().context.stream().unwrap();
        let graph = capture(&stream, mode, &decode);
        for round in 0..3 {
            assert_eq!(replay(&stream, &graph, &decode), want, "replay {round} of {spec}");
        }
    }
}

#[test]
fn captured_by_thread_equals_eager() {
    let session = gpu_or_skip!();
    captured_equals_eager(&session, CaptureMode::ThreadLocal);
}

/// The strictest mode: a call that is not allowed in any thread fails the capture.
#[test]
fn captured_globally_equals_eager() {
    let session = gpu_alone_or_skip!();
    captured_equals_eager(&session, CaptureMode::Global);
}

/// Even the first use of a kernel in the process may happen inside a capture. (Alone in its
/// process this test is the first use.)
#[test]
fn captured_before_any_eager_call() {
    let session = gpu_alone_or_skip!();
    for spec in cases() {
        let data = Data::new(&spec);
        let decode = load(&session, &data);
        let stream = session.gpu().context.stream().unwrap();
        let graph = capture(&stream, CaptureMode::Global, &decode);
        let results = replay(&stream, &graph, &decode);
        if let Err(why) = compare(&spec, &results, &expected(&data)) {
            panic!("{why}\n    case: {spec}");
        }
    }
}

#[test]
fn replayed_after_lengths_tables_and_values_changed() {
    let session = gpu_or_skip!();
    for spec in cases() {
        let spec = Spec { columns: Some(spec.columns()), spare_pages: 4, ..spec };
        let (data, next) = (Data::new(&spec), Data::new(&later(&spec)));
        let decode = load(&session, &data);
        let stream = session.gpu().context.stream().unwrap();
        let graph = capture(&stream, CaptureMode::ThreadLocal, &decode);
        assert_eq!(replay(&stream, &graph, &decode), eager(&session, &data), "{spec}");
        update(&decode, &next);
        let results = replay(&stream, &graph, &decode);
        assert_eq!(results, eager(&session, &next), "{}", next.spec);
        if let Err(why) = compare(&next.spec, &results, &expected(&next)) {
            panic!("{why}\n    case: {}", next.spec);
        }
        // And back: nothing of the step between is left.
        update(&decode, &data);
        assert_eq!(replay(&stream, &graph, &decode), eager(&session, &data), "{spec}");
    }
}

/// As an engine does it: one plan, several layers.
#[test]
fn one_plan_serves_several_layers_of_a_graph() {
    let session = gpu_or_skip!();
    for spec in cases() {
        let layers: Vec<Data> = (0..3)
            .map(|i| Data::new(&Spec { seed: spec.seed + i, columns: Some(spec.columns()), ..spec.clone() }))
            .collect();
        let mut decodes: Vec<Decode> = layers.iter().map(|data| load(&session, data)).collect();
        let (first, rest) = decodes.split_first_mut().expect("three layers");
        let stream = session.gpu().context.stream().unwrap();
        // The plan's record is host memory that the plan call writes: make it before it is copied.
        let graph = stream
            .capture_in(CaptureMode::ThreadLocal, |stream| {
                let raw = stream.as_ptr().cast();
                first.make_plan(raw)?;
                first.run(raw)?;
                for decode in rest.iter_mut() {
                    decode.params.plan = first.params.plan;
                    decode.run(raw)?;
                }
                Ok(())
            })
            .unwrap();
        for _ in 0..2 {
            for decode in &decodes {
                decode.reset_outputs().unwrap();
            }
            stream.launch_graph(&graph).unwrap();
            stream.synchronize().unwrap();
            for (decode, data) in decodes.iter().zip(&layers) {
                assert_eq!(decode.results().unwrap(), eager(&session, data), "{}", data.spec);
            }
        }
    }
}

/// Work before and after in the same stream: replays follow one another without a gap.
#[test]
fn replays_back_to_back() {
    let session = gpu_or_skip!();
    for spec in cases() {
        let data = Data::new(&spec);
        let want = eager(&session, &data);
        let decode = load(&session, &data);
        let Queue::Stream(stream) = session.queue().unwrap() else { unreachable!("a GPU has streams") };
        let graph = capture(&stream, CaptureMode::ThreadLocal, &decode);
        for _ in 0..200 {
            stream.launch_graph(&graph).unwrap();
        }
        stream.synchronize().unwrap();
        assert_eq!(decode.results().unwrap(), want, "{spec}");
    }
}
