//! The ends of the scale: nothing at all, and more than 32 bits can count.

use crate::check::{compare, report, run_case, Margin};
use crate::data::{decode, Data, Strided};
use crate::decode::{input, output, plan_size, sizes_of, workspace_size, Decode, Results};
use crate::memory::{Fence, Region, UNTOUCHED};
use crate::oracle::{expected, rows, Expected};
use crate::session::{outcome, Session};
use crate::spec::Spec;
use flashmla::capi::dense_decode::*;
use flashmla::capi::types::flashmla_plan_t;
use flashmla::problem::dense_decode::D_V;
use std::ffi::c_void;
use std::mem::size_of;

fn check(session: &Session, data: &Data) {
    if let Err(why) = run_case(session, &session.queue().unwrap(), Fence::Guarded, data) {
        panic!("{why}\n    case: {}", data.spec);
    }
}

#[test]
fn no_requests() {
    let session = backend_or_skip!();
    check(&session, &Data::new(&Spec { lens: vec![], ..Spec::default() }));
    check(&session, &Data::new(&Spec { lens: vec![], invariant: true, h_q: 128, ..Spec::default() }));
}

#[test]
fn no_query_tokens() {
    let session = backend_or_skip!();
    check(&session, &Data::new(&Spec { s_q: 0, lens: vec![100, 0], ..Spec::default() }));
}

#[test]
fn no_pages() {
    let session = backend_or_skip!();
    for lse_pos_inf in [false, true] {
        let mut data = Data::new(&Spec { lens: vec![0; 3], spare_pages: 0, lse_pos_inf, ..Spec::default() });
        assert_eq!((data.num_blocks, data.kv.len()), (0, 0));
        check(&session, &data);
        // Lengths that no page can hold.
        data.lens = vec![100, i32::MAX, -1];
        check(&session, &data);
    }
}

#[test]
fn no_block_table_columns() {
    let session = backend_or_skip!();
    for lse_pos_inf in [false, true] {
        check(&session, &Data::new(&Spec { columns: Some(0), lens: vec![100, 0], lse_pos_inf, ..Spec::default() }));
    }
}

#[test]
fn no_tokens() {
    let session = backend_or_skip!();
    for (h_q, s_q, lse_pos_inf, invariant) in [(1, 1, false, false), (128, 3, true, false), (16, 2, true, true)] {
        let spec = Spec { h_q, s_q, lse_pos_inf, invariant, lens: vec![0; 200], columns: Some(50), ..Spec::default() };
        check(&session, &Data::new(&spec));
    }
}

/// Plans and runs with memory for plan and workspace of its own.
fn plan_and_run(session: &Session, mut params: flashmla_dense_decode_params_t) -> Result<(), String> {
    let handle = &session.backend.handle;
    let plan_bytes = plan_size(handle, &params)?;
    let plan = Region::new(session.place(), Fence::Guarded, plan_bytes, 0)?;
    let workspace = Region::new(session.place(), Fence::Guarded, workspace_size(handle, &params)?, 0)?;
    let mut record = flashmla_plan_t {
        struct_size: size_of::<flashmla_plan_t>(),
        data: plan.addr() as *mut c_void,
        size: plan_bytes,
        fingerprint: 0,
    };
    params.plan = &mut record;
    params.workspace = workspace.addr() as *mut c_void;
    params.workspace_size = workspace.bytes();
    let queue = session.queue()?;
    // SAFETY: the callers' tensors have the sizes in the parameters.
    outcome(unsafe { flashmla_dense_decode_plan(handle.0, &params, queue.raw()) })?;
    // SAFETY: as above.
    outcome(unsafe { flashmla_dense_decode(handle.0, &params, queue.raw()) })?;
    queue.synchronize()?;
    plan.check_guards("plan")?;
    workspace.check_guards("workspace")
}

/// Compares and prints the margin.
fn confirm(session: &Session, data: &Data, results: &Results) {
    match compare(&data.spec, results, &expected(data)) {
        Ok(margin) => report(session.name, 1, margin),
        Err(why) => panic!("{why}\n    case: {}", data.spec),
    }
}

