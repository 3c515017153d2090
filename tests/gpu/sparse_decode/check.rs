//! Running cases against the float64 reference, within the contract's bounds.

use super::call::{query, sizes_of, Call, Results};
use super::data::Data;
use super::oracle::{expected, Expected};
use super::spec::Spec;
use crate::check::{compare_logs, compare_out, on_all_cores, Bound, Margin};
use crate::data::decode;
use crate::memory::Fence;
use crate::session::{say, Queue, Session};
use flashmla::problem::dense_decode::{Dtype, D_V};
use flashmla::status::FLASHMLA_ERROR_UNSUPPORTED;

const LSE: Bound = (1e-6, 8.01 / 65536.0);

/// Why the context cannot run a problem, if that is so.
fn unsupported(session: &Session, spec: &Spec) -> Option<String> {
    match query(&session.backend.handle, &sizes_of(spec)) {
        Err(refusal) if refusal.status == FLASHMLA_ERROR_UNSUPPORTED => Some(refusal.message),
        _ => None,
    }
}

/// Whether the context can run a common problem. If not, the test is skipped, and a line says so.
pub fn is_supported(session: &Session) -> bool {
    match unsupported(session, &Spec::default()) {
        Some(why) => {
            say(&format!("SKIP {} skipped: {why}", session.name));
            false
        }
        None => true,
    }
}

/// Compares results with a reference: `Err` says what is outside its bound.
pub fn compare(spec: &Spec, results: &Results, expected: &Expected) -> Result<Margin, String> {
    let (s_q, h_q) = (spec.s_q as usize, spec.h_q as usize);
    let row = |unit: usize, h: usize| format!("out[{}, {}, {h}]", unit / s_q, unit % s_q);
    let mut margin = compare_out(&results.out, &expected.out, decode(Dtype::Bf16), h_q * D_V as usize, row)?;
    if spec.want_lse {
        assert_eq!(results.lse.len(), expected.lse.len(), "lse and its reference");
        // As the reference has it: [b, s_q, h_q].
        let place = |at: usize| (at / h_q / s_q, at / h_q % s_q, at % h_q);
        let got: Vec<u32> = (0..results.lse.len())
            .map(|at| {
                let (i, t, h) = place(at);
                results.lse[(i * h_q + h) * s_q + t]
            })
            .collect();
        margin.lse = compare_logs(&got, &expected.lse, LSE, |at| {
            let (i, t, h) = place(at);
            format!("lse[{i}, {h}, {t}]")
        })?;
    }
    // Of a query that attends to nothing, to the bit.
    for (unit, out) in results.out.chunks((h_q * D_V as usize).max(1)).enumerate() {
        if expected.empty[unit] && out.iter().any(|bits| *bits != 0) {
            return Err(format!("{} of a query that attends to nothing is not 0", row(unit, 0)));
        }
    }
    Ok(margin)
}

/// Without the reference.
pub fn run_only(session: &Session, queue: &Queue, fence: Fence, data: &Data) -> Result<Results, String> {
    let call = Call::new(&session.backend.handle, session.place(), fence, data)?;
    call.plan_and_run(queue.raw())?;
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

/// Every case that the context can run, on all cores; fails with a line per failing case, and prints the
/// worst margin.
pub fn check_all(session: &Session, mut specs: Vec<Spec>) {
    // The long ones first, so that none is left to run alone at the end.
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.pairs()));
    let all = specs.len();
    let mut reason = String::new();
    specs.retain(|spec| match unsupported(session, spec) {
        Some(why) => {
            reason = why;
            false
        }
        None => true,
    });
    if specs.len() < all {
        say(&format!("UNSUPPORTED {}: {} of {all} cases left out: {reason}", session.name, all - specs.len()));
    }
    on_all_cores(session, &specs, |queue, spec| {
        run_case(session, queue, Fence::Guarded, &Data::new(spec)).map(|(_, margin)| margin)
    });
}
