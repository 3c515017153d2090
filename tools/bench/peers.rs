//! A peer's figures of the same cases, and how ours compare.

use super::case::{self, Case};
use super::failure::Failure;
use super::record::{object, rounded};
use super::stats::geometric_mean;
use serde_json::{json, Value};

pub struct Peers(Vec<Entry>);

struct Entry {
    op: String,
    case: Case,
    ms: f64,
}

/// The fastest peer on a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// Its `op`, which tells whose figure it is.
    pub op: String,
    pub ms: f64,
}

/// What was compared: of one case, how much faster than the peer, and how near the floor.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub case: Value,
    pub ratio: Option<f64>,
    pub of_floor: Option<f64>,
}

impl Peers {
    /// The figures of our operations in a file; others are left aside.
    pub fn load(path: &str) -> Result<Peers, Failure> {
        let mut entries = Vec::new();
        for line in case::lines(path)? {
            let Some(op) = case::operation(&line.op) else { continue };
            let case = Case::parse(op, &line.value["case"]).map_err(|f| f.context(path))?;
            let ms = &line.value["ms"];
            match ms.as_f64() {
                Some(ms) if ms > 0.0 => entries.push(Entry { op: line.op, case, ms }),
                _ => return Err(Failure::Usage(format!("{path}: ms = {ms}: must be a positive number"))),
            }
        }
        Ok(Peers(entries))
    }

    pub fn best(&self, case: &Case) -> Option<Match> {
        self.0
            .iter()
            .filter(|entry| entry.case.same_work(case))
            .min_by(|a, b| a.ms.total_cmp(&b.ms))
            .map(|entry| Match { op: entry.op.clone(), ms: entry.ms })
    }
}

/// The last line: geometric means, and the case that compares worst.
pub fn summary(outcomes: &[Outcome]) -> String {
    let ratios: Vec<f64> = outcomes.iter().filter_map(|o| o.ratio).collect();
    let of_floor: Vec<f64> = outcomes.iter().filter_map(|o| o.of_floor).collect();
    let worst = outcomes.iter().filter_map(|o| o.ratio.map(|r| (r, &o.case))).min_by(|a, b| a.0.total_cmp(&b.0));
    let number = |value: Option<f64>| value.map_or(Value::Null, |v| rounded(v, 3));
    object(&[
        ("op", json!("summary")),
        ("cases", json!(outcomes.len())),
        ("compared", json!(ratios.len())),
        ("slower_than_peer", json!(ratios.iter().filter(|r| **r < 1.0).count())),
        ("geomean_ratio", number(geometric_mean(&ratios))),
        ("geomean_of_floor", number(geometric_mean(&of_floor))),
        ("worst_ratio", number(worst.map(|w| w.0))),
        ("worst_case", worst.map_or(Value::Null, |w| w.1.clone())),
    ])
}
