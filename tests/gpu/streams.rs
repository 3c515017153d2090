//! Any stream of any context of the device, and many threads at once.

use crate::check::{compare, run_only};
use crate::data::Data;
use crate::decode::{Decode, Results};
use crate::memory::{Fence, Place};
use crate::oracle::expected;
use crate::session::Session;
use crate::spec::Spec;
use flashmla::capi::types::cudaStream_t;
use flashmla::problem::dense_decode::Dtype;

/// A case that is split, so that all three kernels run.
fn split_case() -> Spec {
    Spec { h_q: 128, lens: vec![1500, 0, 300], ..Spec::default() }
}

/// The bits that the case gives on a stream of the primary context, which the reference confirms.
fn known(session: &Session, data: &Data) -> Results {
    let results = run_only(session, &session.queue().unwrap(), Fence::Guarded, data).unwrap();
    if let Err(why) = compare(&data.spec, &results, &expected(data)) {
        panic!("{why}\n    case: {}", data.spec);
    }
    results
}

/// What the calling thread's current context is.
enum Current {
    None,
    Primary,
    Other,
}

/// Runs a case on a special stream handle, on a thread of its own with the given context current.
fn on_handle(session: &Session, handle: usize, current: Current) {
    let data = Data::new(&split_case());
    let want = known(session, &data);
    let gpu = session.gpu();
    let other = gpu.device.new_context().unwrap();
    let got = std::thread::scope(|scope| {
        let run = || {
            let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
            match current {
                Current::None => gpu.context.clear_current().unwrap(),
                Current::Primary => gpu.context.set_current().unwrap(),
                Current::Other => other.set_current().unwrap(),
            }
            let called = decode.plan_and_run(handle as cudaStream_t);
            // Waits for every stream of the context, these included.
            gpu.context.synchronize().unwrap();
            gpu.context.clear_current().unwrap();
            called.unwrap();
            decode.results().unwrap()
        };
        scope.spawn(run).join().expect("the thread's own checks")
    });
    assert!(got == want, "{}", data.spec);
}

#[test]
fn null_stream() {
    let session = gpu_or_skip!();
    on_handle(&session, 0, Current::Primary);
}

#[test]
fn null_stream_without_a_current_context() {
    let session = gpu_or_skip!();
    on_handle(&session, 0, Current::None);
}

#[test]
fn null_stream_while_another_context_is_current() {
    let session = gpu_or_skip!();
    on_handle(&session, 0, Current::Other);
}

#[test]
fn legacy_stream() {
    let session = gpu_or_skip!();
    on_handle(&session, 1, Current::None);
}

#[test]
fn per_thread_stream() {
    let session = gpu_or_skip!();
    on_handle(&session, 2, Current::None);
}

#[test]
fn created_stream_without_a_current_context() {
    let session = gpu_or_skip!();
    let stream = session.gpu().context.stream().unwrap();
    on_handle(&session, stream.as_ptr() as usize, Current::None);
}

#[test]
fn created_stream_while_another_context_is_current() {
    let session = gpu_or_skip!();
    let stream = session.gpu().context.stream().unwrap();
    on_handle(&session, stream.as_ptr() as usize, Current::Other);
}

#[test]
fn stream_and_memory_of_another_context() {
    let session = gpu_or_skip!();
    for spec in [split_case(), Spec { dtype: Dtype::Fp16, d_qk: 512, invariant: true, ..Spec::default() }] {
        let data = Data::new(&spec);
        let want = known(&session, &data);
        let other = session.gpu().device.new_context().unwrap();
        let decode = Decode::new(&session.backend.handle, Place::Device(&other), Fence::Guarded, &data).unwrap();
        let stream = other.stream().unwrap();
        session.gpu().context.clear_current().unwrap();
        decode.plan_and_run(stream.as_ptr().cast()).unwrap();
        stream.synchronize().unwrap();
        assert!(decode.results().unwrap() == want, "{spec}");
    }
}

#[test]
fn results_do_not_depend_on_calls_before_on_other_streams() {
    let session = gpu_or_skip!();
    let data = Data::new(&split_case());
    let want = known(&session, &data);
    let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
    let created = session.gpu().context.stream().unwrap();
    for handle in [0, 1, 2, created.as_ptr() as usize, 2, 0] {
        decode.reset_outputs().unwrap();
        decode.plan_and_run(handle as cudaStream_t).unwrap();
        session.gpu().context.synchronize().unwrap();
        assert!(decode.results().unwrap() == want, "stream {handle:#x}");
    }
}

const THREADS: usize = 16;
const STREAMS: usize = 8;

#[test]
fn sixteen_threads_with_eight_streams_each() {
    let session = gpu_or_skip!();
    let base = Spec { s_q: 2, causal: true, ..Spec::default() };
    let specs = [
        Spec { h_q: 16, lens: vec![900, 0, 64], ..base.clone() },
        Spec { h_q: 64, lens: vec![700, 1], ..base.clone() },
        Spec { h_q: 64, dtype: Dtype::Fp16, lens: vec![2200, 100], invariant: true, ..base.clone() },
        Spec { h_q: 8, d_qk: 512, page: 16, lens: (0..140).collect(), ..base.clone() },
        Spec { h_q: 128, dtype: Dtype::Fp16, d_qk: 512, lens: vec![65, 129, 30], ..base },
    ];
    let cases: Vec<(Data, Results)> = specs
        .iter()
        .map(|spec| {
            let data = Data::new(spec);
            let want = known(&session, &data);
            (data, want)
        })
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (session, cases) = (&session, &cases);
            scope.spawn(move || {
                let context = &session.gpu().context;
                let work: Vec<_> = (0..STREAMS)
                    .map(|i| {
                        let case = &cases[(thread + i) % cases.len()];
                        let decode =
                            Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &case.0).unwrap();
                        (case, decode, context.stream().unwrap())
                    })
                    .collect();
                for round in 0..4 {
                    for (_, decode, stream) in &work {
                        decode.plan_and_run(stream.as_ptr().cast()).unwrap();
                    }
                    for (case, decode, stream) in &work {
                        stream.synchronize().unwrap();
                        let same = decode.results().unwrap() == case.1;
                        assert!(same, "thread {thread}, round {round}\n    case: {}", case.0.spec);
                        decode.reset_outputs().unwrap();
                    }
                }
            });
        }
    });
}
