//! What the contract says a case gives, in float64: for each row all scores, then the softmax, as written in a
//! textbook. A cached element is its code's value times its scale, rounded to BF16.

use super::data::Data;
use crate::data::decode;
use flashmla::problem::dense_decode::{Dtype, D_V};

/// `out [b, s_q, h_q, 512]`, `lse [b, s_q, h_q]`.
#[derive(Default)]
pub struct Expected {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
    /// Of each query token, whether it attends to nothing.
    pub empty: Vec<bool>,
}

pub fn expected(data: &Data) -> Expected {
    let mut all = Expected::default();
    for (i, t) in (0..data.spec.b).flat_map(|i| (0..data.spec.s_q).map(move |t| (i, t))) {
        token(data, i, t, &mut all);
    }
    all
}

/// All heads of a query token, behind what is there.
fn token(data: &Data, i: i64, t: i64, all: &mut Expected) {
    let (spec, value) = (&data.spec, decode(Dtype::Bf16));
    let d_qk = spec.d_qk() as usize;
    // The factor as the library takes it: FP32.
    let scale = if spec.scale == 0.0 { 1.0 / (d_qk as f32).sqrt() } else { spec.scale } as f64;
    let keys = data.attended(i, t);
    all.empty.push(keys.is_empty());
    for h in 0..spec.h_q {
        let q = &data.q[data.q_place.at([i, t, h, 0])..][..d_qk];
        let q: Vec<f64> = q.iter().map(|bits| value(*bits) * scale).collect();
        let scores: Vec<f64> = keys.chunks_exact(d_qk).map(|key| dot(&q, key)).collect();
        let highest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        let mut out = vec![0.0; D_V as usize];
        if scores.is_empty() {
            all.lse.push(if spec.lse_pos_inf { f64::INFINITY } else { f64::NEG_INFINITY });
        } else {
            let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
            let lse = highest + weights.iter().sum::<f64>().ln();
            all.lse.push(lse);
            let sink =
                if data.sinks.is_empty() { f64::NEG_INFINITY } else { data.sinks[data.sinks_place.at([h])] as f64 };
            // exp(lse) / (exp(lse) + exp(sink)), where neither overflows.
            let attended = 1.0 / (1.0 + (sink - lse).exp());
            for (weight, key) in weights.iter().zip(keys.chunks_exact(d_qk)) {
                let p = weight * (highest - lse).exp() * attended;
                out.iter_mut().zip(key).for_each(|(x, v)| *x += p * v);
            }
        }
        all.out.extend(out);
    }
}

/// In several sums, which the compiler keeps in vector registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}
