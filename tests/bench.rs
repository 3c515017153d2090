//! `bench`, as far as it goes without a GPU: its parts, and runs on the CPU backend.

#![allow(dead_code)] // of the tool's modules, those that drive a GPU are compiled only

#[path = "../tools/bench/args.rs"]
mod args;
#[path = "../tools/bench/case.rs"]
mod case;
#[path = "../tools/bench/ceilings.rs"]
mod ceilings;
#[path = "../tools/bench/clock.rs"]
mod clock;
#[path = "../tools/bench/cpu.rs"]
mod cpu;
#[path = "../tools/common/cuda.rs"]
mod cuda;
#[path = "../tools/bench/dense_decode.rs"]
mod dense_decode;
#[path = "../tools/common/failure.rs"]
mod failure;
#[path = "../tools/bench/gpu.rs"]
mod gpu;
#[path = "../tools/bench/inputs.rs"]
mod inputs;
#[path = "../tools/bench/kv_cache.rs"]
mod kv_cache;
#[path = "../tools/common/library.rs"]
mod library;
#[path = "../tools/bench/peers.rs"]
mod peers;
#[path = "../tools/bench/plot.rs"]
mod plot;
#[path = "../tools/bench/problem.rs"]
mod problem;
#[path = "../tools/bench/record.rs"]
mod record;
#[path = "../tools/bench/roofline.rs"]
mod roofline;
#[path = "../tools/bench/run.rs"]
mod run;
#[path = "../tools/bench/sparse_decode.rs"]
mod sparse_decode;
#[path = "../tools/bench/sparse_prefill.rs"]
mod sparse_prefill;
#[path = "../tools/bench/stats.rs"]
mod stats;
#[path = "../tools/common/target.rs"]
mod target;
#[path = "../tools/bench/timing.rs"]
mod timing;

use case::{Case, Dtype};
use dense_decode::DenseDecode;
use inputs::Random;
use peers::{summary, Outcome, Peers};
use roofline::{Ceilings, REFERENCE};
use serde_json::{json, Value};
use sparse_prefill::SparsePrefill;
use std::path::{Path, PathBuf};

const PUBLIC_CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/dense_decode.jsonl");

/// A file in the folder for test output.
fn scratch(name: &str, content: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{name}"));
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().into()
}

