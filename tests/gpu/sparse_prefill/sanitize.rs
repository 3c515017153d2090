//! Small cases for compute-sanitizer. Memory has its exact size and what the library is to write is not
//! initialised, so that memcheck and initcheck see every slip.

use super::check::run_case;
use super::data::Data;
use super::spec::{Pick, Spec};
use crate::memory::Fence;
use crate::session::Session;
use crate::spec::Layout;

fn check(session: Session, spec: Spec) {
    let queue = session.queue().unwrap();
    if let Err(why) = run_case(&session, &queue, Fence::Exact, &Data::new(&spec)) {
        panic!("{why}\n    case: {spec}");
    }
}

/// `name: changes to the default case` (576, 64 heads, 130 indices).
macro_rules! cases {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => { $(
        #[test]
        fn $name() {
            let session = session_or_skip!(Any);
            check(session, Spec { $($field: $value,)* ..Spec::default() });
        }
    )* };
}

cases! {
    sanitize_576_16_heads: { h_q: 16 }
    sanitize_576_64_heads: { h_q: 64 }
    sanitize_576_128_heads: { h_q: 128 }
    sanitize_512_16_heads: { d_qk: 512, h_q: 16 }
    sanitize_512_64_heads: { d_qk: 512, h_q: 64 }
    sanitize_512_128_heads: { d_qk: 512, h_q: 128 }
    // Heads that fill no block, and more than one block of them.
    sanitize_1_head: { h_q: 1, s_q: 5 }
    sanitize_65_heads: { h_q: 65 }
    sanitize_127_heads: { d_qk: 512, h_q: 127 }
    sanitize_200_heads: { h_q: 200 }
    // Numbers of indices that fill no tile, none, and several stages of a pipeline.
    sanitize_no_index: { topk: 0 }
    sanitize_1_index: { topk: 1, h_q: 128 }
    sanitize_63_indices: { topk: 63 }
    sanitize_700_indices: { topk: 700, h_q: 128 }
    sanitize_all_masked: { masked: 100 }
    sanitize_half_masked: { masked: 50, h_q: 128, empty_every: 2 }
    sanitize_one_row: { pick: Pick::Same, masked: 0 }
    sanitize_no_kv: { s_kv: 0 }
    sanitize_wild_lengths: { s_q: 6, lengths: Some(vec![i32::MIN, 0, 1, 129, 131, i32::MAX]) }
    sanitize_sinks: { sinks: Some(vec![0.5, f32::INFINITY, f32::NEG_INFINITY]), empty_every: 2 }
    sanitize_padded: { layout: Layout::Padded, h_q: 128 }
    sanitize_swapped: { layout: Layout::Swapped, h_q: 100, d_qk: 512 }
    sanitize_out_alone: { want_max_logits: false, want_lse: false }
    // More query tokens than multiprocessors.
    sanitize_many_queries: { s_q: 140, h_q: 16, topk: 66 }
    sanitize_many_queries_128_heads: { s_q: 70, h_q: 128, topk: 66 }
}
