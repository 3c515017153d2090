//! The same call gives the same bits; batch-invariant plans give a request the same bits in any batch.

use crate::check::compare;
use crate::data::Data;
use crate::decode::{Decode, Results};
use crate::memory::Fence;
use crate::oracle::expected;
use crate::random::Random;
use crate::session::Session;
use crate::spec::Spec;
use flashmla::problem::dense_decode::{Dtype, D_V};
use flashmla::schedule::{pieces_of_tiles, plan_tiles, tiles, Grid};

fn repeat(session: &Session, spec: &Spec, times: usize) {
    let data = Data::new(spec);
    let queue = session.queue().unwrap();
    let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
    let mut first: Option<Results> = None;
    for time in 0..times {
        decode.reset_outputs().unwrap();
        decode.plan_and_run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        let results = decode.results().unwrap();
        match &first {
            None => first = Some(results),
            Some(first) => assert!(results == *first, "call {time} differs from the first\n    case: {spec}"),
        }
    }
    decode.check_inputs(&data).unwrap();
    if let Err(why) = compare(spec, &first.expect("at least one call"), &expected(&data)) {
        panic!("{why}\n    case: {spec}");
    }
}

#[test]
fn split_requests_fifty_times() {
    let session = backend_or_skip!();
    for h_q in [16, 128] {
        repeat(&session, &Spec { h_q, lens: vec![4000, 0, 700, 64], ..Spec::default() }, 50);
    }
}

#[test]
fn every_way_through_twice() {
    let session = backend_or_skip!();
    for dtype in [Dtype::Bf16, Dtype::Fp16] {
        for (d_qk, h_q, page) in [(576, 16, 64), (576, 128, 16), (512, 16, 61), (512, 128, 64)] {
            let lens = vec![200, 0, 64, 65, 1];
            let spec = Spec { dtype, d_qk, h_q, page, s_q: 3, lens, causal: true, ..Spec::default() };
            repeat(&session, &spec, 2);
            repeat(&session, &spec.with_long_table(), 2);
        }
    }
}

/// The bits of one request of a batch.
fn request(spec: &Spec, results: &Results, i: usize) -> (Vec<u16>, Vec<u32>) {
    let rows = (spec.s_q * spec.h_q) as usize;
    let out = results.out[i * rows * D_V as usize..][..rows * D_V as usize].to_vec();
    (out, results.lse[i * rows..][..rows].to_vec())
}

/// A batch twice, against the reference; and parts of it, whose requests get the bits that they have in the whole.
fn invariant_in(session: &Session, spec: &Spec, parts: impl IntoIterator<Item = Vec<usize>>) {
    let data = Data::new(spec);
    let queue = session.queue().unwrap();
    let load = |data: &Data| Decode::new(&session.backend.handle, session.place(), Fence::Guarded, data).unwrap();
    let run = |decode: &Decode| {
        decode.plan_and_run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        decode.results().unwrap()
    };
    let all = load(&data);
    let whole = run(&all);
    if let Err(why) = compare(spec, &whole, &expected(&data)) {
        panic!("{why}\n    case: {spec}");
    }
    assert!(run(&all) == whole, "again: {spec}");
    for requests in parts {
        let mut part = load(&data.subset(&requests));
        part.share_cache(&all);
        let results = run(&part);
        for (at, i) in requests.iter().enumerate() {
            let same = request(spec, &results, at) == request(spec, &whole, *i);
            assert!(same, "request {i} differs in the batch {requests:?}\n    case: {spec}");
        }
    }
}

/// Every request alone, in small batches and in the whole batch, forwards and backwards.
fn invariant_in_any_batch(session: &Session, spec: &Spec) {
    let n = spec.lens.len();
    let mut random = Random::new(spec.seed);
    let mut batches: Vec<Vec<usize>> = (0..n).map(|i| vec![i]).collect();
    batches.push((0..n).rev().collect());
    for size in [2, 3, n / 2, n - 1] {
        let mut order: Vec<usize> = (0..n).collect();
        random.shuffle(&mut order);
        batches.push(order[..size.max(1)].to_vec());
    }
    invariant_in(session, spec, batches);
}

#[test]
fn invariant_requests_have_the_same_bits_in_any_batch() {
    let session = backend_or_skip!();
    let lens = vec![1, 0, 64, 5000, 2048, 2049, 300, 2112, 9000, 4097];
    for (h_q, s_q, dtype, d_qk) in
        [(16, 1, Dtype::Bf16, 576), (64, 1, Dtype::Bf16, 576), (128, 1, Dtype::Fp16, 512), (40, 4, Dtype::Bf16, 512)]
    {
        let spec = Spec { h_q, s_q, dtype, d_qk, lens: lens.clone(), invariant: true, ..Spec::default() };
        invariant_in_any_batch(&session, &spec);
    }
}

#[test]
fn invariant_requests_in_a_batch_larger_than_the_device() {
    let session = backend_or_skip!();
    let mut random = Random::new(3);
    let lens = (0..160).map(|_| (3000.0 * random.unit().powi(4)) as i32).collect();
    for h_q in [8, 65] {
        invariant_in_any_batch(&session, &Spec { h_q, lens: Vec::clone(&lens), invariant: true, ..Spec::default() });
    }
}

/// One request more than partitions, all as long: pieces change hands at nearly every border. The bits are those of a request
/// alone, whose pieces do not.
#[test]
fn invariant_pieces_that_change_hands() {
    let session = gpu_or_skip!();
    let multiprocessors = session.gpu().multiprocessors;
    let base = Spec { invariant: true, ..Spec::default() };
    let specs = [
        Spec { h_q: 16, ..base.clone() },
        Spec { h_q: 13, s_q: 2, causal: true, dtype: Dtype::Fp16, d_qk: 512, ..base.clone() },
        Spec { h_q: 33, ..base.clone() },
        Spec { h_q: 65, dtype: Dtype::Fp16, ..base.clone() },
        Spec { h_q: 34, s_q: 2, causal: true, d_qk: 512, ..base.clone() },
        Spec { h_q: 36, h_kv: 3, s_q: 2, page: 16, ..base },
    ];
    for spec in specs {
        let len = if spec.s_q * spec.h_q / spec.h_kv <= 32 { 640 } else { 1280 };
        let partitions = Grid::new(&spec.shape(), multiprocessors).partitions;
        let spec = Spec { lens: vec![len; partitions as usize + 1], ..spec };
        let shape = spec.shape();
        let tiles: Vec<i64> = spec.lens.iter().map(|len| tiles(&shape, *len)).collect();
        let pieces = pieces_of_tiles(&shape, partitions, &plan_tiles(&shape, partitions, &tiles), &tiles);
        let handed_over = pieces.iter().filter(|piece| piece.suspends).count() as i64;
        assert!(handed_over > partitions / 2, "{handed_over} of {partitions}: {spec}");

        let n = spec.lens.len();
        let alone = [0, 1, n / 3, n / 2, n - 2, n - 1].map(|i| vec![i]);
        invariant_in(&session, &spec, alone.into_iter().chain([(0..n / 2).rev().collect()]));
    }
}
