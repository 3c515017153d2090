//! Append, gather and index mapping.

use super::{disjoint, safe, size, tensor, well_put};
use crate::random::Random;
use flashmla::problem::kv_cache_append::{self, KvCacheAppend, Pages, ScaleRule};
use flashmla::problem::kv_cache_gather::{self, KvCacheGather, Source};
use flashmla::problem::layout::Layout;
use flashmla::problem::map_indices::{self, MapIndices};
use flashmla::problem::tensor::RawTensor;
use flashmla::status::*;

/// What every token of the cache takes lies inside the extent that was checked.
fn safe_pages(layout: Layout, pages: &Pages, num_blocks: i64, page: i64, d_qk: i64) {
    if num_blocks == 0 {
        return;
    }
    assert!(pages.addr != 0 && pages.addr % 16 == 0 && pages.page_stride >= 0);
    let token = match layout {
        Layout::Plain => (page - 1) * pages.row_stride + 2 * d_qk,
        fp8 => {
            let (data, scales) = fp8.token_offsets(page, page - 1);
            (data + fp8.rope_offset() + 128).max(scales + 8)
        }
    };
    let last = (num_blocks - 1) as i128 * pages.page_stride as i128 + token as i128;
    assert!(last <= pages.extent as i128, "{last} of {pages:?}");
    assert!(num_blocks == 1 || pages.page_stride % 16 == 0, "{pages:?}");
    assert!(page == 1 || pages.row_stride % 16 == 0, "{pages:?}");
    assert!(pages.addr as i128 + pages.extent as i128 <= i64::MAX as i128);
}

struct Sizes {
    layout: i64,
    n: i64,
    d_qk: i64,
    num_blocks: i64,
    page: i64,
    cache: RawTensor,
    rows: RawTensor,
}

fn sizes(r: &mut Random) -> Sizes {
    let layout = size(r, &[0, 1, 2]);
    let d_qk = size(r, &[if layout == 2 { 512 } else { 576 }]);
    let (n, num_blocks, page) = (size(r, &[0, 1, 70_000]), size(r, &[0, 1, 300]), size(r, &[1, 61, 64, 256]));
    let cache = match layout {
        1 => tensor(r, &[num_blocks, page.wrapping_mul(656)]),
        2 => tensor(r, &[num_blocks, page.wrapping_mul(584)]),
        _ => tensor(r, &[num_blocks, page, d_qk]),
    };
    Sizes { layout, n, d_qk, num_blocks, page, cache, rows: tensor(r, &[n, d_qk]) }
}

