use super::{disjoint, safe, size, softmax_scale, tensor, well_put};
use crate::random::Random;
use flashmla::problem::layout::Layout;
use flashmla::problem::sparse_decode::{Cache, Raw, RawCache, Shape, SparseDecode, D_V};
use flashmla::problem::tensor::RawTensor;
use flashmla::schedule::{max_slots, Grid};
use flashmla::status::*;
use flashmla::workspace::sparse_decode::{plan_size, split_layout, workspace_size};
use flashmla::workspace::PlanLayout;

fn cache(r: &mut Random, layout: i64, b: i64, s_q: i64) -> RawCache {
    let page_block_size = size(r, &[1, 2, 61, 64, 256]);
    let num_blocks = size(r, &[0, 1, 300, 65_536]);
    let topk = size(r, &[0, 1, 63, 64, 2048]);
    let bytes = if layout == 2 { 584 } else { 656 };
    let mut kv_cache = tensor(r, &[num_blocks, page_block_size.wrapping_mul(bytes)]);
    if r.below(2) == 0 {
        // Upstream's padding, or too little.
        let page = page_block_size.wrapping_mul(bytes).wrapping_add(575) / 576 * 576;
        kv_cache.strides = [r.pick(&[page, page, page, page - 16, page + 8]), 1, 0, 0];
    }
    let mut topk_length = tensor(r, &[b, s_q]);
    if r.below(3) == 0 {
        topk_length.strides = [1, 0, 0, 0];
    }
    if r.below(3) == 0 {
        topk_length.addr = 0;
    }
    let indices = tensor(r, &[b, s_q, topk]);
    RawCache { layout: layout as i32, num_blocks, page_block_size, topk, kv_cache, indices, topk_length }
}

fn raw(r: &mut Random) -> Raw {
    let (b, s_q, h_q) = (size(r, &[0, 1, 3, 70_000]), size(r, &[0, 1, 2, 5]), size(r, &[1, 8, 64, 127, 128]));
    let layout = size(r, &[1, 1, 2, 2, 0]);
    let d_qk = size(r, &[if layout == 2 { 512 } else { 576 }]);
    let mut raw = Raw {
        flags: size(r, &[0, 0, 2, 4, 6, 1]) as u32,
        softmax_scale: softmax_scale(r),
        b,
        s_q,
        h_q,
        d_qk,
        cache: cache(r, layout, b, s_q),
        ..Default::default()
    };
    if r.below(2) == 0 {
        let of = r.pick(&[layout, layout, 0, 1, 7]);
        raw.extra = cache(r, of, b, s_q);
    }
    raw.q = tensor(r, &[b, s_q, h_q, d_qk]);
    raw.attn_sink = tensor(r, &[h_q]);
    raw.out = tensor(r, &[b, s_q, h_q, D_V]);
    raw.lse = tensor(r, &[b, h_q, s_q]);
    raw
}

