//! The ends of the scale: nothing at all, and more than 32 bits can count.

use super::call::{plan_size, query, sizes_of, workspace_size, Call, Results};
use super::check::{check_all, compare};
use super::data::Data;
use super::oracle::expected;
use super::spec::{Extra, Spec};
use crate::check::report;
use crate::decode::input;
use crate::memory::{Fence, Region};
use crate::session::Session;
use flashmla::problem::layout::Layout;

fn confirm(session: &Session, data: &Data, results: &Results) {
    match compare(&data.spec, results, &expected(data)) {
        Ok(margin) => report(session.name, 1, margin),
        Err(why) => panic!("{why}\n    case: {}", data.spec),
    }
}

#[test]
fn nothing_at_all() {
    let session = sparse_or_skip!(Any);
    let mut specs = Vec::new();
    for (layout, h_q, lse_pos_inf) in [(Layout::V32, 128, false), (Layout::V4, 64, true), (Layout::V32, 1, true)] {
        let base = Spec { layout, h_q, lse_pos_inf, b: 3, sinks: Some(vec![0.5]), ..Spec::default() };
        let nothing = Some(Extra { page: 64, s_k: 0, topk: 0, lengths: None });
        specs.push(Spec { b: 0, ..base.clone() });
        specs.push(Spec { s_q: 0, ..base.clone() });
        specs.push(Spec { topk: 0, ..base.clone() });
        specs.push(Spec { s_k: 0, ..base.clone() });
        specs.push(Spec { s_k: 0, topk: 0, extra: nothing.clone(), ..base.clone() });
        specs.push(Spec { extra: nothing, ..base.clone() });
        specs.push(Spec { lengths: Some(vec![0]), ..base });
    }
    check_all(&session, specs);
}

/// The tokens in use are the last ones of a cache of more than 2^32 bytes. (On the host, memory that nobody
/// touches costs nothing.)
#[test]
fn cache_past_32_bits() {
    let session = sparse_or_skip!(Alone);
    for (layout, h_q) in [(Layout::V32, 128), (Layout::V4, 16)] {
        let data = Data::new(&Spec { layout, h_q, ..Spec::default() });
        let pages = (1i64 << 32) / data.cache.page_stride + 100;
        let bytes = (pages * data.cache.page_stride) as usize;
        let first = pages - data.cache.num_blocks;
        assert!(first * data.cache.page_stride > u32::MAX as i64);
        if session.backend.gpu.is_some() && !session.has_memory(bytes * 5 / 4) {
            return;
        }
        let kv = Region::new(session.place(), Fence::Exact, bytes, 0).unwrap();
        kv.write((first * data.cache.page_stride) as usize, &data.cache.bytes).unwrap();
        let mut moved = data.clone();
        for index in &mut moved.cache.indices {
            *index = match *index as i64 {
                token if (0..data.cache.tokens()).contains(&token) => (first * data.cache.page + token) as i32,
                _ => *index | i32::MIN,
            };
        }
        let mut call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &moved).unwrap();
        call.params.kv_cache = input(kv.addr(), data.cache.strides());
        call.params.num_blocks = pages;
        let queue = session.queue().unwrap();
        call.plan_and_run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        confirm(&session, &data, &call.results().unwrap());
    }
}

/// 65537 requests: each gives the bits of one of the first hundred.
#[test]
fn many_requests() {
    let session = sparse_or_skip!(Any);
    const COPIES: usize = 656;
    let spec = Spec { h_q: 2, s_q: 1, b: 100, topk: 5, lengths: Some(vec![5, 0, 3, 4, 1]), ..Spec::default() };
    let data = Data::new(&spec);
    let mut all = Data::new(&Spec { b: 100 * COPIES as i64, lengths: None, topk: 0, ..spec.clone() });
    all.spec = Spec { b: all.spec.b, ..spec };
    all.q = data.q.repeat(COPIES);
    let b = all.spec.b;
    let mut cache = data.cache.clone();
    cache.indices = data.cache.indices.repeat(COPIES);
    cache.lengths = data.cache.lengths.repeat(COPIES);
    cache.indices_place.shape[0] = b;
    cache.lengths_place.shape[0] = b;
    all.cache = cache;
    let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &all).unwrap();
    let queue = session.queue().unwrap();
    call.plan_and_run(queue.raw()).unwrap();
    queue.synchronize().unwrap();
    let results = call.results().unwrap();
    let (out, lse) = (results.out.len() / COPIES, results.lse.len() / COPIES);
    let part =
        |i: usize| Results { out: results.out[i * out..][..out].to_vec(), lse: results.lse[i * lse..][..lse].to_vec() };
    let first = part(0);
    confirm(&session, &data, &first);
    for copy in 1..COPIES {
        assert!(part(copy) == first, "requests {} .. +100 differ from the first 100", copy * 100);
    }
}

/// Sizes that no machine has memory for get an answer.
#[test]
fn queries_of_the_largest_sizes() {
    let session = sparse_or_skip!(Any);
    let handle = &session.backend.handle;
    let most = i32::MAX as i64;
    for spec in [
        Spec { b: 1 << 20, s_q: 1, h_q: 128, topk: 2048, page: 64, s_k: most * 64 - 64, ..Spec::default() },
        Spec { b: 1, s_q: 1, h_q: most, topk: most - 128, ..Spec::default() },
        Spec { b: most, s_q: 1, h_q: 1, topk: most - 128, page: most, layout: Layout::V4, ..Spec::default() },
    ] {
        let params = sizes_of(&spec);
        query(handle, &params).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
        workspace_size(handle, &params).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
        plan_size(handle, &params).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
    }
}