/// 1024 copies of a batch of 64 requests: each copy must give the bits of the first.
#[test]
fn batch_of_65536() {
    let session = gpu_alone_or_skip!();
    const COPIES: usize = 1024;
    let lens = (0..64).map(|i| [0, 1, 5, 70, 64, 2, 3, 9][i % 8] + (i / 8) as i32 % 2).collect();
    let data = Data::new(&Spec { lens, ..Spec::default() });
    let out_bytes = data.out_place.extent() * 2;
    if !session.has_memory((data.q.len() * 2 + out_bytes) * COPIES * 5 / 4) {
        return;
    }
    let (place, fence) = (session.place(), Fence::Guarded);
    let q = Region::new(place, fence, data.q.len() * 2 * COPIES, 0).unwrap();
    q.write(0, &data.q).unwrap();
    q.repeat(&session.queue().unwrap(), data.q.len() * 2).unwrap();
    let kv = Region::with(place, fence, &data.kv, 0).unwrap();
    let table = Region::with(place, fence, &data.table.repeat(COPIES), 0).unwrap();
    let lens = Region::with(place, fence, &data.lens.repeat(COPIES), 0).unwrap();
    let out = Region::new(place, fence, out_bytes * COPIES, 0).unwrap();
    let lse = Region::new(place, fence, data.lse_place.extent() * 4 * COPIES, 0).unwrap();
    let mut params = sizes_of(&data);
    params.b *= COPIES as i64;
    assert_eq!(params.b, 65536);
    params.q = input(q.addr(), [0; 4]);
    params.kv_cache = input(kv.addr(), [0; 4]);
    params.block_table = input(table.addr(), [0; 4]);
    params.cache_seqlens = input(lens.addr(), [0; 4]);
    params.out = output(out.addr(), [0; 4]);
    params.lse = output(lse.addr(), [0; 4]);
    plan_and_run(&session, params).unwrap();
    out.check_guards("out").unwrap();
    lse.check_guards("lse").unwrap();
    let (all_out, all_lse) = (out.read::<u16>().unwrap(), lse.read::<u32>().unwrap());
    let first = Results { out: all_out[..out_bytes / 2].to_vec(), lse: all_lse[..data.lse_place.extent()].to_vec() };
    confirm(&session, &data, &first);
    for (copy, out) in all_out.chunks(out_bytes / 2).enumerate() {
        assert!(out == first.out, "out of requests {} .. +64 differs from that of the first 64", copy * 64);
    }
    for (copy, lse) in all_lse.chunks(first.lse.len()).enumerate() {
        assert!(lse == first.lse, "lse of requests {} .. +64 differs from that of the first 64", copy * 64);
    }
}

/// The reference on a sample of the tokens.
#[test]
fn query_of_70000_tokens() {
    let session = gpu_alone_or_skip!();
    // The second request is shorter than its query: most tokens see nothing.
    let spec = Spec { h_q: 1, s_q: 70_000, lens: vec![70_003, 500], causal: true, ..Spec::default() };
    let data = Data::new(&spec);
    let queue = session.queue().unwrap();
    let decode_call = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
    decode_call.plan_and_run(queue.raw()).unwrap();
    queue.synchronize().unwrap();
    let results = decode_call.results().unwrap();
    let tokens = [0, 1, 63, 64, 127, 128, 32_767, 32_768, 65_535, 65_536, 69_499, 69_500, 69_501, 69_998, 69_999];
    let queries: Vec<(i64, i64)> = tokens.iter().map(|t| (*t, 0)).collect();
    let mut worst = Margin::default();
    for i in 0..2usize {
        for (t, (out, lse)) in tokens.iter().zip(rows(&data, i, 0, &queries)) {
            let row = i * 70_000 + *t as usize;
            let sample = Spec { s_q: 1, lens: vec![spec.lens[i]], ..spec.clone() };
            let got = Results {
                out: results.out[row * D_V as usize..][..D_V as usize].to_vec(),
                lse: vec![results.lse[row]],
            };
            match compare(&sample, &got, &Expected { out, lse: vec![lse] }) {
                Ok(margin) => worst = worst.worst(margin),
                Err(why) => panic!("request {i}, token {t}: {why}\n    case: {spec}"),
            }
        }
    }
    report(session.name, 1, worst);
    let value = decode(spec.dtype);
    assert!(results.out.iter().all(|bits| value(*bits).is_finite()), "a row was not written");
}

