//! Small cases for compute-sanitizer, one for each way through the kernels. Memory has its exact size, and workspace and
//! plan are not initialised, so that memcheck and initcheck see every slip; outputs begin as NaN (decode.rs).

use crate::check::run_case;
use crate::data::Data;
use crate::memory::Fence;
use crate::session::Session;
use crate::spec::Spec;
use flashmla::problem::dense_decode::Dtype;

fn check(session: Session, spec: Spec) {
    let queue = session.queue().unwrap();
    if let Err(why) = run_case(&session, &queue, Fence::Exact, &Data::new(&spec)) {
        panic!("{why}\n    case: {spec}");
    }
}

/// `name: changes to the default case` (BF16, 576, 16 heads: thread blocks of their own).
macro_rules! cases {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => { $(
        #[test]
        fn $name() {
            let session = backend_or_skip!();
            check(session, Spec { $($field: $value,)* ..Spec::default() });
        }
    )* };
}

cases! {
    // Each kernel: for 16 rows, 32, 64, and more, of which 128 are two row blocks, which fetch the same tiles.
    sanitize_bf16_576_16_rows: { lens: vec![130, 64] }
    sanitize_bf16_576_32_rows: { h_q: 32, lens: vec![130, 64] }
    sanitize_bf16_576_64_rows: { h_q: 64, lens: vec![130, 64] }
    sanitize_bf16_512_32_rows: { d_qk: 512, h_q: 32, lens: vec![130, 64] }
    sanitize_bf16_512_64_rows: { d_qk: 512, h_q: 64, lens: vec![130, 64] }
    sanitize_fp16_576_32_rows: { dtype: Dtype::Fp16, h_q: 32, lens: vec![130, 64] }
    sanitize_fp16_576_64_rows: { dtype: Dtype::Fp16, h_q: 64, lens: vec![130, 64] }
    sanitize_fp16_512_32_rows: { dtype: Dtype::Fp16, d_qk: 512, h_q: 32, lens: vec![130, 64] }
    sanitize_fp16_512_64_rows: { dtype: Dtype::Fp16, d_qk: 512, h_q: 64, lens: vec![130, 64] }
    sanitize_bf16_576_two_row_blocks: { h_q: 128, lens: vec![130, 64] }
    sanitize_bf16_512_16_rows: { d_qk: 512, lens: vec![130, 64] }
    sanitize_bf16_512_two_row_blocks: { d_qk: 512, h_q: 128, lens: vec![130, 64] }
    sanitize_fp16_576_16_rows: { dtype: Dtype::Fp16, lens: vec![130, 64] }
    sanitize_fp16_576_two_row_blocks: { dtype: Dtype::Fp16, h_q: 128, lens: vec![130, 64] }
    sanitize_fp16_512_16_rows: { dtype: Dtype::Fp16, d_qk: 512, lens: vec![130, 64] }
    sanitize_fp16_512_two_row_blocks: { dtype: Dtype::Fp16, d_qk: 512, h_q: 128, lens: vec![130, 64] }
    // Split requests and the combine kernel of each type.
    sanitize_split_bf16: { lens: vec![1000, 0, 700] }
    sanitize_split_32_rows: { h_q: 32, lens: vec![1000, 0, 700] }
    sanitize_split_64_rows: { h_q: 64, lens: vec![1000, 0, 700] }
    sanitize_split_bf16_two_row_blocks: { h_q: 128, lens: vec![1000, 0, 700] }
    sanitize_split_fp16: { dtype: Dtype::Fp16, lens: vec![1000, 0, 700] }
    sanitize_split_invariant: { invariant: true, lens: vec![2200, 0, 64, 1] }
    sanitize_split_invariant_two_row_blocks: { h_q: 128, invariant: true, lens: vec![4300, 0, 64] }
    sanitize_split_invariant_fp16: { dtype: Dtype::Fp16, invariant: true, lens: vec![2200] }
    // More pieces than partitions.
    sanitize_invariant_chains: { h_q: 4, invariant: true, lens: (0..300).map(|i| i % 70).collect() }
    sanitize_invariant_chains_two_row_blocks: { h_q: 68, invariant: true, lens: (0..100).map(|i| i % 70).collect() }
    // One piece more than partitions: they change hands.
    sanitize_invariant_handovers: { h_q: 4, invariant: true, lens: vec![640; 133] }
    sanitize_invariant_handovers_32_rows: { h_q: 32, invariant: true, lens: vec![700; 133] }
    sanitize_invariant_handovers_two_row_blocks: { h_q: 68, invariant: true, lens: vec![1000; 67] }
    // The kernel for many rows, which long block tables get.
    sanitize_long_bf16_576: { h_q: 128, columns: Some(3000), lens: vec![130, 64] }
    sanitize_long_bf16_576_one_row_block: { h_q: 64, columns: Some(3000), lens: vec![130, 64] }
    sanitize_long_bf16_512: { d_qk: 512, h_q: 128, columns: Some(3000), lens: vec![130, 64] }
    sanitize_long_fp16_576: { dtype: Dtype::Fp16, h_q: 128, columns: Some(3000), lens: vec![130, 64] }
    sanitize_long_fp16_512: { dtype: Dtype::Fp16, d_qk: 512, h_q: 128, columns: Some(3000), lens: vec![130, 64] }
    sanitize_long_split: { h_q: 128, columns: Some(3000), lens: vec![1000, 0, 700] }
    sanitize_long_split_one_row_block: { h_q: 64, columns: Some(3000), lens: vec![1000, 0, 700] }
    sanitize_long_tail_tiles: { h_q: 128, causal: true, s_q: 2, columns: Some(3000), lens: vec![1, 65, 127, 0, 31, 33] }
    sanitize_long_page_1: { page: 1, h_q: 128, columns: Some(200_000), lens: vec![70, 3] }
    sanitize_long_page_32: { page: 32, h_q: 128, columns: Some(6000), lens: vec![100, 3] }
    sanitize_long_page_24: { page: 24, h_q: 128, columns: Some(6000), lens: vec![100, 3] }
    sanitize_long_many_requests: { h_q: 68, columns: Some(60), lens: (0..100).map(|i| i % 70).collect() }
    // Tiles that end within a page, lengths of one token and of none.
    sanitize_tail_tiles: { s_q: 2, causal: true, lens: vec![1, 65, 127, 0, 63] }
    sanitize_tail_tiles_64_rows: { h_q: 16, causal: true, s_q: 4, lens: vec![1, 65, 127, 0, 31, 33] }
    sanitize_tail_tiles_two_row_blocks: { h_q: 128, causal: true, s_q: 2, lens: vec![1, 65, 127, 0, 31, 33] }
    // Pages smaller than a tile: several copies a tile, one a token at worst.
    sanitize_page_1: { page: 1, lens: vec![70, 3] }
    sanitize_page_1_64_rows: { page: 1, h_q: 64, lens: vec![70, 3] }
    sanitize_page_1_two_row_blocks: { page: 1, h_q: 128, lens: vec![70, 3] }
    sanitize_page_16: { page: 16, lens: vec![100, 3] }
    sanitize_page_61: { page: 61, lens: vec![130, 3] }
    sanitize_page_32_two_row_blocks: { page: 32, h_q: 128, lens: vec![100, 3] }
    sanitize_page_256: { page: 256, lens: vec![300, 3] }
    // Several requests in a partition: more than there are multiprocessors.
    sanitize_many_requests: { h_q: 4, lens: (0..300).map(|i| i % 70).collect() }
    sanitize_many_requests_two_row_blocks: { h_q: 68, lens: (0..100).map(|i| i % 70).collect() }
    // Head groups that do not fill a box of rows, several KV heads, an odd number of row blocks.
    sanitize_17_heads_3_tokens: { h_q: 17, s_q: 3, causal: true, lens: vec![90, 2] }
    sanitize_kv_heads: { h_q: 12, h_kv: 3, s_q: 2, lens: vec![90, 2] }
    sanitize_three_row_blocks: { h_q: 48, s_q: 4, causal: true, lens: vec![90, 2] }
    // Wrong values.
    sanitize_bad_pages: { bad_pages: true, page: 16, lens: vec![300, 64] }
    sanitize_bad_lengths: { columns: Some(3), lens: vec![i32::MAX, -1, 5] }
    sanitize_without_lse: { want_lse: false, lens: vec![1000, 10] }
}
