//! Golden cases: inputs, and what upstream FlashMLA computed from them on an H100.

use super::call::Results;
use super::check::{compare, run_case};
use super::data::{Cache, Data};
use super::oracle::{expected, Expected};
use super::spec::{Extra, Spec};
use crate::check::report;
use crate::data::{decode, Strided};
use crate::latent::page_bytes;
use crate::memory::Fence;
use crate::oracle::{golden_files, halves, words, GoldenFile};
use flashmla::problem::dense_decode::{Dtype, D_V};
use flashmla::problem::layout::Layout;

/// Relative RMS error that none of these cases may pass: 0.0022 to two digits, as upstream's.
const RMS: f64 = 0.00225;

struct Golden {
    name: String,
    data: Data,
    upstream: Results,
}

fn golden_cases() -> Vec<Golden> {
    let cases: Vec<Golden> = golden_files("sparse_").iter().map(golden).collect();
    assert!(cases.len() >= 3, "no sparse_*.safetensors: set FLASHMLA_GOLDEN_DIR or run where tests/golden is");
    cases
}

fn golden(file: &GoldenFile) -> Golden {
    let name = file.name.clone();
    assert_eq!((file.key("op"), file.key("lse_base")), ("sparse_decode", "e"), "{name}");
    let layout = match file.key("layout") {
        "V32" => Layout::V32,
        "V4" => Layout::V4,
        other => panic!("{name}: layout {other}"),
    };
    let [b, s_q, h_q, _] = file.shape("q");
    let tensor = |tensor: &str| file.bytes(tensor).unwrap_or_else(|| panic!("{name}: {tensor} is missing"));
    let cache = |prefix: &str| {
        let part = |part: &str| format!("{prefix}{part}");
        let page: i64 = file.key(&part("page_block_size")).parse().unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = tensor(&part("kv_cache"));
        // V32: [pages, tokens, bytes]; V4: [pages, bytes], padded.
        let num_blocks = match layout {
            Layout::V4 => {
                let [pages, _] = file.shape(&part("kv_cache"));
                pages
            }
            _ => {
                let [pages, _, _] = file.shape(&part("kv_cache"));
                pages
            }
        };
        let page_stride = bytes.len() as i64 / num_blocks;
        let [_, _, topk] = file.shape(&part("indices"));
        // Upstream's lengths are of requests.
        let lengths: Vec<i32> = file.bytes(&part("topk_length")).map_or(Vec::new(), |bytes| words(&bytes));
        Cache {
            page,
            num_blocks,
            topk,
            page_stride,
            given_stride: if page_stride == page_bytes(layout, page) { 0 } else { page_stride },
            bytes,
            indices: words(&tensor(&part("indices"))),
            indices_place: Strided::contiguous([b, s_q, topk]),
            lengths_place: Strided { shape: [b, s_q], strides: [1, 0], given: [1, 0, 0, 0], shift: 0 },
            lengths,
        }
    };
    let first = cache("");
    let extra = (file.key("extra_page_block_size") != "0").then(|| cache("extra_"));
    let spec = Spec {
        layout,
        b,
        s_q,
        h_q,
        page: first.page,
        s_k: first.tokens(),
        topk: first.topk,
        by_request: true,
        extra: extra.as_ref().map(|x| Extra { page: x.page, s_k: x.tokens(), topk: x.topk, lengths: None }),
        lse_pos_inf: file.key("lse_empty") == "+inf",
        scale: file.key("softmax_scale").parse().unwrap_or_else(|e| panic!("{name}: softmax_scale: {e}")),
        ..Spec::default()
    };
    let sinks: Vec<i32> = file.bytes("attn_sink").map_or(Vec::new(), |bytes| words(&bytes));
    let q = halves(&tensor("q"));
    Golden {
        data: Data {
            q_place: Strided::contiguous([b, s_q, h_q, spec.d_qk()]),
            sinks_place: Strided::contiguous([h_q]),
            out_place: Strided::contiguous([b, s_q, h_q, D_V]),
            lse_place: Strided::contiguous([b, h_q, s_q]),
            q,
            cache: first,
            extra,
            sinks: sinks.into_iter().map(|bits| f32::from_bits(bits as u32)).collect(),
            spec,
        },
        upstream: Results {
            out: halves(&tensor("out")),
            lse: words(&tensor("lse")).into_iter().map(|bits| bits as u32).collect(),
        },
        name,
    }
}

/// As float64, for a comparison with them.
fn numbers(data: &Data, results: &Results) -> Expected {
    let (s_q, h_q) = (data.spec.s_q as usize, data.spec.h_q as usize);
    let lse = (0..results.lse.len()).map(|at| {
        let (i, t, h) = (at / h_q / s_q, at / h_q % s_q, at % h_q);
        f32::from_bits(results.lse[(i * h_q + h) * s_q + t]) as f64
    });
    Expected {
        out: results.out.iter().map(|bits| decode(Dtype::Bf16)(*bits)).collect(),
        lse: lse.collect(),
        empty: vec![false; data.spec.b as usize * s_q],
    }
}

#[test]
fn within_the_bounds_of_upstream_and_of_the_reference() {
    let session = sparse_or_skip!(Any);
    let queue = session.queue().unwrap();
    for Golden { name, data, upstream } in golden_cases() {
        let (results, margin) =
            run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{name}: {e}"));
        report(&format!("{}: {name} against float64", session.name), 1, margin);
        let of_upstream = compare(&data.spec, &results, &numbers(&data, &upstream))
            .unwrap_or_else(|e| panic!("{name}, against upstream: {e}"));
        report(&format!("{}: {name} against upstream", session.name), 1, of_upstream);
        assert!(margin.rms <= RMS, "{name}: relative RMS error {:.5}, upstream's is 0.0022", margin.rms);
    }
}

/// The reference itself, on any machine: upstream's outputs are within the bounds of it.
#[test]
fn the_reference_agrees_with_upstream() {
    for Golden { name, data, upstream } in golden_cases() {
        let margin = compare(&data.spec, &upstream, &expected(&data)).unwrap_or_else(|e| panic!("{name}: {e}"));
        report(&format!("the reference: {name}"), 1, margin);
    }
}
