//! Running cases against the float64 reference, within the contract's bounds.

use crate::data::{decode, Data};
use crate::decode::{Decode, Results};
use crate::memory::Fence;
use crate::oracle::{expected, Expected};
use crate::session::{say, Queue, Session};
use crate::spec::Spec;
use flashmla::problem::dense_decode::{Dtype, D_V};
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// |x - ref| <= bound.0 + bound.1 |ref|
pub type Bound = (f64, f64);
const OUT: Bound = (8e-4, 2.01 / 128.0);
const LSE: Bound = (1e-6, 8.01 / 65536.0);
/// 1 - 2 sum(x y) / sum(x^2 + y^2) over the whole tensor.
const COSINE: f64 = 5e-6;
/// The same over one request, so that short ones don't hide a long one. Weights and results rounded
/// to BF16, each at its worst (2^-9), give 7.6e-6.
const REQUEST_COSINE: f64 = 1e-5;

/// Errors as parts of their bounds: 1 is the bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct Margin {
    pub out: f64,
    pub cosine: f64,
    pub lse: f64,
    /// |out - ref| / |ref| as Euclidean norms, not a part of a bound.
    pub rms: f64,
}

impl Margin {
    pub fn worst(self, other: Margin) -> Margin {
        Margin {
            out: self.out.max(other.out),
            cosine: self.cosine.max(other.cosine),
            lse: self.lse.max(other.lse),
            rms: self.rms.max(other.rms),
        }
    }
}

/// Sums of squares of a comparison.
#[derive(Clone, Copy, Default)]
struct Squares {
    error: f64,
    reference: f64,
    both: f64,
}

impl Squares {
    fn add(&mut self, x: f64, r: f64) {
        self.error += (x - r) * (x - r);
        self.reference += r * r;
        self.both += x * x + r * r;
    }

    /// sum(x^2 + y^2) - 2 sum(x y) is the sum of squared errors, which loses no digits.
    fn cosine(&self) -> f64 {
        if self.both == 0.0 {
            0.0
        } else {
            self.error / self.both
        }
    }
}

/// Compares results with a reference: `Err` says what is outside its bound.
pub fn compare(spec: &Spec, results: &Results, expected: &Expected) -> Result<Margin, String> {
    let (s_q, h_q) = (spec.s_q as usize, spec.h_q as usize);
    let per_request = s_q * h_q * D_V as usize;
    let row = |i: usize, row: usize| format!("out[{i}, {}, {}]", row / h_q, row % h_q);
    let mut margin = compare_out(&results.out, &expected.out, decode(spec.dtype), per_request, row)?;
    if spec.want_lse {
        assert_eq!(results.lse.len(), expected.lse.len(), "lse and its reference");
    }
    let element = |at: usize| format!("lse[{}, {}, {}]", at / s_q / h_q, at / s_q % h_q, at % s_q);
    margin.lse = compare_logs(&results.lse, &expected.lse, LSE, element)?;
    Ok(margin)
}

/// Compares outputs in parts of so many elements (a request, a query token), each with a cosine of its own.
/// `name` is that of a row of a part. The result lacks `lse`.
pub fn compare_out(
    got: &[u16],
    want: &[f64],
    value: fn(u16) -> f64,
    per_part: usize,
    name: impl Fn(usize, usize) -> String,
) -> Result<Margin, String> {
    assert_eq!(got.len(), want.len(), "out and its reference");
    let mut margin = Margin::default();
    let mut all = Squares::default();
    for (i, (got, want)) in chunks(got, per_part).zip(chunks(want, per_part)).enumerate() {
        let mut squares = Squares::default();
        for (at, (bits, r)) in got.iter().zip(want).enumerate() {
            let x = value(*bits);
            let part = (x - r).abs() / (OUT.0 + OUT.1 * r.abs());
            if part.is_nan() || part > 1.0 {
                return Err(format!("{}, column {}: {x}, not {r}", name(i, at / D_V as usize), at % D_V as usize));
            }
            margin.out = margin.out.max(part);
            squares.add(x, *r);
        }
        if squares.cosine() > REQUEST_COSINE {
            return Err(format!("{} and further: cosine difference {:.2e}", name(i, 0), squares.cosine()));
        }
        all.error += squares.error;
        all.reference += squares.reference;
        all.both += squares.both;
    }
    margin.cosine = all.cosine() / COSINE;
    margin.rms = if all.error == 0.0 { 0.0 } else { (all.error / all.reference).sqrt() };
    if margin.cosine > 1.0 {
        return Err(format!("out: cosine difference {:.2e}", all.cosine()));
    }
    Ok(margin)
}

