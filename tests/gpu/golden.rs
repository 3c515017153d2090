//! Golden cases: inputs, and what upstream FlashMLA computed from them on an H100.

use crate::check::{compare, report, run_case, Margin};
use crate::data::encode;
use crate::decode::Results;
use crate::memory::Fence;
use crate::oracle::{expected, golden_cases, Golden};
use flashmla::problem::dense_decode::Dtype;

/// Upstream's own error on these cases, 0.0022 to two digits.
const BF16_RMS: f64 = 0.00225;

#[test]
fn within_the_bounds_of_upstream_and_of_the_reference() {
    let session = backend_or_skip!();
    let queue = session.queue().unwrap();
    let cases = golden_cases();
    assert!(!cases.is_empty(), "no dense_*.safetensors: set FLASHMLA_GOLDEN_DIR or run where tests/golden is");
    for Golden { name, data, upstream } in cases {
        let (results, margin) =
            run_case(&session, &queue, Fence::Guarded, &data).unwrap_or_else(|e| panic!("{name}: {e}"));
        report(&format!("{}: {name} against float64", session.name), 1, margin);
        let of_upstream: Margin =
            compare(&data.spec, &results, &upstream).unwrap_or_else(|e| panic!("{name}, against upstream: {e}"));
        report(&format!("{}: {name} against upstream", session.name), 1, of_upstream);
        if data.spec.dtype == Dtype::Bf16 {
            assert!(margin.rms <= BF16_RMS, "{name}: relative RMS error {:.5}, upstream's is {BF16_RMS}", margin.rms);
        }
    }
}

/// The reference itself, on any machine: upstream's outputs are within the bounds of it.
#[test]
fn the_reference_agrees_with_upstream() {
    let cases = golden_cases();
    assert!(!cases.is_empty(), "no dense_*.safetensors: set FLASHMLA_GOLDEN_DIR or run where tests/golden is");
    for Golden { name, data, upstream } in cases {
        let encode = encode(data.spec.dtype);
        let results = Results {
            out: upstream.out.iter().map(|x| encode(*x as f32)).collect(),
            lse: upstream.lse.iter().map(|x| (*x as f32).to_bits()).collect(),
        };
        let margin = compare(&data.spec, &results, &expected(&data)).unwrap_or_else(|e| panic!("{name}: {e}"));
        report(&format!("the reference: {name}"), 1, margin);
    }
}