#[test]
fn a_million_problems() {
    let mut r = Random(4);
    let mut accepted = 0;
    for _ in 0..1_000_000 {
        let raw = raw(&mut r);
        match SparseDecode::check(&raw) {
            Ok(p) => {
                accepted += 1;
                safe(&p.q, 2);
                safe(&p.out, 2);
                disjoint(&p.out);
                p.attn_sink.iter().for_each(|t| safe(t, 4));
                if let Some(lse) = &p.lse {
                    safe(lse, 4);
                    disjoint(lse);
                }
                let d_qk = if p.shape.layout == Layout::V4 { 512 } else { 576 };
                assert!(p.shape.layout.is_fp8() && p.shape.d_qk == d_qk);
                assert!(p.softmax_scale.is_finite() && p.softmax_scale > 0.0);
                assert_eq!(p.extra.is_some(), p.shape.extra.is_some());
                for cache in [Some(&p.cache), p.extra.as_ref()].into_iter().flatten() {
                    safe_cache(&p, cache);
                }
                // Kernels count tiles of both lists in 32 bits.
                assert!(p.shape.topk + p.shape.extra_topk() <= i32::MAX as i64 - 128);
                assert!(p.shape.units() * p.shape.h_q <= i32::MAX as i64);
            }
            Err(e) if e.status == FLASHMLA_ERROR_UNSUPPORTED => {
                assert!(e.message.contains("extra_layout") && raw.extra.layout != raw.cache.layout, "{e:?}")
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(accepted > 50_000, "only {accepted} problems were accepted: the others prove little");
}

/// Whatever an index may name lies inside the cache, page by page.
fn safe_cache(p: &SparseDecode, cache: &Cache) {
    safe(&cache.kv_cache, 1);
    safe(&cache.indices, 4);
    cache.topk_length.iter().for_each(|t| safe(t, 4));
    assert!(cache.index_limit <= 1 << 31);
    if p.shape.units() * cache.topk == 0 || cache.index_limit == 0 {
        return;
    }
    let page_bytes = p.shape.layout.token_bytes(0) * cache.page_block_size;
    assert_eq!(cache.kv_cache.shape[1], page_bytes);
    let last = (cache.index_limit - 1) / cache.page_block_size;
    assert!(last < cache.kv_cache.shape[0] && cache.kv_cache.addr % 16 == 0);
    assert!(last == 0 || (cache.kv_cache.strides[0] >= page_bytes && cache.kv_cache.strides[0] % 16 == 0));
    let (data, scales) = p.shape.layout.token_offsets(cache.page_block_size, cache.page_block_size - 1);
    assert!(data + p.shape.layout.rope_offset() + 128 <= page_bytes && scales + 8 <= page_bytes);
}

/// A problem without fault.
fn good() -> Raw {
    let at = |addr: u64| RawTensor { addr, strides: [0; 4] };
    Raw {
        b: 3,
        s_q: 2,
        h_q: 5,
        d_qk: 576,
        q: at(0x10000),
        cache: RawCache {
            layout: 1,
            num_blocks: 7,
            page_block_size: 64,
            topk: 100,
            kv_cache: at(0x20000),
            indices: at(0x30004),
            topk_length: at(0x40004),
        },
        attn_sink: at(0x50004),
        out: at(0x60010),
        lse: at(0x80004),
        ..Raw::default()
    }
}

#[test]
fn defaults_are_filled_in() {
    let p = SparseDecode::check(&good()).unwrap();
    assert_eq!(p.softmax_scale, 1.0 / 24.0);
    assert_eq!(p.q.strides, [2 * 5 * 576, 5 * 576, 576, 1]);
    assert_eq!(p.cache.kv_cache.strides, [64 * 656, 1]);
    assert_eq!(p.cache.indices.strides, [200, 100, 1]);
    assert_eq!(p.cache.topk_length.unwrap().strides, [2, 1]);
    assert_eq!(p.cache.index_limit, 7 * 64);
    assert_eq!(p.lse.unwrap().strides, [10, 2, 1]);
    assert!(p.extra.is_none() && p.shape.has_lengths && !p.shape.batch_invariant);
}

#[test]
fn lengths_of_requests_repeat_over_their_tokens() {
    let mut raw = good();
    raw.cache.topk_length.strides = [1, 0, 0, 0];
    let p = SparseDecode::check(&raw).unwrap();
    assert_eq!(p.cache.topk_length.unwrap().offset([2, 1]), 2);
    // No other tensor may.
    raw.cache.indices.strides = [100, 0, 1, 0];
    let error = SparseDecode::check(&raw).unwrap_err();
    assert!(error.message.contains("indices.strides[1] = 0: must be at least 1"), "{error:?}");
}

#[test]
fn a_second_cache_is_there_where_any_of_its_members_is() {
    let second = RawCache { topk_length: RawTensor::default(), ..good().cache };
    let p = SparseDecode::check(&Raw { extra: RawCache { page_block_size: 2, ..second }, ..good() }).unwrap();
    let extra = p.extra.unwrap();
    assert_eq!((extra.kv_cache.shape, extra.index_limit), ([7, 2 * 656], 14));
    assert!(!p.shape.extra.unwrap().has_lengths);
    let message = |extra: RawCache| SparseDecode::check(&Raw { extra, ..good() }).unwrap_err().message;
    let none = RawTensor::default();
    assert!(
        message(RawCache { indices: none, ..second }).contains("extra_indices.data = NULL: must point to memory, as")
    );
    assert!(
        message(RawCache { kv_cache: none, ..second }).contains("extra_kv_cache.data = NULL: must point to memory, as")
    );
    assert!(
        message(RawCache { topk: 5, ..RawCache::default() }).contains("extra_page_block_size = 0: must be at least 1")
    );
    assert!(message(RawCache { layout: 2, ..second }).contains("extra_layout = 2: must be layout = 1"));
    assert!(message(RawCache { layout: 3, ..second }).contains("extra_layout = 3: must be FLASHMLA_LAYOUT_PLAIN"));
    assert!(message(RawCache { topk: -1, ..second }).contains("extra_topk = -1"));
    // Nothing is pointed to where there is nothing.
    for extra in [
        RawCache { topk: 0, indices: none, ..second },
        RawCache { num_blocks: 0, kv_cache: none, ..second },
        RawCache { layout: 0, ..second },
    ] {
        SparseDecode::check(&Raw { extra, ..good() }).unwrap();
    }
}

#[test]
fn nothing_to_do_needs_no_memory() {
    let none = RawTensor::default();
    let empty = RawCache { kv_cache: none, indices: none, topk_length: none, ..good().cache };
    for raw in [Raw { b: 0, ..good() }, Raw { s_q: 0, ..good() }] {
        let p = SparseDecode::check(&Raw { q: none, out: none, lse: none, cache: empty, ..raw }).unwrap();
        assert!(p.shape.is_empty());
    }
    for cache in [RawCache { topk: 0, ..empty }, RawCache { num_blocks: 0, indices: good().cache.indices, ..empty }] {
        assert!(SparseDecode::check(&Raw { cache, ..good() }).unwrap().cache.kv_cache.is_empty());
    }
}

#[test]
fn pages_of_v4_want_padding_where_a_page_is_odd() {
    let mut raw = good();
    (raw.cache.layout, raw.d_qk, raw.cache.page_block_size) = (2, 512, 61);
    let error = SparseDecode::check(&raw).unwrap_err();
    assert_eq!(error.status, FLASHMLA_ERROR_INVALID_STRIDE);
    assert!(error.message.contains("kv_cache.strides[0] = 35624: must be a multiple of 16 bytes"), "{error:?}");
    raw.cache.kv_cache.strides = [35712, 1, 0, 0];
    SparseDecode::check(&raw).unwrap();
    raw.cache.kv_cache = RawTensor { addr: 0x20008, ..raw.cache.kv_cache };
    assert_eq!(SparseDecode::check(&raw).unwrap_err().status, FLASHMLA_ERROR_MISALIGNED);
    // One page has no neighbour.
    (raw.cache.num_blocks, raw.cache.kv_cache) = (1, RawTensor { addr: 0x20000, strides: [0; 4] });
    SparseDecode::check(&raw).unwrap();
}

/// The queries suffice for every smaller problem, and for exactly what a launch takes.
#[test]
fn sizes_are_monotone() {
    let mut r = Random(8);
    let mut with = 0;
    for _ in 0..200_000 {
        let mut raw = good();
        raw.flags = r.pick(&[0, 4]);
        (raw.b, raw.s_q, raw.h_q) = (r.pick(&[1, 3, 132, 5000]), r.pick(&[1, 2, 7]), r.pick(&[1, 64, 65, 128, 1000]));
        raw.cache.topk = r.pick(&[0, 1, 64, 65, 128, 192, 256, 2048, 65_536]);
        if r.below(2) == 0 {
            raw.extra = RawCache { topk: r.pick(&[0, 1, 64, 1000]), ..raw.cache };
        }
        let large = Shape::check(&raw).unwrap();
        let mut less = |n: i64| r.below(n as u64 + 1) as i64;
        let extra =
            large.extra.map(|extra| flashmla::problem::sparse_decode::ExtraShape { topk: less(extra.topk), ..extra });
        let small = Shape { b: less(large.b), s_q: less(large.s_q), topk: less(large.topk), extra, ..large };
        let multiprocessors = r.pick(&[1, 16, 132]);
        let grid = Grid::of_heads(small.h_q, multiprocessors);
        let told = workspace_size(&large, multiprocessors);
        assert!(told >= workspace_size(&small, multiprocessors), "{large:?} {small:?}");
        if !small.is_empty() {
            assert!(told >= split_layout(&small, &grid).size, "{large:?} {small:?}");
            let plan = PlanLayout::new(&small, grid.partitions).size;
            assert!(plan_size(&large, multiprocessors) >= plan, "{large:?} {small:?}");
        }
        assert_eq!(
            workspace_size(&small, multiprocessors) == 0,
            small.is_empty() || max_slots(&small, grid.partitions) == 0
        );
        with += (told > 0) as i64;
    }
    assert!(with > 30_000, "only {with} problems need a workspace");
}
