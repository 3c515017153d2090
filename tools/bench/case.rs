//! A case of dense decode, as a line of a case file describes it.

use super::failure::Failure;
use serde_json::{Map, Value};

/// Columns of V.
pub const D_V: i64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    Bf16,
    Fp16,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub h_kv: i64,
    pub d_qk: i64,
    pub page_block_size: i64,
    pub dtype: Dtype,
    pub causal: bool,
    /// Cached tokens of each request.
    pub lens: Vec<i64>,
    /// The case as the file has it, for the result's line.
    pub json: Value,
}

/// A line of a case or peer file: its operation, its case, and the rest of it.
pub struct Line {
    pub op: String,
    pub value: Value,
}

/// The operation that a peer's way of doing it implements: `dense_decode_fa3` is dense decode.
pub fn operation(op: &str) -> &str {
    match op.strip_prefix("dense_decode") {
        Some(rest) if rest.is_empty() || rest.starts_with('_') => "dense_decode",
        _ => op,
    }
}

/// The lines of a file that have an `op`; an error names the line.
pub fn lines(path: &str) -> Result<Vec<Line>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::Usage(format!("{path}: {e}")))?;
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let malformed = |what: &dyn std::fmt::Display| Failure::Usage(format!("{path}:{}: {what}", i + 1));
        let value: Value = serde_json::from_str(line).map_err(|e| malformed(&e))?;
        let op = value["op"].as_str().ok_or_else(|| malformed(&"op: must be a string"))?.to_string();
        lines.push(Line { op, value });
    }
    Ok(lines)
}

impl Case {
    pub fn parse(json: &Value) -> Result<Case, Failure> {
        let Some(fields) = json.as_object() else {
            return Err(Failure::Usage(format!("case = {json}: must be an object")));
        };
        let b = integer(fields, "b", None, 0)?;
        if b > MAX_REQUESTS {
            return Err(Failure::Usage(format!("b = {b}: must be at most {MAX_REQUESTS}")));
        }
        let s_q = integer(fields, "s_q", None, 0)?;
        let dtype = match fields.get("dtype").map(|v| v.as_str()) {
            None | Some(Some("bf16")) => Dtype::Bf16,
            Some(Some("fp16")) => Dtype::Fp16,
            Some(_) => return Err(wrong("dtype", &fields["dtype"], "\"bf16\" or \"fp16\"")),
        };
        let causal = match fields.get("causal") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| wrong("causal", value, "true or false"))?,
        };
        Ok(Case {
            b,
            s_q,
            h_q: integer(fields, "h_q", None, 1)?,
            h_kv: integer(fields, "h_kv", Some(1), 1)?,
            d_qk: integer(fields, "d_qk", Some(576), 1)?,
            page_block_size: integer(fields, "bs", Some(64), 1)?,
            dtype,
            causal,
            lens: lens(fields, b)?,
            json: json.clone(),
        })
    }

    /// Query-key pairs per query head: `lens` tokens, for each query token those that it sees.
    pub fn attended_pairs(&self) -> i64 {
        let seen = |len: i64| match self.causal {
            false => len * self.s_q,
            // Query token i sees len - s_q + i + 1 keys, if that is positive.
            true => {
                let fewest = (len - self.s_q + 1).max(1);
                len.min(self.s_q) * (fewest + len) / 2
            }
        };
        self.lens.iter().map(|len| seen(*len)).sum()
    }

    /// Floating-point operations: 2 h_q n (d_qk + d_v).
    pub fn operations(&self) -> f64 {
        2.0 * self.h_q as f64 * self.attended_pairs() as f64 * (self.d_qk + D_V) as f64
    }

    /// Bytes of the cache rows, of Q and of the output, each moved once. Tables, lengths and lse,
    /// below half a percent of these, are left out, as in the published figures.
    pub fn bytes(&self) -> f64 {
        let tokens: i64 = self.lens.iter().sum();
        let cache = tokens as f64 * (self.h_kv * self.d_qk) as f64;
        2.0 * (cache + (self.b * self.s_q * self.h_q) as f64 * (self.d_qk + D_V) as f64)
    }

    /// A short name, for progress, filters and plots.
    pub fn name(&self) -> String {
        let mut name = format!("b{} s_q{} h_q{}", self.b, self.s_q, self.h_q);
        if self.h_kv != 1 {
            name.push_str(&format!(" h_kv{}", self.h_kv));
        }
        match (self.lens.iter().min(), self.lens.iter().max()) {
            (Some(min), Some(max)) if min == max => name.push_str(&format!(" s_k{max}")),
            (Some(min), Some(max)) => {
                let mean = self.lens.iter().sum::<i64>() / self.b;
                name.push_str(&format!(" s_k{min}..{max} mean{mean}"));
            }
            _ => {}
        }
        if self.d_qk != 576 {
            name.push_str(&format!(" d_qk{}", self.d_qk));
        }
        if self.page_block_size != 64 {
            name.push_str(&format!(" bs{}", self.page_block_size));
        }
        if self.dtype == Dtype::Fp16 {
            name.push_str(" fp16");
        }
        if self.causal {
            name.push_str(" causal");
        }
        name
    }

    /// Whether two cases ask for the same work. For one query token a causal mask hides nothing.
    pub fn same_work(&self, other: &Case) -> bool {
        let masked = |c: &Case| c.causal && c.s_q > 1;
        self.s_q == other.s_q
            && self.h_q == other.h_q
            && self.h_kv == other.h_kv
            && self.d_qk == other.d_qk
            && self.page_block_size == other.page_block_size
            && self.dtype == other.dtype
            && masked(self) == masked(other)
            && self.lens == other.lens
    }
}

/// Each request's length: `lens`, or `s_k` for all.
fn lens(fields: &Map<String, Value>, b: i64) -> Result<Vec<i64>, Failure> {
    let Some(value) = fields.get("lens").filter(|v| !v.is_null()) else {
        return Ok(vec![integer(fields, "s_k", None, 0)?; b as usize]);
    };
    let length = |v: &Value| v.as_i64().filter(|n| (0..=MAX_SIZE).contains(n));
    let lens: Option<Vec<i64>> = value.as_array().and_then(|list| list.iter().map(length).collect());
    match lens {
        Some(lens) if lens.len() as i64 == b => Ok(lens),
        Some(lens) => Err(Failure::Usage(format!("lens: {} of them: must be b = {b}", lens.len()))),
        None => Err(Failure::Usage(format!("lens: must be a list of numbers 0 .. {MAX_SIZE}"))),
    }
}

const MAX_SIZE: i64 = i32::MAX as i64;
/// The length of every request is kept on the host.
const MAX_REQUESTS: i64 = 1 << 20;

fn integer(fields: &Map<String, Value>, name: &str, default: Option<i64>, min: i64) -> Result<i64, Failure> {
    let Some(value) = fields.get(name) else {
        return default.ok_or_else(|| Failure::Usage(format!("{name}: missing: must be a number of at least {min}")));
    };
    match value.as_i64() {
        Some(n) if (min..=MAX_SIZE).contains(&n) => Ok(n),
        _ => Err(wrong(name, value, &format!("a number {min} .. {MAX_SIZE}"))),
    }
}

fn wrong(name: &str, value: &Value, expected: &str) -> Failure {
    Failure::Usage(format!("{name} = {value}: must be {expected}"))
}