/// Exit code, standard output and standard error of a run.
fn bench(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run::main(&args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn parse(case: Value) -> Case {
    Case::parse("dense_decode", &case).unwrap()
}

fn dense(case: Value) -> DenseDecode {
    DenseDecode::parse(case.as_object().unwrap()).unwrap()
}

fn prefill(case: Value) -> SparsePrefill {
    SparsePrefill::parse(case.as_object().unwrap()).unwrap()
}

fn refused(case: Value) -> String {
    Case::parse("dense_decode", &case).unwrap_err().to_string()
}

#[test]
fn case_defaults() {
    let case = dense(json!({"b": 2, "s_q": 1, "h_q": 16, "s_k": 100}));
    assert_eq!((case.h_kv, case.d_qk, case.page_block_size), (1, 576, 64));
    assert_eq!((case.dtype, case.causal), (Dtype::Bf16, false));
    assert_eq!(case.lens, [100, 100]);
    assert_eq!(case.name(), "b2 s_q1 h_q16 s_k100");
}

#[test]
fn case_members() {
    let case = dense(json!({"b": 2, "s_q": 3, "h_q": 16, "h_kv": 2, "d_qk": 512, "bs": 128, "dtype": "fp16",
                            "causal": true, "s_k": 7, "lens": [0, 9]}));
    assert_eq!((case.h_kv, case.d_qk, case.page_block_size), (2, 512, 128));
    assert_eq!((case.dtype, case.causal), (Dtype::Fp16, true));
    assert_eq!(case.lens, [0, 9], "lens go before s_k");
    assert_eq!(case.name(), "b2 s_q3 h_q16 h_kv2 s_k0..9 mean4 d_qk512 bs128 fp16 causal");
}

#[test]
fn malformed_cases_name_the_member() {
    let with = |name: &str, value: Value| {
        let mut case = json!({"b": 2, "s_q": 1, "h_q": 16, "s_k": 100});
        case[name] = value;
        refused(case)
    };
    assert!(with("b", json!(-1)).contains("b = -1"));
    assert!(with("b", json!(1u64 << 40)).contains("b = 1099511627776"));
    assert!(with("b", json!(2_000_000)).contains("b = 2000000: must be at most"));
    assert!(with("h_q", json!("16")).contains("h_q = \"16\""));
    assert!(with("h_q", json!(1.5)).contains("h_q = 1.5"));
    assert!(with("causal", json!(1)).contains("causal = 1"));
    assert!(with("dtype", json!("fp8")).contains("\"fp8\": must be \"bf16\" or \"fp16\""));
    assert!(with("bs", json!(0)).contains("bs = 0"));
    assert!(with("lens", json!([1])).contains("must be b = 2"));
    assert!(with("lens", json!([1, -1])).contains("lens"));
    assert!(with("lens", json!(5)).contains("lens"));
    assert!(refused(json!({"b": 1, "s_q": 1, "h_q": 1})).contains("s_k: missing"));
    assert!(refused(json!([1])).contains("must be an object"));
}

/// Counted one by one.
#[test]
fn attended_pairs() {
    for s_q in 0..6 {
        for len in 0..9 {
            for causal in [false, true] {
                let case = dense(json!({"b": 1, "s_q": s_q, "h_q": 1, "s_k": len, "causal": causal}));
                let sees = |i: i64, key: i64| !causal || key <= len - s_q + i;
                let counted: i64 = (0..s_q).map(|i| (0..len).filter(|key| sees(i, *key)).count() as i64).sum();
                assert_eq!(case.attended_pairs(), counted, "s_q {s_q} len {len} causal {causal}");
            }
        }
    }
}

/// The published figures carry their own floors and rates. They count causal cases as if nothing
/// were masked, which these cases hardly notice.
#[test]
fn floors_are_those_of_the_published_figures() {
    let mut lines = 0;
    for line in case::lines(PUBLIC_CASES).unwrap() {
        let case = parse(line.value["case"].clone());
        let number = |name: &str| line.value[name].as_f64().unwrap();
        let near = |x: f64, published: f64, step: f64| (x - published).abs() <= 0.0005 * published + step;
        assert!(near(REFERENCE.floor_ms(&case), number("floor_ms"), 0.5e-5), "{}", case.name());
        let ms = number("ms");
        assert!(near(case.operations() / ms / 1e9, number("tflops"), 0.05), "{}", case.name());
        assert!(near(case.bytes() / ms / 1e6, number("gbps"), 0.05), "{}", case.name());
        assert!(near(REFERENCE.floor_ms(&case) / ms, number("of_floor"), 0.0005), "{}", case.name());
        lines += 1;
    }
    assert_eq!(lines, 45);
}

#[test]
fn floor_is_the_nearer_ceiling() {
    let ceilings = Ceilings { tflops: 1.0, read_gbps: 1.0 };
    let case = parse(json!({"b": 1, "s_q": 1, "h_q": 1, "s_k": 1000}));
    assert_eq!(ceilings.floor_ms(&case), (2.0 * (1000.0 * 576.0 + 1088.0)) / 1e6);
    assert_eq!(ceilings.ridge(), 1000.0);
    let compute = Ceilings { tflops: 1e-3, ..ceilings };
    assert_eq!(compute.floor_ms(&case), 2.0 * 1000.0 * 1088.0 / 1e6);
}

#[test]
fn medians_and_means() {
    assert_eq!(stats::median(&[]), None);
    assert_eq!(stats::median(&[3.0]), Some(3.0));
    assert_eq!(stats::median(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(stats::median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
    assert_eq!(stats::geometric_mean(&[]), None);
    let mean = stats::geometric_mean(&[1.0, 4.0, 2.0]).unwrap();
    assert!((mean - 2.0).abs() < 1e-12);
}

#[test]
fn best_peer_is_found_across_their_operations() {
    let peers = Peers::load(PUBLIC_CASES).unwrap();
    let best = |case: Value| peers.best(&parse(case)).map(|m| (m.op, m.ms));
    // With one query token the mask hides nothing: the second figure is of a causal case.
    let case = json!({"b": 128, "s_q": 1, "h_q": 16, "s_k": 8192, "causal": false});
    assert_eq!(best(case), Some(("dense_decode_fa3".into(), 0.42499)));
    let case = json!({"b": 1, "s_q": 1, "h_q": 128, "s_k": 65536});
    assert_eq!(best(case), Some(("dense_decode".into(), 0.06112)));
    // Nobody's case, and a mask that does hide something.
    assert_eq!(best(json!({"b": 1, "s_q": 1, "h_q": 128, "s_k": 65537})), None);
    assert_eq!(best(json!({"b": 1, "s_q": 2, "h_q": 128, "s_k": 65536})), None);
    assert_eq!(best(json!({"b": 1, "s_q": 1, "h_q": 128, "s_k": 65536, "dtype": "fp16"})), None);

    let file = scratch("mask.jsonl", r#"{"op":"dense_decode","case":{"b":1,"s_q":2,"h_q":1,"s_k":9},"ms":1}"#);
    let peers = Peers::load(&file).unwrap();
    assert!(peers.best(&parse(json!({"b": 1, "s_q": 2, "h_q": 1, "s_k": 9}))).is_some());
    assert!(peers.best(&parse(json!({"b": 1, "s_q": 2, "h_q": 1, "s_k": 9, "causal": true}))).is_none());
}

#[test]
fn summary_has_means_and_the_worst_case() {
    let outcome = |case: i64, ratio, of_floor| Outcome { case: json!({ "b": case }), ratio, of_floor };
    let outcomes = [outcome(1, Some(2.0), Some(0.9)), outcome(2, Some(0.5), Some(0.4)), outcome(3, None, Some(0.1))];
    let line: Value = serde_json::from_str(&summary(&outcomes)).unwrap();
    assert_eq!(line["op"], "summary");
    assert_eq!((line["cases"].as_i64(), line["compared"].as_i64()), (Some(3), Some(2)));
    assert_eq!(line["slower_than_peer"], 1);
    assert_eq!(line["geomean_ratio"], 1.0);
    assert_eq!(line["geomean_of_floor"], 0.33);
    assert_eq!(line["worst_ratio"], 0.5);
    assert_eq!(line["worst_case"], json!({"b": 2}));
    let empty: Value = serde_json::from_str(&summary(&[])).unwrap();
    assert_eq!(empty["geomean_ratio"], Value::Null);
    assert_eq!(empty["worst_case"], Value::Null);
}

#[test]
fn gpu_line() {
    let case = parse(json!({"b": 128, "s_q": 1, "h_q": 8, "s_k": 8192}));
    let measured = record::Measured {
        ms: 0.4,
        reps: 30,
        kernel: "k".into(),
        plan_ms: Some(0.003),
        graph_ms: Some(0.39),
        host_us: Some(4.256),
        sm_clock_mhz: Some(1755.0),
        workspace_bytes: Some(0),
    };
    let setting = record::Setting {
        device: "D".into(),
        gpu: true,
        ceilings: Some(Ceilings { tflops: 700.0, read_gbps: 2472.0 }),
        rest: false,
        batch_invariant: false,
    };
    let peer = Some(peers::Match { op: "dense_decode_fa3".into(), ms: 0.5 });
    let line: Value = serde_json::from_str(&record::case_line(&case, &measured, &setting, Some(&peer))).unwrap();
    assert_eq!(line["floor_ms"], 0.39165);
    assert_eq!(line["of_floor"], 0.979);
    assert_eq!(line["of_measured_floor"], 1.224, "0.8 of the reference bandwidth");
    assert_eq!(line["host_us"], 4.26);
    assert_eq!((line["peer_ms"].as_f64(), line["ratio"].as_f64()), (Some(0.5), Some(1.25)));
    assert_eq!(line["peer"], "dense_decode_fa3");
    let unmatched: Value = serde_json::from_str(&record::case_line(&case, &measured, &setting, Some(&None))).unwrap();
    assert_eq!(unmatched["ratio"], Value::Null);
    let alone: Value = serde_json::from_str(&record::case_line(&case, &measured, &setting, None)).unwrap();
    assert!(alone.get("ratio").is_none());
}

#[test]
fn random_values_are_normal() {
    for dtype in [Dtype::Bf16, Dtype::Fp16] {
        let bits = inputs::values(dtype, 100_001, &mut Random::new(7));
        assert_eq!(bits.len(), 100_001);
        let value = |b: &u16| match dtype {
            Dtype::Bf16 => half::bf16::from_bits(*b).to_f64(),
            Dtype::Fp16 => half::f16::from_bits(*b).to_f64(),
        };
        let values: Vec<f64> = bits.iter().map(value).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.002, "{mean}");
        assert!((variance.sqrt() - 0.1).abs() < 0.002, "{variance}");
        assert!(values.iter().all(|v| v.abs() <= 1.0));
        let beyond_two_sigma = values.iter().filter(|v| v.abs() > 0.2).count() as f64 / values.len() as f64;
        assert!((beyond_two_sigma - 0.0455).abs() < 0.005, "{beyond_two_sigma}");
    }
}

#[test]
fn block_tables_hold_every_page_once() {
    let case = dense(json!({"b": 3, "s_q": 1, "h_q": 1, "lens": [257, 0, 1], "bs": 64}));
    assert_eq!(inputs::blocks_per_request(&case), 8);
    let mut table = inputs::block_table(&case, &mut Random::new(1));
    assert_ne!(table, (0..24).collect::<Vec<i32>>(), "shuffled");
    table.sort();
    assert_eq!(table, (0..24).collect::<Vec<i32>>());
    // Pages that 256 tokens do not divide into.
    let case = dense(json!({"b": 1, "s_q": 1, "h_q": 1, "s_k": 257, "bs": 1024}));
    assert_eq!(inputs::blocks_per_request(&case), 1);
    let case = dense(json!({"b": 0, "s_q": 1, "h_q": 1, "s_k": 257}));
    assert!(inputs::block_table(&case, &mut Random::new(1)).is_empty());
}

#[test]
fn plot_is_well_formed_and_in_its_frame() {
    let points: Vec<plot::Point> = case::lines(PUBLIC_CASES)
        .unwrap()
        .iter()
        .map(|line| {
            let case = parse(line.value["case"].clone());
            let ms = line.value["ms"].as_f64().unwrap();
            plot::Point {
                name: format!("{} <&\">", case.name()),
                intensity: case.operations() / case.bytes(),
                tflops: case.operations() / ms / 1e9,
            }
        })
        .collect();
    let svg = plot::svg(&points, &REFERENCE, true, "GPU <1> & \"2\"");
    check_xml(&svg);
    assert_eq!(svg.matches("<circle").count(), points.len());
    assert_eq!(svg.matches("<title>").count(), points.len());
    assert!(svg.contains("737 TFLOPS") && svg.contains("3.09 TB/s"));
    for attribute in ["cx", "x1", "x2"] {
        assert!(numbers(&svg, attribute).all(|x| (80.0..=930.0).contains(&x)), "{attribute}");
    }
    for attribute in ["cy", "y1", "y2"] {
        assert!(numbers(&svg, attribute).all(|y| (60.0..=535.0).contains(&y)), "{attribute}");
    }
    let speeds: Vec<f64> = numbers(&svg, "cy").collect();
    let fastest = points.iter().map(|p| p.tflops).fold(0.0, f64::max);
    let top = points.iter().position(|p| p.tflops == fastest).unwrap();
    assert!(speeds.iter().all(|y| *y >= speeds[top]), "the fastest case is the highest dot");

    check_xml(&plot::svg(&[], &REFERENCE, false, "no cases"));
}

/// Values of an attribute throughout a document.
fn numbers<'a>(svg: &'a str, attribute: &str) -> impl Iterator<Item = f64> + 'a {
    let key = format!(" {attribute}=\"");
    let parts: Vec<&str> = svg.split(&*key).skip(1).collect();
    parts.into_iter().map(|rest| rest.split('"').next().unwrap().parse().unwrap())
}

/// Every element is closed in order, attributes are quoted, and no number is NaN or infinite.
fn check_xml(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "stray >: {}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("an element ends");
        let element = &rest[start + 1..end];
        assert!(!element.contains('<'), "{element}");
        assert_eq!(element.matches('"').count() % 2, 0, "{element}");
        let name = element.trim_matches('/').split(' ').next().unwrap().to_string();
        if element.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !element.ends_with('/') {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(rest.trim().is_empty(), "{rest}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn wrong_usage_is_2_and_says_what() {
    for (args, expected) in [
        (&[][..], "--cases FILE.jsonl is missing"),
        (&["--cases"], "--cases: a value must follow"),
        (&["--cases", PUBLIC_CASES, "--nonsense"], "--nonsense: unknown option"),
        (&["--cases", PUBLIC_CASES, "--device", "gpu"], "--device gpu"),
        (&["--cases", PUBLIC_CASES, "--device", "-1"], "--device -1"),
        (&["--cases", PUBLIC_CASES, "--reps", "0"], "--reps 0"),
        (&["--cases", PUBLIC_CASES, "--op", "sparse"], "--op sparse: must be dense_decode or sparse_decode or"),
        (&["--cases", "/nonexistent.jsonl"], "/nonexistent.jsonl: "),
        (&["--cases", PUBLIC_CASES, "--filter", "nothing has this name"], "no case that was asked for"),
    ] {
        let (code, out, err) = bench(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
        assert!(out.is_empty());
    }
    let (code, out, _) = bench(&["--help"]);
    assert_eq!((code, out.as_str()), (0, args::USAGE));
}

#[test]
fn malformed_files_are_2_and_name_the_line() {
    let case = r#"{"op":"dense_decode","case":{"b":1,"s_q":1,"h_q":1,"s_k":1}}"#;
    for (content, expected) in [
        (format!("{case}\n{{"), ":2: "),
        (format!("\n{case}\n[]"), ":3: op: must be a string"),
        (r#"{"op":"dense_decode"}"#.into(), "case = null: must be an object"),
        (r#"{"op":"dense_decode","case":{"b":1}}"#.into(), "s_q: missing"),
    ] {
        let (code, _, err) = bench(&["--device", "cpu", "--cases", &scratch("malformed.jsonl", &content)]);
        assert_eq!(code, 2, "{content}");
        assert!(err.contains(expected), "{content}: {err}");
    }
    let cases = scratch("peerless.jsonl", case);
    let (code, _, err) = bench(&["--device", "cpu", "--cases", &cases, "--vs", &cases]);
    assert_eq!(code, 2);
    assert!(err.contains("ms = null: must be a positive number"), "{err}");
}

#[test]
fn a_device_that_is_not_there_is_3() {
    let (code, out, err) = bench(&["--cases", PUBLIC_CASES, "--device", "4711"]);
    assert_eq!(code, 3, "{err}");
    assert!(out.is_empty());
    assert!(err.contains("flashmla_create: status 3"), "{err}");
}

#[test]
fn runs_on_the_cpu() {
    let cases = scratch(
        "cpu.jsonl",
        r#"{"op":"dense_decode","case":{"b":2,"s_q":2,"h_q":4,"s_k":70,"causal":true,"bs":16}}
{"op":"dense_decode_other","case":{"b":2,"s_q":2,"h_q":4,"s_k":70,"causal":true,"bs":16},"ms":1000}
{"op":"dense_decode","case":{"b":0,"s_q":1,"h_q":4,"s_k":70},"ms":1000}
{"op":"dense_prefill","case":{"b":0}}
"#,
    );
    let peers = scratch(
        "cpu-peers.jsonl",
        r#"{"op":"dense_decode_other","case":{"b":2,"s_q":2,"h_q":4,"s_k":70,"causal":true,"bs":16},"ms":100000}"#,
    );
    let plot = scratch("cpu.svg", "");
    let (code, out, err) =
        bench(&["--cases", &cases, "--device", "cpu", "--reps", "3", "--vs", &peers, "--plot", &plot]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3, "two cases, one of them listed twice, and the summary: {out}");
    let line = &lines[0];
    assert_eq!(line["op"], "dense_decode");
    assert_eq!(line["case"]["bs"], 16);
    assert!(line["ms"].as_f64().unwrap() > 0.0);
    assert_eq!(line["reps"], 3);
    assert_eq!(line["device"], "CPU");
    assert_eq!(line["kernel"], "cpu_dense_decode");
    assert_eq!(line["peer"], "dense_decode_other");
    assert!(line["ratio"].as_f64().unwrap() > 1.0);
    for gpu_only in ["graph_ms", "host_us", "floor_ms", "of_floor", "sm_clock_mhz"] {
        assert_eq!(line[gpu_only], Value::Null, "{gpu_only}");
    }
    assert_eq!(lines[2]["op"], "summary");
    assert_eq!(lines[2]["compared"], 1);
    assert!(err.contains("1 lines of other operations left out"), "{err}");
    assert!(err.contains("[1/2] b2 s_q2 h_q4"), "{err}");
    check_xml(&std::fs::read_to_string(plot).unwrap());
}

#[test]
fn a_case_that_the_library_refuses_does_not_end_the_run() {
    let cases = scratch(
        "refused.jsonl",
        r#"{"op":"dense_decode","case":{"b":1,"s_q":1,"h_q":3,"h_kv":2,"s_k":8}}
{"op":"dense_decode","case":{"b":1,"s_q":1,"h_q":1,"s_k":8}}
"#,
    );
    let (code, out, err) = bench(&["--cases", &cases, "--device", "cpu", "--reps", "1"]);
    assert_eq!(code, 1, "{err}");
    let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines[0]["error"].as_str().unwrap().contains("h_q = 3: must be a multiple of h_kv = 2"), "{out}");
    assert!(lines[1]["ms"].as_f64().is_some(), "{out}");
}

#[test]
fn plan_cases() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/plan.jsonl");
    let cases = case::lines(path).unwrap().into_iter().map(|line| Case::parse(&line.op, &line.value["case"]).unwrap());
    let names: Vec<String> = cases.map(|case| case.name()).collect();
    assert_eq!(names.len(), 6);
    assert!(names.iter().any(|name| name == "b1024 s_q1 h_q128 s_k512"), "{names:?}");
}

const PREFILL_CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/sparse_prefill.jsonl");

#[test]
fn prefill_cases() {
    let case = prefill(json!({"s_q": 4, "s_kv": 100, "h_q": 64, "topk": 16}));
    assert_eq!((case.d_qk, case.shared), (576, None));
    assert_eq!(case.name(), "s_q4 s_kv100 h_q64 topk16");
    assert_eq!(case.operations(), 2.0 * 64.0 * (4 * 16) as f64 * 1088.0);
    assert_eq!(case.bytes(), 2.0 * (64.0 * 576.0 + 4.0 * 64.0 * 1088.0), "no more rows than indices");
    let case = prefill(json!({"s_q": 9, "s_kv": 8, "h_q": 1, "topk": 16, "d_qk": 512, "shared": 0.8}));
    assert_eq!(case.name(), "s_q9 s_kv8 h_q1 topk16 d_qk512 shared0.8");
    assert_eq!(case.operations(), 2.0 * (9 * 8) as f64 * 1024.0, "a row counts once");
    assert_eq!(case.bytes(), 2.0 * (8.0 * 512.0 + 9.0 * 1024.0));

    let with = |name: &str, value: Value| {
        let mut case = json!({"s_q": 2, "s_kv": 10, "h_q": 16, "topk": 4});
        case[name] = value;
        Case::parse("sparse_prefill", &case).unwrap_err().to_string()
    };
    assert!(with("s_q", json!(-1)).contains("s_q = -1: must be a number 0 .. 2147483647"));
    assert!(with("s_kv", json!("10")).contains("s_kv = \"10\""));
    assert!(with("h_q", json!(0)).contains("h_q = 0"));
    assert!(with("topk", json!(1 << 30)).contains("s_q * topk = 2147483648: must be at most 1073741824"));
    assert!(with("shared", json!(1.5)).contains("shared = 1.5: must be a number 0 .. 1"));
    assert!(with("shared", json!(true)).contains("shared = true"));
    let missing = Case::parse("sparse_prefill", &json!({"s_q": 2, "s_kv": 10, "h_q": 16})).unwrap_err();
    assert!(missing.to_string().contains("topk: missing"));

    // Sizes alike, indices not.
    let parse = |shared: Value| {
        let mut case = json!({"s_q": 2, "s_kv": 10, "h_q": 16, "topk": 4});
        case.as_object_mut().unwrap().extend(shared.as_object().unwrap().clone());
        Case::parse("sparse_prefill", &case).unwrap()
    };
    assert!(parse(json!({})).same_work(&parse(json!({"d_qk": 576}))));
    assert!(!parse(json!({})).same_work(&parse(json!({"shared": 0.8}))));
    assert!(!parse(json!({})).same_work(&self::parse(json!({"b": 2, "s_q": 2, "h_q": 16, "s_k": 10}))));
}

#[test]
fn prefill_floors_are_those_of_the_published_figures() {
    let lines = case::lines(PREFILL_CASES).unwrap();
    let peers = Peers::load(PREFILL_CASES).unwrap();
    for line in &lines {
        assert_eq!(line.op, "sparse_prefill");
        let case = Case::parse(&line.op, &line.value["case"]).unwrap();
        let number = |name: &str| line.value[name].as_f64().unwrap();
        let (floor, ms) = (REFERENCE.floor_ms(&case), number("ms"));
        assert!((floor - number("floor_ms")).abs() <= 1e-5 * floor + 0.5e-5, "{}: {floor}", case.name());
        assert!((case.operations() / ms / 1e9 - number("tflops")).abs() <= 0.3, "{}", case.name());
        assert!((floor / ms - number("of_floor")).abs() <= 0.0006, "{}", case.name());
        assert_eq!(peers.best(&case).unwrap().ms, ms);
    }
    assert_eq!(lines.len(), 8);
}

#[test]
fn indices_are_distinct_and_shared_as_asked_for() {
    let rows = |case: Value| {
        let case = prefill(case);
        let indices = inputs::indices(&case, &mut Random::new(5));
        assert_eq!(indices.len() as i64, case.s_q * case.topk);
        indices.chunks(case.topk.max(1) as usize).map(|row| row.to_vec()).collect::<Vec<_>>()
    };
    let set = |row: &[i32]| row.iter().copied().collect::<std::collections::BTreeSet<i32>>();
    let shared_with_next = |rows: &[Vec<i32>]| -> Vec<usize> {
        rows.windows(2).map(|pair| set(&pair[0]).intersection(&set(&pair[1])).count()).collect()
    };
    for shared in [None, Some(0.0), Some(0.8), Some(1.0)] {
        let mut case = json!({"s_q": 50, "s_kv": 5000, "h_q": 1, "topk": 100});
        if let Some(part) = shared {
            case["shared"] = json!(part);
        }
        let rows = rows(case);
        assert!(rows.iter().all(|row| set(row).len() == 100 && row.iter().all(|i| (0..5000).contains(i))));
        let common = shared_with_next(&rows);
        match shared {
            // Two of 5000 on average.
            None => assert!((0..200).contains(&common.iter().sum::<usize>())),
            Some(part) => assert!(common.iter().all(|n| *n == (100.0 * part) as usize), "{common:?}"),
        }
        assert_ne!(rows[0], rows[1], "in another order");
    }
    // Hardly any rows to take another one from, and none.
    let few = rows(json!({"s_q": 9, "s_kv": 12, "h_q": 1, "topk": 10, "shared": 0.5}));
    assert!(few.iter().all(|row| set(row).len() == 10));
    assert!(shared_with_next(&few).iter().all(|n| *n == 8));
    for shared in [json!({}), json!({"shared": 0.5})] {
        let mut case = json!({"s_q": 3, "s_kv": 4, "h_q": 1, "topk": 6});
        case.as_object_mut().unwrap().extend(shared.as_object().unwrap().clone());
        for row in rows(case) {
            assert_eq!((set(&row[..4]).len(), &row[4..]), (4, &[-1, -1][..]));
        }
    }
    assert!(rows(json!({"s_q": 3, "s_kv": 0, "h_q": 1, "topk": 2})).iter().all(|row| *row == [-1, -1]));
    assert!(rows(json!({"s_q": 3, "s_kv": 7, "h_q": 1, "topk": 0})).is_empty());
}

#[test]
fn prefills_run_on_the_cpu() {
    let cases = scratch(
        "cpu-prefill.jsonl",
        r#"{"op":"sparse_prefill","case":{"s_q":3,"s_kv":70,"h_q":4,"topk":16,"shared":0.5},"ms":100000}
{"op":"dense_decode","case":{"b":1,"s_q":1,"h_q":4,"s_k":70}}
{"op":"sparse_prefill","case":{"s_q":0,"s_kv":70,"h_q":4,"topk":16},"ms":100000}
{"op":"sparse_prefill","case":{"s_q":1,"s_kv":70,"h_q":4,"topk":16,"d_qk":192},"ms":100000}
"#,
    );
    let run = |more: &[&str]| {
        let (code, out, err) = bench(&[&["--cases", &cases, "--device", "cpu", "--reps", "2"], more].concat());
        (code, out.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>(), err)
    };
    let (code, lines, err) = run(&["--op", "sparse_prefill", "--filter", "s_kv70", "--vs", PREFILL_CASES]);
    assert_eq!((code, lines.len()), (1, 4), "one refused: {err}");
    assert_eq!((&lines[0]["op"], &lines[0]["kernel"]), (&json!("sparse_prefill"), &json!("cpu_sparse_prefill")));
    assert_eq!(lines[0]["case"]["shared"], 0.5);
    assert!(lines[0]["ms"].as_f64().unwrap() > 0.0);
    for absent in ["plan_ms", "graph_ms", "ratio", "floor_ms"] {
        assert_eq!(lines[0][absent], Value::Null, "{absent}");
    }
    assert!(lines[2]["error"].as_str().unwrap().contains("d_qk = 192: must be 576 or 512"));
    assert!(err.contains("1 lines of other operations left out"), "{err}");
    assert!(err.contains("[1/3] s_q3 s_kv70 h_q4 topk16 shared0.5"), "{err}");

    // Both operations of a file, where none is asked for.
    let (_, lines, _) = run(&[]);
    let ops: Vec<&str> = lines.iter().map(|line| line["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["sparse_prefill", "dense_decode", "sparse_prefill", "sparse_prefill"]);
}

const SPARSE_CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/sparse_decode.jsonl");
const CACHE_CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/kv_cache.jsonl");

#[test]
fn sparse_decode_cases() {
    let parse = |case: Value| Case::parse("sparse_decode", &case);
    let case = parse(json!({"b": 2, "s_q": 1, "h_q": 8, "s_k": 100, "topk": 16})).unwrap();
    assert_eq!(case.name(), "b2 s_q1 h_q8 s_k100 topk16");
    assert_eq!(case.operations(), 2.0 * 8.0 * (2 * 16) as f64 * 1088.0);
    assert_eq!(case.bytes(), 2.0 * 16.0 * 656.0 + 2.0 * 2.0 * 8.0 * 1088.0);
    let second = json!({"b": 1, "s_q": 2, "h_q": 1, "s_k": 10, "topk": 16, "d_qk": 512, "bs": 256,
                        "xs": 100, "xtopk": 50, "xbs": 2});
    let case = parse(second).unwrap();
    assert_eq!(case.name(), "b1 s_q2 h_q1 s_k10 topk16 d_qk512 bs256 xs100 xtopk50 xbs2");
    assert_eq!(case.operations(), 2.0 * (2 * (10 + 50)) as f64 * 1024.0);
    // Two draws of half of a hundred touch three quarters of them.
    assert_eq!(case.bytes(), (10.0 + 75.0) * 584.0 + 2.0 * 2.0 * 1024.0);
    let message = |case: Value| parse(case).unwrap_err().to_string();
    assert!(message(json!({"b": 2, "s_q": 1, "h_q": 8, "s_k": 100})).contains("topk: missing"));
    let many = json!({"b": 1 << 20, "s_q": 1 << 10, "h_q": 8, "s_k": 100, "topk": 16});
    assert!(message(many).contains("must be at most 1073741824"));
    let long = json!({"b": 1 << 20, "s_q": 1, "h_q": 8, "s_k": 1 << 20, "topk": 16});
    assert!(message(long).contains("tokens: must be at most 2147483647"));
}

#[test]
fn sparse_decode_floors_are_those_of_the_published_figures() {
    let lines = case::lines(SPARSE_CASES).unwrap();
    let peers = Peers::load(SPARSE_CASES).unwrap();
    let (mut published, mut padded) = (0, 0);
    for line in &lines {
        let case = Case::parse("sparse_decode", &line.value["case"]).unwrap();
        assert_eq!(peers.best(&case).unwrap().ms, line.value["ms"].as_f64().unwrap());
        if line.op != "sparse_decode" {
            assert_eq!(line.op, "sparse_decode_padded");
            padded += 1;
            continue;
        }
        let number = |name: &str| line.value[name].as_f64().unwrap();
        let floor = REFERENCE.floor_ms(&case);
        assert!((floor - number("floor_ms")).abs() <= 1e-3 * floor + 0.5e-5, "{}: {floor}", case.name());
        assert!((case.operations() / number("ms") / 1e9 - number("tflops")).abs() <= 0.3, "{}", case.name());
        published += 1;
    }
    assert_eq!((published, padded), (17, 24));
}

#[test]
fn cache_indices_are_distinct_tokens_of_their_request() {
    let sizes = inputs::CacheIndices { b: 3, s_q: 2, s_k: 100, topk: 40, page_block_size: 16, pages: 7 };
    let indices = inputs::cache_indices(sizes, &mut Random::new(5));
    assert_eq!(indices.len(), 3 * 2 * 40);
    let mut pages_of = Vec::new();
    for request in indices.chunks(2 * 40) {
        for row in request.chunks(40) {
            let set: std::collections::BTreeSet<i32> = row.iter().copied().collect();
            assert_eq!(set.len(), 40);
            assert!(set.iter().all(|index| (0..3 * 7 * 16).contains(index)));
        }
        pages_of.push(request.iter().map(|index| index / 16).collect::<std::collections::BTreeSet<i32>>());
    }
    assert!(pages_of[0].is_disjoint(&pages_of[1]) && pages_of[1].is_disjoint(&pages_of[2]));
    let few = inputs::CacheIndices { s_k: 5, pages: 1, topk: 7, ..sizes };
    assert!(inputs::cache_indices(few, &mut Random::new(5)).chunks(7).all(|row| row[5..] == [-1, -1]));
}

#[test]
fn cache_cases() {
    let parse = |op: &str, case: Value| Case::parse(op, &case);
    let append = parse("kv_cache_append", json!({"n": 10})).unwrap();
    assert_eq!((append.name().as_str(), append.bytes()), ("append v32 n10 bs64", 10.0 * (1152.0 + 656.0 + 4.0)));
    let gather = parse("kv_cache_gather", json!({"n": 10, "layout": "v4", "bs": 16})).unwrap();
    assert_eq!((gather.name().as_str(), gather.bytes()), ("gather v4 n10 bs16", 10.0 * (1024.0 + 584.0 + 4.0)));
    let map = parse("map_indices", json!({"n": 2, "topk": 100, "s_k": 4096})).unwrap();
    assert_eq!((map.name().as_str(), map.bytes(), map.operations()), ("map n2 topk100 bs64", 1600.0, 0.0));
    let wrong = parse("kv_cache_append", json!({"n": 10, "layout": "v5"})).unwrap_err().to_string();
    assert!(wrong.contains("layout = \"v5\": must be"), "{wrong}");
    for line in case::lines(CACHE_CASES).unwrap() {
        Case::parse(&line.op, &line.value["case"]).unwrap();
    }
}

#[test]
fn sparse_decodes_and_caches_run_on_the_cpu() {
    let cases = scratch(
        "cpu-sparse.jsonl",
        r#"{"op":"sparse_decode","case":{"b":3,"s_q":2,"s_k":70,"h_q":4,"topk":16}}
{"op":"sparse_decode","case":{"b":2,"s_q":1,"s_k":70,"h_q":4,"topk":16,"d_qk":512,"bs":256,"xs":50,"xtopk":9,"xbs":2}}
{"op":"sparse_decode","case":{"b":0,"s_q":1,"s_k":70,"h_q":4,"topk":16}}
{"op":"kv_cache_append","case":{"n":100}}
{"op":"kv_cache_gather","case":{"n":100,"layout":"v4"}}
{"op":"kv_cache_gather","case":{"n":100,"layout":"bf16","d_qk":512,"s_k":50}}
{"op":"map_indices","case":{"n":3,"topk":100,"s_k":1000,"bs":61}}
"#,
    );
    let (code, out, err) = bench(&["--cases", &cases, "--device", "cpu", "--reps", "2"]);
    assert_eq!((code, out.lines().count()), (0, 7), "{out}{err}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kernel"], "cpu_sparse_decode");
    assert!(lines.iter().all(|line| line["ms"].as_f64().unwrap() >= 0.0), "{out}");
}