#[test]
fn a_million_appends() {
    let mut r = Random(11);
    let mut accepted = 0;
    for _ in 0..1_000_000 {
        let s = sizes(&mut r);
        let raw = kv_cache_append::Raw {
            layout: s.layout as i32,
            scale_rule: size(&mut r, &[0, 0, 1]) as i32,
            slot_type: size(&mut r, &[0, 1]) as i32,
            n: s.n,
            d_qk: s.d_qk,
            num_blocks: s.num_blocks,
            page_block_size: s.page,
            rows: s.rows,
            slot_mapping: tensor(&mut r, &[s.n]),
            kv_cache: s.cache,
        };
        match KvCacheAppend::check(&raw) {
            Ok(p) => {
                accepted += 1;
                safe(&p.rows, 2);
                safe(&p.slot_mapping, 8);
                if p.n > 0 {
                    safe_pages(p.layout, &p.kv_cache, p.num_blocks, p.page_block_size, p.d_qk);
                }
                assert!(p.layout != Layout::V4 || p.scale_rule == ScaleRule::PowerOfTwo);
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(accepted > 100_000, "only {accepted} were accepted");
}

#[test]
fn a_million_gathers() {
    let mut r = Random(12);
    let (mut by_indices, mut by_ranges) = (0, 0);
    for _ in 0..1_000_000 {
        let s = sizes(&mut r);
        let (b, columns) = (size(&mut r, &[0, 0, 1, 300]), size(&mut r, &[0, 1, 50]));
        let none = RawTensor::default();
        let ranges = r.below(8) != 0 && b > 0;
        let raw = kv_cache_gather::Raw {
            layout: s.layout as i32,
            n: s.n,
            d_qk: s.d_qk,
            num_blocks: s.num_blocks,
            page_block_size: s.page,
            b,
            max_blocks_per_seq: columns,
            kv_cache: s.cache,
            indices: if ranges { none } else { tensor(&mut r, &[s.n]) },
            block_table: if ranges || r.below(9) == 0 { tensor(&mut r, &[b, columns]) } else { none },
            cu_seqlens: tensor(&mut r, &[b.wrapping_add(1)]),
            seq_starts: tensor(&mut r, &[b]),
            rows: s.rows,
        };
        match KvCacheGather::check(&raw) {
            Ok(p) => {
                safe(&p.rows, 2);
                disjoint(&p.rows);
                if p.n > 0 {
                    safe_pages(p.layout, &p.kv_cache, p.num_blocks, p.page_block_size, p.d_qk);
                }
                match &p.source {
                    Source::Indices(indices) => {
                        by_indices += 1;
                        safe(indices, 4);
                        assert_eq!(indices.shape, [p.n]);
                    }
                    Source::Ranges { b, max_blocks_per_seq, block_table, cu_seqlens, seq_starts } => {
                        by_ranges += 1;
                        safe(block_table, 4);
                        safe(cu_seqlens, 4);
                        seq_starts.iter().for_each(|t| safe(t, 4));
                        assert!(max_blocks_per_seq * p.page_block_size <= i32::MAX as i64);
                        assert!(*b == 0 || cu_seqlens.shape == [b + 1]);
                    }
                }
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(by_indices > 50_000 && by_ranges > 50_000, "only {by_indices} and {by_ranges} were accepted");
}

#[test]
fn a_million_mappings() {
    let mut r = Random(13);
    let mut accepted = 0;
    for _ in 0..1_000_000 {
        let (b, s_q, topk) = (size(&mut r, &[0, 1, 300]), size(&mut r, &[0, 1, 5]), size(&mut r, &[0, 1, 64, 2048]));
        let columns = size(&mut r, &[0, 1, 50]);
        let raw = map_indices::Raw {
            b,
            s_q,
            topk,
            num_blocks: size(&mut r, &[0, 1, 300]),
            page_block_size: size(&mut r, &[1, 61, 64, 256]),
            max_blocks_per_seq: columns,
            positions: tensor(&mut r, &[b, s_q, topk]),
            block_table: tensor(&mut r, &[b, columns]),
            cache_seqlens: tensor(&mut r, &[b]),
            indices: tensor(&mut r, &[b, s_q, topk]),
        };
        match MapIndices::check(&raw) {
            Ok(p) => {
                accepted += 1;
                safe(&p.positions, 4);
                safe(&p.block_table, 4);
                p.cache_seqlens.iter().for_each(|t| safe(t, 4));
                safe(&p.indices, 4);
                disjoint(&p.indices);
                assert!(p.max_blocks_per_seq * p.page_block_size <= i32::MAX as i64 && p.b * p.s_q <= i32::MAX as i64);
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(accepted > 100_000, "only {accepted} were accepted");
}

#[test]
fn append_says_what_is_wrong() {
    let at = |addr: u64| RawTensor { addr, strides: [0; 4] };
    let good = kv_cache_append::Raw {
        layout: 2,
        n: 3,
        d_qk: 512,
        num_blocks: 2,
        page_block_size: 64,
        rows: at(0x10000),
        slot_mapping: at(0x20004),
        kv_cache: at(0x30000),
        ..Default::default()
    };
    KvCacheAppend::check(&good).unwrap();
    let refused = |raw: kv_cache_append::Raw| KvCacheAppend::check(&raw).unwrap_err();
    let exact = refused(kv_cache_append::Raw { scale_rule: 1, ..good });
    assert_eq!(exact.status, FLASHMLA_ERROR_INVALID_ARGUMENT);
    assert!(exact.message.contains("scale_rule = 1: must be FLASHMLA_SCALE_POWER_OF_TWO (0), as FLASHMLA_LAYOUT_V4"));
    assert!(refused(kv_cache_append::Raw { scale_rule: 2, ..good }).message.contains("scale_rule = 2"));
    assert!(refused(kv_cache_append::Raw { slot_type: 2, ..good }).message.contains("slot_type = 2"));
    assert!(refused(kv_cache_append::Raw { layout: 3, ..good }).message.contains("layout = 3"));
    assert!(refused(kv_cache_append::Raw { d_qk: 576, ..good }).message.contains("d_qk = 576: must be 512, as layout"));
    // An int64 is aligned as one.
    assert_eq!(refused(kv_cache_append::Raw { slot_type: 1, ..good }).status, FLASHMLA_ERROR_MISALIGNED);
    // Plain rows may not overlap.
    let plain =
        kv_cache_append::Raw { layout: 0, kv_cache: RawTensor { strides: [512, 512, 1, 0], ..at(0x30000) }, ..good };
    assert_eq!(refused(plain).status, FLASHMLA_ERROR_INVALID_STRIDE);
}

#[test]
fn gather_wants_indices_or_ranges() {
    let at = |addr: u64| RawTensor { addr, strides: [0; 4] };
    let good = kv_cache_gather::Raw {
        layout: 1,
        n: 3,
        d_qk: 576,
        num_blocks: 2,
        page_block_size: 64,
        kv_cache: at(0x30000),
        indices: at(0x20004),
        rows: at(0x10000),
        ..Default::default()
    };
    let refused = |raw: kv_cache_gather::Raw| KvCacheGather::check(&raw).unwrap_err().message;
    assert!(matches!(KvCacheGather::check(&good).unwrap().source, Source::Indices(_)));
    assert!(refused(kv_cache_gather::Raw { block_table: at(0x40), ..good }).contains("one of them must be NULL"));
    assert!(refused(kv_cache_gather::Raw { b: 2, ..good }).contains("b = 2: must be 0 where indices are given"));
    let none = RawTensor::default();
    assert!(refused(kv_cache_gather::Raw { indices: none, ..good }).contains("indices.data = NULL"));
    let ranges = kv_cache_gather::Raw {
        b: 2,
        max_blocks_per_seq: 3,
        indices: none,
        block_table: at(0x40),
        cu_seqlens: at(0x50),
        ..good
    };
    assert!(matches!(KvCacheGather::check(&ranges).unwrap().source, Source::Ranges { seq_starts: None, .. }));
    assert!(refused(kv_cache_gather::Raw { cu_seqlens: none, ..ranges }).contains("cu_seqlens.data = NULL"));
    assert!(refused(kv_cache_gather::Raw { block_table: none, ..ranges }).contains("block_table.data = NULL"));
}
