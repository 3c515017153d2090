//! Running cases against the float64 reference, within the contract's bounds.

use super::call::{Call, Results};
use super::data::Data;
use super::oracle::{expected, Expected};
use super::spec::Spec;
use crate::check::{compare_logs, compare_out, on_all_cores, Bound, Margin};
use crate::data::decode;
use crate::memory::Fence;
use crate::session::{Queue, Session};
use flashmla::problem::dense_decode::Dtype;
use flashmla::problem::sparse_prefill::D_V;

/// Of `lse` and of `max_logits`.
const LOGS: Bound = (1e-6, 2.01 / 65536.0);

/// Compares results with a reference: `Err` says what is outside its bound.
pub fn compare(spec: &Spec, results: &Results, expected: &Expected) -> Result<Margin, String> {
    let h_q = spec.h_q as usize;
    let row = |t: usize, h: usize| format!("out[{t}, {h}]");
    let mut margin = compare_out(&results.out, &expected.out, decode(Dtype::Bf16), h_q * D_V as usize, row)?;
    for (name, wanted, got, want) in [
        ("max_logits", spec.want_max_logits, &results.max_logits, &expected.max_logits),
        ("lse", spec.want_lse, &results.lse, &expected.lse),
    ] {
        if wanted {
            assert_eq!(got.len(), want.len(), "{name} and its reference");
        }
        let part = compare_logs(got, want, LOGS, |at| format!("{name}[{}, {}]", at / h_q, at % h_q))?;
        margin.lse = margin.lse.max(part);
    }
    // Of a query that attends to nothing, to the bit.
    for (t, out) in results.out.chunks(h_q * D_V as usize).enumerate() {
        if expected.max_logits[t * h_q] == f64::NEG_INFINITY && out.iter().any(|bits| *bits != 0) {
            return Err(format!("out[{t}] of a query that attends to nothing is not 0"));
        }
    }
    Ok(margin)
}

/// Without the reference.
pub fn run_only(session: &Session, queue: &Queue, fence: Fence, data: &Data) -> Result<Results, String> {
    let call = Call::new(&session.backend.handle, session.place(), fence, data)?;
    call.run(queue.raw())?;
    queue.synchronize()?;
    call.check_inputs(data)?;
    call.results()
}

/// One case on a stream: run, nothing written beside the outputs, results within the bounds.
pub fn run_case(session: &Session, queue: &Queue, fence: Fence, data: &Data) -> Result<(Results, Margin), String> {
    let results = run_only(session, queue, fence, data)?;
    let margin = compare(&data.spec, &results, &expected(data))?;
    Ok((results, margin))
}

/// Every case, on all cores; fails with a line per failing case, and prints the
/// worst margin.
pub fn check_all(session: &Session, mut specs: Vec<Spec>) {
    // The long ones first, so that none is left to run alone at the end.
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.pairs()));
    on_all_cores(session, &specs, |queue, spec| {
        run_case(session, queue, Fence::Guarded, &Data::new(spec)).map(|(_, margin)| margin)
    });
}
