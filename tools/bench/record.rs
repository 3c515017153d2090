//! Lines of output: JSON objects with their members in a fixed order.

use super::case::Case;
use super::ceilings;
use super::peers::Match;
use super::roofline::{Ceilings, REFERENCE};
use serde_json::{json, Value};

/// What was measured of a case.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    pub ms: f64,
    pub reps: usize,
    pub kernel: String,
    // Of GPUs only.
    pub plan_ms: Option<f64>,
    pub graph_ms: Option<f64>,
    pub host_us: Option<f64>,
    pub sm_clock_mhz: Option<f64>,
    pub workspace_bytes: Option<usize>,
}

/// Where and how it was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub device: String,
    /// The floor is one of GPUs.
    pub gpu: bool,
    pub ceilings: Option<Ceilings>,
    pub rest: bool,
    pub batch_invariant: bool,
}

pub fn object(members: &[(&str, Value)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// To this many decimals.
pub fn rounded(value: f64, decimals: i32) -> Value {
    let unit = 10f64.powi(decimals);
    json!((value * unit).round() / unit)
}

fn optional(value: Option<f64>, decimals: i32) -> Value {
    value.map_or(Value::Null, |v| rounded(v, decimals))
}

pub fn case_line(case: &Case, m: &Measured, setting: &Setting, peer: Option<&Option<Match>>) -> String {
    let floor = setting.gpu.then(|| REFERENCE.floor_ms(case));
    let measured_floor = setting.ceilings.map(|c| c.floor_ms(case));
    let mut members = vec![
        ("op", json!(case.op())),
        ("case", case.json.clone()),
        ("ms", rounded(m.ms, 5)),
        ("graph_ms", optional(m.graph_ms, 5)),
        ("plan_ms", optional(m.plan_ms, 5)),
        ("host_us", optional(m.host_us, 2)),
        ("tflops", rounded(case.operations() / m.ms / 1e9, 1)),
        ("gbps", rounded(case.bytes() / m.ms / 1e6, 1)),
        ("floor_ms", optional(floor, 5)),
        ("of_floor", optional(floor.map(|f| f / m.ms), 3)),
        ("of_measured_floor", optional(measured_floor.map(|f| f / m.ms), 3)),
        ("sm_clock_mhz", optional(m.sm_clock_mhz, 0)),
        ("reps", json!(m.reps)),
        ("rest", json!(setting.rest)),
        ("batch_invariant", json!(setting.batch_invariant)),
        ("workspace_bytes", json!(m.workspace_bytes)),
        ("kernel", json!(m.kernel)),
        ("device", json!(setting.device)),
    ];
    if let Some(peer) = peer {
        members.push(("peer_ms", optional(peer.as_ref().map(|p| p.ms), 5)));
        members.push(("peer", json!(peer.as_ref().map(|p| &p.op))));
        members.push(("ratio", optional(peer.as_ref().map(|p| p.ms / m.ms), 3)));
    }
    object(&members)
}

pub fn ceilings_line(m: &ceilings::Measured, setting: &Setting) -> String {
    object(&[
        ("op", json!("ceilings")),
        ("read_gbps", optional(m.read_gbps, 1)),
        ("copy_gbps", optional(m.copy_gbps, 1)),
        ("tflops", optional(m.tflops, 1)),
        ("launch_us", optional(m.launch_us, 2)),
        ("sm_clock_mhz", optional(m.sm_clock_mhz, 0)),
        ("rest", json!(setting.rest)),
        ("device", json!(setting.device)),
    ])
}

pub fn failed_line(case: &Case, message: &str) -> String {
    object(&[("op", json!(case.op())), ("case", case.json.clone()), ("error", json!(message))])
}
