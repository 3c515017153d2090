//! Whether results agree, by the accuracy bounds of the operation.

/// How far a tensor is from its reference.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Difference {
    /// Largest |x - ref| over the finite elements.
    pub max_error: f64,
    /// |x - ref| / |ref|, both as Euclidean norms.
    pub relative_rms: f64,
    /// 1 - 2 sum(x ref) / sum(x^2 + ref^2)
    pub cosine: f64,
    /// Elements outside their bound, and the first of them.
    pub outside: usize,
    pub first_outside: Option<usize>,
}

/// |x - ref| <= absolute + relative |ref|, for each element.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub absolute: f64,
    pub relative: f64,
}

pub const OUT: Bound = Bound { absolute: 8e-4, relative: 2.01 / 128.0 };
pub const LSE: Bound = Bound { absolute: 1e-6, relative: 8.01 / 65536.0 };
/// Of `max_logits` and `lse` in prefill.
pub const PREFILL_LOGS: Bound = Bound { absolute: 1e-6, relative: 2.01 / 65536.0 };
/// Of `out`, over the whole tensor.
pub const MAX_COSINE: f64 = 5e-6;

/// Compares two tensors of one shape. An infinity or NaN agrees only with the same.
pub fn compare(x: &[f64], reference: &[f64], bound: Bound) -> Difference {
    assert_eq!(x.len(), reference.len(), "tensors of one shape");
    let mut d = Difference::default();
    let (mut error2, mut ref2, mut both2) = (0.0, 0.0, 0.0);
    for (i, (x, r)) in x.iter().zip(reference).enumerate() {
        let within = if x.is_finite() && r.is_finite() {
            let error = (x - r).abs();
            d.max_error = d.max_error.max(error);
            error2 += error * error;
            ref2 += r * r;
            both2 += x * x + r * r;
            error <= bound.absolute + bound.relative * r.abs()
        } else {
            x == r || (x.is_nan() && r.is_nan())
        };
        if !within {
            d.outside += 1;
            d.first_outside.get_or_insert(i);
        }
    }
    d.relative_rms = if error2 == 0.0 { 0.0 } else { (error2 / ref2).sqrt() };
    // sum(x^2 + r^2) - 2 sum(x r) is the sum of squared errors, which loses no digits.
    d.cosine = if both2 == 0.0 { 0.0 } else { error2 / both2 };
    d
}