/// More row blocks than a grid's second dimension could count, and an output past 2^32 bytes:
/// 660 copies of 100 query tokens, each of which must give the bits of the first.
#[test]
fn more_than_65535_row_blocks() {
    let session = gpu_alone_or_skip!();
    const COPIES: usize = 660;
    let data = Data::new(&Spec { d_qk: 512, h_q: 64, s_q: 100, lens: vec![130], ..Spec::default() });
    let (q_bytes, out_bytes) = (data.q.len() * 2, data.out_place.extent() * 2);
    assert!(out_bytes * COPIES > u32::MAX as usize && COPIES * 100 > 65535);
    if !session.has_memory((q_bytes + out_bytes) * COPIES * 5 / 4) {
        return;
    }
    let (place, fence) = (session.place(), Fence::Guarded);
    let q = Region::new(place, fence, q_bytes * COPIES, 0).unwrap();
    q.write(0, &data.q).unwrap();
    q.repeat(&session.queue().unwrap(), q_bytes).unwrap();
    let kv = Region::with(place, fence, &data.kv, 0).unwrap();
    let table = Region::with(place, fence, &data.table, 0).unwrap();
    let lens = Region::with(place, fence, &data.lens, 0).unwrap();
    let out = Region::new(place, fence, out_bytes * COPIES, 0).unwrap();
    let lse = Region::new(place, fence, data.lse_place.extent() * 4 * COPIES, 0).unwrap();
    let mut params = sizes_of(&data);
    params.s_q *= COPIES as i64;
    params.q = input(q.addr(), [0; 4]);
    params.kv_cache = input(kv.addr(), [0; 4]);
    params.block_table = input(table.addr(), [0; 4]);
    params.cache_seqlens = input(lens.addr(), [0; 4]);
    params.out = output(out.addr(), [0; 4]);
    // Token by token, so that a copy's part is contiguous as the others' are.
    params.lse = output(lse.addr(), [64 * 66_000, 1, 64, 0]);
    plan_and_run(&session, params).unwrap();
    out.check_guards("out").unwrap();
    lse.check_guards("lse").unwrap();

    let first = out.read_at::<u16>(0, out_bytes / 2).unwrap();
    let all_lse = lse.read::<u32>().unwrap();
    // [s_q, h_q] to [h_q, s_q], as the reference has it.
    let turned = (0..64).flat_map(|h| (0..100).map(move |t| (h, t))).map(|(h, t)| all_lse[t * 64 + h]).collect();
    confirm(&session, &data, &Results { out: first.clone(), lse: turned });
    for (copy, lse) in all_lse.chunks(64 * 100).enumerate() {
        assert!(lse == &all_lse[..64 * 100], "lse of tokens {} .. +100 differs from the first 100", copy * 100);
    }
    // Both ends, both sides of 2^31 and 2^32 bytes, and some between.
    let around = |byte: usize| byte / out_bytes;
    let copies = [0, 1, COPIES - 2, COPIES - 1, around(1 << 31) - 1, around(1 << 31), around(u32::MAX as usize)];
    for copy in copies.into_iter().chain((0..COPIES).step_by(37)) {
        let part = out.read_at::<u16>(copy * out_bytes, out_bytes / 2).unwrap();
        assert!(part == first, "out of tokens {} .. +100 differs from the first 100", copy * 100);
    }
}

/// The pages in use are the last ones of a cache of more than 2^31 elements and 2^32 bytes.
#[test]
fn cache_past_32_bits() {
    let session = gpu_alone_or_skip!();
    for (h_q, page) in [(16, 64), (128, 16)] {
        let data = Data::new(&Spec { h_q, page, lens: vec![1000, 65, 0, 300], ..Spec::default() });
        let page_elements = data.kv.len() / data.num_blocks as usize;
        let blocks = (1 << 31) / page_elements as i64 + 2000;
        let bytes = blocks as usize * page_elements * 2;
        assert!(bytes > u32::MAX as usize && blocks - data.num_blocks > (1 << 31) / page_elements as i64);
        if !session.has_memory(bytes * 5 / 4) {
            return;
        }
        let first = blocks - data.num_blocks;
        let kv = Region::new(session.place(), Fence::Guarded, bytes, 0).unwrap();
        kv.write(first as usize * page_elements * 2, &data.kv).unwrap();
        let mut moved = Data { num_blocks: blocks, ..data.clone() };
        for entry in moved.table.iter_mut().filter(|entry| (0..data.num_blocks).contains(&(**entry as i64))) {
            *entry += first as i32;
        }
        // The call takes everything but the cache from the moved case.
        let mut call = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &moved).unwrap();
        call.params.kv_cache = input(kv.addr(), [0; 4]);
        let queue = session.queue().unwrap();
        call.plan_and_run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        confirm(&session, &data, &call.results().unwrap());
    }
}

