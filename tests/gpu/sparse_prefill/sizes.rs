//! The ends of the scale: nothing at all, and more than 32 bits can count.

use super::call::{query, sizes_of, workspace_size, Call, Results};
use super::check::{check_all, compare};
use super::data::Data;
use super::oracle::expected;
use super::spec::Spec;
use crate::check::report;
use crate::decode::{input, output};
use crate::memory::{Fence, Region};
use crate::session::Session;
use flashmla::problem::sparse_prefill::D_V;

fn confirm(session: &Session, data: &Data, results: &Results) {
    match compare(&data.spec, results, &expected(data)) {
        Ok(margin) => report(session.name, 1, margin),
        Err(why) => panic!("{why}\n    case: {}", data.spec),
    }
}

#[test]
fn nothing_at_all() {
    let session = session_or_skip!(Any);
    let mut specs = Vec::new();
    for (d_qk, h_q, lse_pos_inf) in [(576, 128, false), (512, 64, true), (576, 1, true)] {
        let base = Spec { d_qk, h_q, lse_pos_inf, s_q: 7, sinks: Some(vec![0.5]), ..Spec::default() };
        specs.push(Spec { s_q: 0, ..base.clone() });
        specs.push(Spec { topk: 0, ..base.clone() });
        specs.push(Spec { s_kv: 0, ..base.clone() });
        specs.push(Spec { s_kv: 0, topk: 0, ..base.clone() });
        specs.push(Spec { s_q: 0, s_kv: 0, topk: 0, ..base.clone() });
        specs.push(Spec { lengths: Some(vec![0]), ..base });
    }
    check_all(&session, specs);
}

/// 700 copies of 100 query tokens: each copy must give the bits of the first.
#[test]
fn query_of_70000_tokens() {
    let session = session_or_skip!(Any);
    const COPIES: usize = 700;
    for (d_qk, h_q) in [(576, 1), (512, 2)] {
        let lengths = Some(vec![5, 0, 3, 4, 1]);
        let data = Data::new(&Spec { d_qk, h_q, lengths, s_q: 100, topk: 5, empty_every: 9, ..Spec::default() });
        let mut all = data.clone();
        all.spec.s_q *= COPIES as i64;
        all.places = super::data::Places::new(&all.spec);
        all.q = data.q.repeat(COPIES);
        all.indices = data.indices.repeat(COPIES);
        all.lengths = data.lengths.repeat(COPIES);
        assert_eq!((all.spec.s_q, all.q.len()), (70_000, all.places.q.extent()));
        let queue = session.queue().unwrap();
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &all).unwrap();
        call.run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        let results = call.results().unwrap();
        let (out, logs) = (100 * (h_q * D_V) as usize, 100 * h_q as usize);
        let part = |copy: usize| Results {
            out: results.out[copy * out..][..out].to_vec(),
            max_logits: results.max_logits[copy * logs..][..logs].to_vec(),
            lse: results.lse[copy * logs..][..logs].to_vec(),
        };
        let first = part(0);
        confirm(&session, &data, &first);
        for copy in 1..COPIES {
            assert!(part(copy) == first, "tokens {} .. +100 differ from the first 100", copy * 100);
        }
    }
}

/// The rows in use are the last ones of a KV of more than 2^31 elements and 2^32 bytes. (On the host, memory
/// that nobody touches costs nothing.)
#[test]
fn kv_past_32_bits() {
    let session = session_or_skip!(Alone);
    for (d_qk, h_q) in [(576, 128), (512, 16)] {
        let data = Data::new(&Spec { d_qk, h_q, s_q: 3, ..Spec::default() });
        let s_kv = (1i64 << 32) / (d_qk * 2) + 1000;
        let bytes = (s_kv * d_qk * 2) as usize;
        let first = s_kv - data.spec.s_kv;
        assert!(first * d_qk > i32::MAX as i64 && bytes > u32::MAX as usize);
        if session.backend.gpu.is_some() && !session.has_memory(bytes * 5 / 4) {
            return;
        }
        let kv = Region::new(session.place(), Fence::Exact, bytes, 0).unwrap();
        kv.write((first * d_qk * 2) as usize, &data.kv).unwrap();
        let mut moved = data.clone();
        moved.kv.clear();
        for t in 0..data.spec.s_q {
            for j in 0..data.spec.topk {
                let index = &mut moved.indices[data.places.indices.at([t, 0, j])];
                *index = match *index as i64 {
                    row if (0..data.spec.s_kv).contains(&row) => (first + row) as i32,
                    _ => *index | i32::MIN,
                };
            }
        }
        // The call takes everything but the KV from the moved case.
        let mut call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &moved).unwrap();
        call.params.kv = input(kv.addr(), [0; 4]);
        call.params.s_kv = s_kv;
        let queue = session.queue().unwrap();
        call.run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        confirm(&session, &data, &call.results().unwrap());
    }
}

