//! Golden cases: inputs, and what upstream FlashMLA computed from them on an H100.

use super::call::Results;
use super::check::{compare, run_case};
use super::data::{Data, Places};
use super::oracle::{expected, Expected};
use super::spec::Spec;
use crate::check::report;
use crate::data::decode;
use crate::memory::Fence;
use crate::oracle::{golden_files, halves, words, GoldenFile};
use flashmla::problem::dense_decode::Dtype;

struct Golden {
    name: String,
    data: Data,
    upstream: Results,
}

fn golden_cases() -> Vec<Golden> {
    let cases: Vec<Golden> = golden_files("prefill_").iter().map(golden).collect();
    assert!(cases.len() >= 2, "no prefill_*.safetensors: set FLASHMLA_GOLDEN_DIR or run where tests/golden is");
    cases
}

fn golden(file: &GoldenFile) -> Golden {
    let name = file.name.clone();
    assert_eq!((file.key("op"), file.key("lse_base")), ("sparse_prefill", "e"), "{name}");
    let [s_q, h_q, d_qk] = file.shape("q");
    let [s_kv, 1, _] = file.shape("kv") else { panic!("{name}: kv has more than one head") };
    let [_, _, topk] = file.shape("indices");
    let spec = Spec {
        d_qk,
        h_q,
        s_q,
        s_kv,
        topk,
        lse_pos_inf: file.key("lse_empty") == "+inf",
        scale: file.key("softmax_scale").parse().unwrap_or_else(|e| panic!("{name}: softmax_scale: {e}")),
        ..Spec::default()
    };
    let optional = |tensor: &str| file.bytes(tensor).map_or(Vec::new(), |bytes| words(&bytes));
    let tensor = |tensor: &str| file.bytes(tensor).unwrap_or_else(|| panic!("{name}: {tensor} is missing"));
    let logs = |name: &str| words(&tensor(name)).into_iter().map(|bits| bits as u32).collect();
    Golden {
        data: Data {
            places: Places::new(&spec),
            q: halves(&tensor("q")),
            kv: halves(&tensor("kv")),
            indices: words(&tensor("indices")),
            lengths: optional("topk_length"),
            sinks: optional("attn_sink").into_iter().map(|bits| f32::from_bits(bits as u32)).collect(),
            spec,
        },
        upstream: Results { out: halves(&tensor("out")), max_logits: logs("max_logits"), lse: logs("lse") },
        name,
    }
}

/// As float64, for a comparison with them.
fn numbers(results: &Results) -> Expected {
    let logs = |bits: &[u32]| bits.iter().map(|bits| f32::from_bits(*bits) as f64).collect();
    Expected {
        out: results.out.iter().map(|bits| decode(Dtype::Bf16)(*bits)).collect(),
        max_logits: logs(&results.max_logits),
        lse: logs(&results.lse),
    }
}

#[test]
fn within_the_bounds_of_upstream_and_of_the_reference() {
    let session = session_or_skip!(Any);
    let queue = session.queue().unwrap();
    for Golden { name, data, upstream } in golden_cases() {
        let (results, margin) =
            run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{name}: {e}"));
        report(&format!("{}: {name} against float64", session.name), 1, margin);
        let of_upstream = compare(&data.spec, &results, &numbers(&upstream))
            .unwrap_or_else(|e| panic!("{name}, against upstream: {e}"));
        report(&format!("{}: {name} against upstream", session.name), 1, of_upstream);
        // No less accurate than upstream, to two digits.
        let theirs = compare(&data.spec, &upstream, &expected(&data)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            margin.rms <= theirs.rms * 1.02,
            "{name}: RMS error {:.5}, upstream's is {:.5}",
            margin.rms,
            theirs.rms
        );
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
