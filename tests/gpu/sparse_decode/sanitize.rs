//! Small cases for compute-sanitizer. Memory has its exact size and what the library is to write is not
//! initialised, so that memcheck and initcheck see every slip.

use super::check::run_case;
use super::data::Data;
use super::spec::{Extra, Pick, Spec};
use crate::memory::Fence;
use crate::session::Session;
use crate::spec::Layout as Strides;
use flashmla::problem::layout::Layout;

fn check(session: Session, spec: Spec) {
    let queue = session.queue().unwrap();
    if let Err(why) = run_case(&session, &queue, Fence::Exact, &Data::new(&spec)) {
        panic!("{why}\n    case: {spec}");
    }
}

/// `name: changes to the default case` (V32, 64 heads, 130 indices).
macro_rules! cases {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => { $(
        #[test]
        fn $name() {
            let session = sparse_or_skip!(Any);
            check(session, Spec { $($field: $value,)* ..Spec::default() });
        }
    )* };
}

fn extra(topk: i64) -> Option<Extra> {
    Some(Extra { page: 2, s_k: 50, topk, lengths: Some(vec![topk as i32, 3]) })
}

fn without_lengths(topk: i64) -> Option<Extra> {
    extra(topk).map(|extra| Extra { lengths: None, ..extra })
}

cases! {
    sanitize_v32_16_heads: { h_q: 16 }
    sanitize_v32_64_heads: { h_q: 64 }
    sanitize_v32_128_heads: { h_q: 128 }
    sanitize_v4_16_heads: { layout: Layout::V4, h_q: 16 }
    sanitize_v4_64_heads: { layout: Layout::V4, h_q: 64 }
    sanitize_v4_128_heads: { layout: Layout::V4, h_q: 128 }
    // Heads that fill no block, and more than one block of them.
    sanitize_1_head: { h_q: 1 }
    sanitize_65_heads: { h_q: 65 }
    sanitize_127_heads: { layout: Layout::V4, h_q: 127 }
    // Numbers of indices that fill no tile, none, and several stages of a pipeline.
    sanitize_no_index: { topk: 0 }
    sanitize_1_index: { topk: 1, h_q: 128 }
    sanitize_63_indices: { topk: 63 }
    sanitize_split: { topk: 1000, h_q: 128, b: 1 }
    sanitize_split_invariant: { topk: 5000, h_q: 8, b: 1, s_q: 1, invariant: true }
    sanitize_all_masked: { masked: 100 }
    sanitize_half_masked: { masked: 50, h_q: 128, empty_every: 2 }
    sanitize_one_token: { pick: Pick::Same, masked: 0 }
    sanitize_no_cache: { s_k: 0 }
    sanitize_page_1: { page: 1 }
    sanitize_page_61: { page: 61, layout: Layout::V4 }
    sanitize_wild_lengths: { b: 3, lengths: Some(vec![i32::MIN, 0, 1, 129, 131, i32::MAX]) }
    sanitize_second_cache: { extra: extra(70), sinks: Some(vec![0.5, f32::INFINITY]) }
    sanitize_second_cache_v4: { layout: Layout::V4, extra: extra(300), h_q: 128 }
    sanitize_padded: { strides: Strides::Padded, h_q: 128 }
    sanitize_swapped: { strides: Strides::Swapped, h_q: 100, layout: Layout::V4 }
    sanitize_out_alone: { want_lse: false }
    // More query tokens than multiprocessors.
    sanitize_many_queries: { b: 150, h_q: 16, topk: 66 }
    sanitize_many_queries_128_heads: { b: 75, h_q: 128, topk: 66 }
    // The kernels for batch-invariant plans, of query tokens whose lengths are on the device; and those for stretches.
    sanitize_dealt_v32: { topk: 300, b: 1, invariant: true, lengths: Some(vec![300, 70]) }
    sanitize_dealt_v4: { layout: Layout::V4, topk: 300, b: 1, invariant: true, lengths: Some(vec![300, 70]) }
    sanitize_dealt_v32_pair: { topk: 300, b: 1, invariant: true, h_q: 65, extra: extra(300) }
    sanitize_dealt_v4_pair: { layout: Layout::V4, topk: 2100, b: 1, s_q: 1, invariant: true, h_q: 128, masked: 50 }
    sanitize_dealt_chains: { b: 150, h_q: 16, topk: 66, invariant: true, lengths: Some(vec![66, 0, 64, 1, 65]) }
    sanitize_stretches_v32: { topk: 600, b: 60, s_q: 1, h_q: 5, lengths: Some(vec![600, 599, 0, 64]) }
    sanitize_stretches_v4: { layout: Layout::V4, topk: 600, b: 60, s_q: 1, h_q: 5, lengths: Some(vec![600, 599, 0, 64]) }
    sanitize_stretches_v32_pair: { topk: 600, b: 30, s_q: 1, h_q: 65, lengths: Some(vec![600, 599, 0, 64]) }
    sanitize_stretches_v4_pair: { layout: Layout::V4, topk: 600, b: 30, s_q: 1, h_q: 65, extra: extra(70) }
    // Of clusters the largest, those of 9 and of two blocks, and of two steps; and by way of memory.
    sanitize_cluster_9: { layout: Layout::V4, topk: 1030, b: 2, s_q: 2, h_q: 70 }
    sanitize_cluster_steps: { topk: 2100, b: 1, s_q: 1, h_q: 20 }
    sanitize_cluster_16: { topk: 1100, b: 1, s_q: 1, extra: extra(70), sinks: Some(vec![0.5]) }
    sanitize_cluster_2: { layout: Layout::V4, topk: 100, b: 20, h_q: 70, masked: 50 }
    sanitize_short_in_memory: { topk: 4200, b: 1, s_q: 1, h_q: 40 }
    // Units in two halves.
    sanitize_two_halves: { topk: 520, b: 33, s_q: 2, h_q: 50, masked: 20 }
    // Whole units, two a block.
    sanitize_whole_v32: { topk: 200, b: 132, s_q: 2, h_q: 3, masked: 20 }
    sanitize_whole_v4: { layout: Layout::V4, topk: 70, b: 132, s_q: 2, h_q: 5, extra: without_lengths(70) }
    sanitize_whole_v32_pair: { topk: 130, b: 66, s_q: 2, h_q: 65, sinks: Some(vec![0.5]) }
    sanitize_whole_v4_pair: { layout: Layout::V4, topk: 70, b: 66, s_q: 2, h_q: 65, extra: without_lengths(70) }
}