/// Every tensor has a stride that takes it past 2^31 elements or 2^32 bytes. They lie interleaved in
/// one allocation.
#[test]
fn strides_past_32_bits() {
    let session = gpu_alone_or_skip!();
    const ARENA: usize = (1 << 32) + (1 << 29);
    const MIB: usize = 1 << 20;
    const HALVES: i64 = 1 << 31;
    const WORDS: i64 = 1 << 30;
    const PAGE_STRIDE: i64 = 1_100_000_000;
    if !session.has_memory(ARENA * 5 / 4) {
        return;
    }
    for (h_q, invariant) in [(16, false), (128, false), (16, true)] {
        // Three pages; long enough to be split, so that the combine kernel goes far, too.
        let lens = vec![4000, 2048];
        let data = Data::new(&Spec { h_q, invariant, page: 2048, lens, spare_pages: 0, ..Spec::default() });
        assert_eq!((data.num_blocks, data.spec.s_q), (3, 1));
        let arena = Region::new(session.place(), Fence::Guarded, ARENA, 0).unwrap();
        let (q, out, lse, table, lens, kv) = (0, MIB, 2 * MIB, 3 * MIB, 4 * MIB, 16 * MIB);
        let at = |offset: usize| arena.addr() + offset as u64;
        let rows = |n: usize, i: usize| i * n..(i + 1) * n;
        let (q_row, columns) = (data.q.len() / 2, data.columns as usize);
        for i in 0..2 {
            arena.write(q + i * HALVES as usize * 2, &data.q[rows(q_row, i)]).unwrap();
            arena.write(table + i * WORDS as usize * 4, &data.table[rows(columns, i)]).unwrap();
            arena.write(lens + i * WORDS as usize * 4, &data.lens[rows(1, i)]).unwrap();
        }
        let page = data.kv.len() / 3;
        for i in 0..3 {
            arena.write(kv + i * PAGE_STRIDE as usize * 2, &data.kv[rows(page, i)]).unwrap();
        }
        let mut params = sizes_of(&data);
        params.q = input(at(q), far(&data.q_place, HALVES));
        params.kv_cache = input(at(kv), far(&data.kv_place, PAGE_STRIDE));
        params.block_table = input(at(table), far(&data.table_place, WORDS));
        params.cache_seqlens = input(at(lens), far(&data.lens_place, WORDS));
        params.out = output(at(out), far(&data.out_place, HALVES));
        params.lse = output(at(lse), far(&data.lse_place, WORDS));
        plan_and_run(&session, params).unwrap();
        arena.check_guards("arena").unwrap();
        let (out_row, lse_row) = ((h_q * D_V) as usize, h_q as usize);
        let mut results = Results { out: Vec::new(), lse: Vec::new() };
        for i in 0..2 {
            let (out, lse) = (out + i * HALVES as usize * 2, lse + i * WORDS as usize * 4);
            results.out.extend(arena.read_at::<u16>(out, out_row).unwrap());
            results.lse.extend(arena.read_at::<u32>(lse, lse_row).unwrap());
            for end in [out + out_row * 2, lse + lse_row * 4] {
                let behind = arena.read_at::<u8>(end, 4096).unwrap();
                assert!(behind.iter().all(|byte| *byte == UNTOUCHED), "written behind the outputs of request {i}");
            }
        }
        confirm(&session, &data, &results);
    }
}

/// The strides of a contiguous tensor, except the outermost.
fn far<const N: usize>(place: &Strided<N>, outermost: i64) -> [i64; 4] {
    let mut strides = [0; 4];
    strides[..N].copy_from_slice(&place.strides);
    strides[0] = outermost;
    strides
}