/// Every tensor has a stride that takes it past 2^31 elements or 2^32 bytes.
#[test]
fn strides_past_32_bits() {
    let session = session_or_skip!(Alone);
    const HALVES: i64 = 1 << 31;
    const WORDS: i64 = 1 << 30;
    // Three rows, so that the last lies past 2^31 elements.
    const KV_ROWS: i64 = 1_100_000_000;
    if session.backend.gpu.is_some() && !session.has_memory(32 << 30) {
        return;
    }
    for (d_qk, h_q) in [(576, 128), (512, 16)] {
        let data = Data::new(&Spec { d_qk, h_q, s_kv: 3, topk: 70, lengths: Some(vec![70, 33]), ..Spec::default() });
        let mut far = data.places.clone();
        far.q.strides[0] = HALVES;
        far.kv.strides[0] = KV_ROWS;
        far.indices.strides[0] = WORDS;
        far.lengths.strides[0] = WORDS;
        far.out.strides[0] = HALVES;
        far.max_logits.strides[0] = WORDS;
        far.lse.strides[0] = WORDS;
        let place = session.place();
        let region = |bytes: usize| Region::new(place, Fence::Exact, bytes, 0).unwrap();
        let (q, kv) = (region(far.q.extent() * 2), region(far.kv.extent() * 2));
        let (indices, lengths) = (region(far.indices.extent() * 4), region(far.lengths.extent() * 4));
        let sinks = Region::with(place, Fence::Exact, &data.sinks, 0).unwrap();
        for t in 0..2 {
            let row = &data.q[data.places.q.at([t, 0, 0])..][..(h_q * d_qk) as usize];
            q.write(far.q.at([t, 0, 0]) * 2, row).unwrap();
            let row = &data.indices[data.places.indices.at([t, 0, 0])..][..70];
            indices.write(far.indices.at([t, 0, 0]) * 4, row).unwrap();
            lengths.write(far.lengths.at([t]) * 4, &data.lengths[t as usize..][..1]).unwrap();
        }
        for row in 0..3 {
            let bits = &data.kv[data.places.kv.at([row, 0, 0])..][..d_qk as usize];
            kv.write(far.kv.at([row, 0, 0]) * 2, bits).unwrap();
        }
        let (out, max_logits) = (region(far.out.extent() * 2), region(far.max_logits.extent() * 4));
        let lse = region(far.lse.extent() * 4);
        let mut call = Call::new(&session.backend.handle, place, Fence::Guarded, &data).unwrap();
        let given = |strides: &[i64]| std::array::from_fn(|i| strides.get(i).copied().unwrap_or(0));
        call.params.q = input(q.addr(), given(&far.q.strides));
        call.params.kv = input(kv.addr(), given(&far.kv.strides));
        call.params.indices = input(indices.addr(), given(&far.indices.strides));
        call.params.topk_length = input(lengths.addr(), given(&far.lengths.strides));
        call.params.attn_sink = input(sinks.addr(), [0; 4]);
        call.params.out = output(out.addr(), given(&far.out.strides));
        call.params.max_logits = output(max_logits.addr(), given(&far.max_logits.strides));
        call.params.lse = output(lse.addr(), given(&far.lse.strides));
        let queue = session.queue().unwrap();
        call.run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        // The near ones are not written.
        let near = call.results().unwrap();
        assert!(near.out.iter().all(|bits| *bits == 0xffff) && near.lse.iter().all(|bits| *bits == u32::MAX));
        let mut results = Results { out: Vec::new(), max_logits: Vec::new(), lse: Vec::new() };
        for t in 0..2 {
            let columns = (h_q * D_V) as usize;
            results.out.extend(out.read_at::<u16>(far.out.at([t, 0, 0]) * 2, columns).unwrap());
            for (to, from, at) in [
                (&mut results.max_logits, &max_logits, far.max_logits.at([t, 0])),
                (&mut results.lse, &lse, far.lse.at([t, 0])),
            ] {
                to.extend(from.read_at::<u32>(at * 4, h_q as usize).unwrap());
            }
        }
        confirm(&session, &data, &results);
    }
}

/// Sizes that no machine has memory for get an answer.
#[test]
fn queries_of_the_largest_sizes() {
    let session = session_or_skip!(Any);
    let handle = &session.backend.handle;
    let most = i32::MAX as i64;
    for spec in [
        Spec { s_q: most, h_q: 128, topk: 2048, s_kv: most, ..Spec::default() },
        Spec { s_q: 1, h_q: most, topk: most, ..Spec::default() },
        Spec { s_q: most, h_q: most, topk: most, s_kv: most, d_qk: 512, ..Spec::default() },
    ] {
        query(handle, &sizes_of(&spec)).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
        workspace_size(handle, &sizes_of(&spec)).unwrap_or_else(|e| panic!("{e:?}: {spec}"));
    }
}

/// What is asked for the maxima suffices for less.
#[test]
fn workspaces_are_monotone() {
    let session = session_or_skip!(Any);
    let size = |s_q, s_kv, topk, h_q| {
        let spec = Spec { s_q, s_kv, topk, h_q, ..Spec::default() };
        workspace_size(&session.backend.handle, &sizes_of(&spec)).unwrap()
    };
    for h_q in [1, 16, 64, 65, 128] {
        let most = size(5000, 65536, 4096, h_q);
        for s_q in [0, 1, 2, 33, 66, 131, 132, 133, 500, 5000] {
            for (s_kv, topk) in [(0, 0), (1, 4096), (65536, 1), (65536, 64), (300, 2048), (65536, 4096)] {
                assert!(size(s_q, s_kv, topk, h_q) <= most, "s_q {s_q} s_kv {s_kv} topk {topk} h_q {h_q}");
            }
        }
    }
}
