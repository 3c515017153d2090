//! Summaries of samples.

/// The middle value, of an even number the mean of the two; `None` of no samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// `None` of no values.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    match values.len() {
        0 => None,
        n => Some((values.iter().map(|v| v.ln()).sum::<f64>() / n as f64).exp()),
    }
}