/// Compares FP32 bits such as those of lse: the worst error as part of its bound.
pub fn compare_logs(got: &[u32], want: &[f64], bound: Bound, name: impl Fn(usize) -> String) -> Result<f64, String> {
    let mut worst: f64 = 0.0;
    for (at, (bits, r)) in got.iter().zip(want).enumerate() {
        let x = f32::from_bits(*bits) as f64;
        let part = if x == *r { 0.0 } else { (x - r).abs() / (bound.0 + bound.1 * r.abs()) };
        // An infinity must be met exactly: the quotient is then NaN or infinite.
        if part.is_nan() || part > 1.0 {
            return Err(format!("{} = {x}, not {r}", name(at)));
        }
        worst = worst.max(part);
    }
    Ok(worst)
}

fn chunks<T>(all: &[T], size: usize) -> std::slice::Chunks<'_, T> {
    all.chunks(size.max(1))
}

/// One case on a stream: run, nothing written beside the outputs, results within the bounds.
pub fn run_case(session: &Session, queue: &Queue, fence: Fence, data: &Data) -> Result<(Results, Margin), String> {
    let results = run_only(session, queue, fence, data)?;
    let margin = compare(&data.spec, &results, &expected(data))?;
    Ok((results, margin))
}

/// Without the reference.
pub fn run_only(session: &Session, queue: &Queue, fence: Fence, data: &Data) -> Result<Results, String> {
    let decode = Decode::new(&session.backend.handle, session.place(), fence, data)?;
    decode.plan_and_run(queue.raw())?;
    queue.synchronize()?;
    decode.results()
}

/// Every case, on all cores; fails with a line per failing case, and prints the worst margin.
pub fn check_all(session: &Session, mut specs: Vec<Spec>) {
    // The long ones first, so that none is left to run alone at the end.
    specs.sort_by_key(|spec| std::cmp::Reverse(spec.pairs()));
    on_all_cores(session, &specs, |queue, spec| {
        run_case(session, queue, Fence::Guarded, &Data::new(spec)).map(|(_, margin)| margin)
    });
}

/// Runs cases, in their order, on as many threads as there are cores.
pub fn on_all_cores<S: Display + Sync>(
    session: &Session,
    specs: &[S],
    run: impl Fn(&Queue, &S) -> Result<Margin, String> + Sync,
) {
    let (next, worst, failures) = (AtomicUsize::new(0), Mutex::new(Margin::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(specs.len());
    let work = || {
        let queue = session.queue().expect("a stream");
        while let Some(spec) = specs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match run(&queue, spec) {
                Ok(margin) => {
                    let mut worst = worst.lock().expect("no thread panicked");
                    *worst = worst.worst(margin);
                }
                Err(why) => failures.lock().expect("no thread panicked").push(format!("{why}\n    case: {spec}")),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no thread panicked");
    report(session.name, specs.len(), worst.into_inner().expect("no thread panicked"));
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), specs.len(), failures.join("\n"));
}

pub fn report(name: &str, cases: usize, worst: Margin) {
    say(&format!(
        "WORST {name}: {cases} cases, parts of the bounds: out {:.3} cosine {:.3} lse {:.3}; relative RMS {:.5}",
        worst.out, worst.cosine, worst.lse, worst.rms
    ));
}

/// The two 16-bit types and the two row lengths.
pub fn kinds() -> impl Iterator<Item = (Dtype, i64)> {
    [Dtype::Bf16, Dtype::Fp16].into_iter().flat_map(|dtype| [576, 512].into_iter().map(move |d_qk| (dtype, d_qk)))
}
