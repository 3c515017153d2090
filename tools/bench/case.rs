//! A case, as a line of a case file describes it: an operation and its sizes.

use super::dense_decode::DenseDecode;
use super::failure::Failure;
use super::kv_cache::KvCache;
use super::library::Library;
use super::problem::Problem;
use super::sparse_decode::SparseDecode;
use super::sparse_prefill::SparsePrefill;
use super::target::{Memory, Target};
use serde_json::{Map, Value};

/// Columns of V.
pub const D_V: i64 = 512;

/// What the library can be asked for.
pub const OPERATIONS: [&str; 6] =
    ["dense_decode", "sparse_decode", "sparse_prefill", "kv_cache_append", "kv_cache_gather", "map_indices"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    Bf16,
    Fp16,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub work: Work,
    /// The case as the file has it, for the result's line.
    pub json: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    DenseDecode(DenseDecode),
    SparseDecode(SparseDecode),
    SparsePrefill(SparsePrefill),
    KvCache(KvCache),
}

/// A line of a case or peer file: its operation, its case, and the rest of it.
pub struct Line {
    pub op: String,
    pub value: Value,
}

/// The operation that a peer's way of doing it implements: `dense_decode_fa3` is dense decode.
pub fn operation(op: &str) -> Option<&'static str> {
    let implements = |known: &&str| op.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    OPERATIONS.into_iter().find(implements)
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
    /// `op` is one of `OPERATIONS`.
    pub fn parse(op: &str, json: &Value) -> Result<Case, Failure> {
        let Some(fields) = json.as_object() else {
            return Err(Failure::Usage(format!("case = {json}: must be an object")));
        };
        let work = match op {
            "dense_decode" => Work::DenseDecode(DenseDecode::parse(fields)?),
            "sparse_decode" => Work::SparseDecode(SparseDecode::parse(fields)?),
            "sparse_prefill" => Work::SparsePrefill(SparsePrefill::parse(fields)?),
            op if OPERATIONS.contains(&op) => Work::KvCache(KvCache::parse(op, fields)?),
            _ => return Err(Failure::Usage(format!("op = {op}: must be one of {}", OPERATIONS.join(", ")))),
        };
        Ok(Case { work, json: json.clone() })
    }

    pub fn op(&self) -> &'static str {
        match &self.work {
            Work::DenseDecode(_) => "dense_decode",
            Work::SparseDecode(_) => "sparse_decode",
            Work::SparsePrefill(_) => "sparse_prefill",
            Work::KvCache(work) => work.op(),
        }
    }

    pub fn dtype(&self) -> Dtype {
        match &self.work {
            Work::DenseDecode(work) => work.dtype,
            _ => Dtype::Bf16,
        }
    }

    /// Floating-point operations.
    pub fn operations(&self) -> f64 {
        match &self.work {
            Work::DenseDecode(work) => work.operations(),
            Work::SparseDecode(work) => work.operations(),
            Work::SparsePrefill(work) => work.operations(),
            Work::KvCache(work) => work.operations(),
        }
    }

    /// Bytes that memory moves at least.
    pub fn bytes(&self) -> f64 {
        match &self.work {
            Work::DenseDecode(work) => work.bytes(),
            Work::SparseDecode(work) => work.bytes(),
            Work::SparsePrefill(work) => work.bytes(),
            Work::KvCache(work) => work.bytes(),
        }
    }

    /// A short name, for progress, filters and plots.
    pub fn name(&self) -> String {
        match &self.work {
            Work::DenseDecode(work) => work.name(),
            Work::SparseDecode(work) => work.name(),
            Work::SparsePrefill(work) => work.name(),
            Work::KvCache(work) => work.name(),
        }
    }

    /// Whether two cases ask for the same work.
    pub fn same_work(&self, other: &Case) -> bool {
        match (&self.work, &other.work) {
            (Work::DenseDecode(a), Work::DenseDecode(b)) => a.same_work(b),
            (a, b) => a == b,
        }
    }

    /// `random` gives memory of some size in bytes, filled with random elements.
    pub fn problem(
        &self,
        batch_invariant: bool,
        library: &Library,
        target: &Target,
        random: impl FnMut(usize) -> Result<Memory, Failure>,
    ) -> Result<Problem, Failure> {
        match &self.work {
            Work::DenseDecode(work) => work.problem(batch_invariant, library, target, random),
            Work::SparseDecode(work) => work.problem(batch_invariant, library, target, random),
            Work::KvCache(work) => work.problem(library, target, random),
            // There is no plan, and no query sees another one.
            Work::SparsePrefill(work) => work.problem(library, target, random),
        }
    }
}

pub const MAX_SIZE: i64 = i32::MAX as i64;

pub fn integer(fields: &Map<String, Value>, name: &str, default: Option<i64>, min: i64) -> Result<i64, Failure> {
    let Some(value) = fields.get(name) else {
        return default.ok_or_else(|| Failure::Usage(format!("{name}: missing: must be a number of at least {min}")));
    };
    match value.as_i64() {
        Some(n) if (min..=MAX_SIZE).contains(&n) => Ok(n),
        _ => Err(wrong(name, value, &format!("a number {min} .. {MAX_SIZE}"))),
    }
}

pub fn wrong(name: &str, value: &Value, expected: &str) -> Failure {
    Failure::Usage(format!("{name} = {value}: must be {expected}"))
}
