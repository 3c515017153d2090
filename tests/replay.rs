//! `replay` on the CPU backend: golden cases, cases with a known result, malformed files.

#[path = "../tools/replay/args.rs"]
mod args;
#[path = "../tools/replay/bounds.rs"]
mod bounds;
#[path = "../tools/replay/case.rs"]
mod case;
#[path = "../tools/common/cuda.rs"]
mod cuda;
#[path = "../tools/replay/dense_decode.rs"]
mod dense_decode;
// Of the shared modules, each tool uses a part.
#[allow(dead_code)]
#[path = "../tools/common/failure.rs"]
mod failure;
#[path = "../tools/replay/file.rs"]
mod file;
#[allow(dead_code)]
#[path = "../tools/common/library.rs"]
mod library;
#[path = "../tools/replay/run.rs"]
mod run;
#[path = "../tools/replay/sparse_decode.rs"]
mod sparse_decode;
#[path = "../tools/replay/sparse_prefill.rs"]
mod sparse_prefill;
#[allow(dead_code)]
#[path = "../tools/common/target.rs"]
mod target;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn scratch(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{name}.safetensors"));
    path.to_str().unwrap().into()
}

/// Exit code, standard output and standard error of a run.
fn replay(args: &[&str]) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run::main(&args, &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// A file in the making: tensors as type, shape and bytes.
#[derive(Clone)]
struct File {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl File {
    fn set(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> File {
        self.tensors.insert(name.into(), (dtype, shape.into(), bytes));
        self
    }

    fn without(mut self, name: &str) -> File {
        self.tensors.remove(name).unwrap();
        self
    }

    /// The same bytes under another shape.
    fn reshaped(mut self, name: &str, shape: &[usize]) -> File {
        self.tensors.get_mut(name).unwrap().1 = shape.into();
        self
    }

    fn key(mut self, name: &str, value: &str) -> File {
        self.metadata.insert(name.into(), value.into());
        self
    }

    fn without_key(mut self, name: &str) -> File {
        self.metadata.remove(name).unwrap();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let tensors = self.tensors.iter().map(|(name, tensor)| {
            let (dtype, shape, bytes) = tensor;
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize(tensors, Some(self.metadata.clone())).unwrap()
    }

    fn replay(&self, name: &str) -> (i32, String, String) {
        let path = scratch(name);
        std::fs::write(&path, self.bytes()).unwrap();
        replay(&[&path, "--device", "cpu"])
    }
}

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn elements(dtype: Dtype, values: impl Iterator<Item = f32>) -> Vec<u8> {
    let bits = |v: f32| match dtype {
        Dtype::BF16 => bf16::from_f32(v).to_bits(),
        Dtype::F16 => f16::from_f32(v).to_bits(),
        other => panic!("{other} is no element type"),
    };
    values.flat_map(|v| bits(v).to_le_bytes()).collect()
}

/// A case whose result is known: q is 0, so the output is the mean of the rows' first 512 elements
/// and lse the logarithm of their number. Request 0 has two tokens with values 0.25 and 0.75, on
/// the second page; request 1 has none. Everything else in the cache is NaN.
fn known(dtype: Dtype) -> File {
    let row = |value: f32| std::iter::repeat_n(value, 576);
    let page_of = |a: f32, b: f32| row(a).chain(row(b));
    let cache = page_of(f32::NAN, f32::NAN).chain(page_of(0.25, 0.75));
    let out = std::iter::repeat_n(0.5, 3 * 512).chain(std::iter::repeat_n(0.0, 3 * 512));
    let ln2 = std::f32::consts::LN_2;
    let none = f32::NEG_INFINITY;
    let file = File { tensors: BTreeMap::new(), metadata: HashMap::new() };
    file.set("q", dtype, &[2, 1, 3, 576], elements(dtype, std::iter::repeat_n(0.0, 2 * 3 * 576)))
        .set("kv_cache", dtype, &[2, 2, 1, 576], elements(dtype, cache))
        .set("block_table", Dtype::I32, &[2, 2], ints(&[1, 2147480000, -7, 5]))
        .set("cache_seqlens", Dtype::I32, &[2], ints(&[2, 0]))
        .set("out", dtype, &[2, 1, 3, 512], elements(dtype, out))
        .set("lse", Dtype::F32, &[2, 3, 1], floats(&[ln2, ln2, ln2, none, none, none]))
        .key("op", "dense_decode")
}

fn golden_cases(prefix: &str, tensors: &[&str]) {
    let mut files = 0;
    for entry in std::fs::read_dir(GOLDEN).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.starts_with(prefix) || !name.ends_with(".safetensors") {
            continue;
        }
        let results = scratch(&format!("results-{name}"));
        let (code, out, err) = replay(&[path.to_str().unwrap(), "--device", "cpu", "--out", &results]);
        assert_eq!(code, 0, "{name}: {out}{err}");
        assert_eq!(out.matches("within bounds").count(), tensors.len(), "{name}: {out}");

        // The written outputs have the shapes and types of the recorded ones.
        let (case, results) = (std::fs::read(&path).unwrap(), std::fs::read(results).unwrap());
        let (case, results) = (SafeTensors::deserialize(&case).unwrap(), SafeTensors::deserialize(&results).unwrap());
        for tensor in tensors {
            let (recorded, written) = (case.tensor(tensor).unwrap(), results.tensor(tensor).unwrap());
            assert_eq!((recorded.dtype(), recorded.shape()), (written.dtype(), written.shape()));
        }
        files += 1;
    }
    assert!(files >= 2, "{files} golden files {prefix}* in {GOLDEN}");
}

#[test]
fn golden_cases_are_within_bounds() {
    golden_cases("dense_", &["out", "lse"]);
    golden_cases("sparse_", &["out", "lse"]);
    golden_cases("prefill_", &["out", "max_logits", "lse"]);
}

/// A sparse prefill whose result is known: q is 0, so the output is the mean of the attended rows' first 512
/// elements. Token 0 attends to rows of 0.25 and 0.75, one of them twice, its length hiding the last index;
/// token 1 to none. The rows between are NaN.
fn known_prefill() -> File {
    let bf16 = Dtype::BF16;
    let rows = [0.25, f32::NAN, 0.75].into_iter().flat_map(|value| std::iter::repeat_n(value, 512));
    let mean = (0.25 + 0.25 + 0.75) / 3.0;
    let out = [mean, mean / 2.0, 0.0, 0.0].into_iter().flat_map(|value| std::iter::repeat_n(value, 512));
    let ln3 = 3f32.ln();
    let none = f32::NEG_INFINITY;
    let file = File { tensors: BTreeMap::new(), metadata: HashMap::new() };
    file.set("q", bf16, &[2, 2, 512], vec![0; 2 * 2 * 512 * 2])
        .set("kv", bf16, &[3, 1, 512], elements(bf16, rows))
        .set("indices", Dtype::I32, &[2, 1, 5], ints(&[0, 2, -1, 0, 1, 3, i32::MIN, 2147480000, -3, 1]))
        .set("topk_length", Dtype::I32, &[2], ints(&[4, 4]))
        // exp(ln3) / (exp(ln3) + exp(sink)): all of it, and half.
        .set("attn_sink", Dtype::F32, &[2], floats(&[none, ln3]))
        .set("out", bf16, &[2, 2, 512], elements(bf16, out))
        .set("max_logits", Dtype::F32, &[2, 2], floats(&[0.0, 0.0, none, none]))
        .set("lse", Dtype::F32, &[2, 2], floats(&[ln3, ln3, none, none]))
        .key("op", "sparse_prefill")
}

#[test]
fn known_prefills() {
    let (code, out, err) = known_prefill().replay("prefill");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("device CPU\nkernel cpu_sparse_prefill\n"), "{out}");
    assert_eq!(out.matches("within bounds").count(), 3, "{out}");

    let inf = f32::INFINITY;
    let ln3 = 3f32.ln();
    let upstream = known_prefill().key("lse_empty", "+inf");
    let (code, out, _) = upstream.clone().replay("prefill-empty");
    assert_eq!(code, 1, "the file expects -inf: {out}");
    assert!(out.contains("lse [2, 2]") && out.contains("2 elements, the first at [1, 0]"), "{out}");
    let upstream = upstream.set("lse", Dtype::F32, &[2, 2], floats(&[ln3, ln3, inf, inf]));
    assert_eq!(upstream.replay("prefill-empty").0, 0);

    // Without sinks and lengths, the second head is like the first, and the NaN row is in sight.
    let (code, out, _) = known_prefill().without("attn_sink").replay("prefill-no-sink");
    assert_eq!(code, 1);
    assert!(out.contains("OUTSIDE the bounds, 512 elements, the first at [0, 1, 0]"), "{out}");
    let (code, out, _) = known_prefill().without("topk_length").replay("prefill-no-length");
    assert_eq!(code, 1);
    assert!(out.contains("the first at [0, 0, 0]"), "{out}");

    // Each output is compared on its own.
    let (code, out, _) = known_prefill().without("out").without("lse").replay("prefill-max-logits");
    assert_eq!((code, out.matches("within bounds").count()), (0, 1), "{out}");
    let wrong = known_prefill().set("max_logits", Dtype::F32, &[2, 2], floats(&[0.0, 1e-5, f32::NEG_INFINITY, inf]));
    let (code, out, _) = wrong.replay("prefill-wrong-max-logits");
    assert_eq!(code, 1);
    assert!(out.contains("2 elements, the first at [0, 1]"), "{out}");
}

#[test]
fn malformed_prefills_are_named() {
    let good = known_prefill;
    let words = |n: usize| vec![0u8; n * 4];
    let cases = [
        (good().without("q"), "q: missing: must be BF16 [s_q, h_q, d_qk]"),
        (good().without("kv"), "kv: missing: must be BF16 [s_kv, 1, 512]"),
        (good().without("indices"), "indices: missing: must be I32 [s_q = 2, 1, topk]"),
        (good().set("q", Dtype::F16, &[2, 2, 512], words(1024)), "q: F16 [2, 2, 512]: must be BF16"),
        (good().reshaped("q", &[4, 512]), "q: BF16 [4, 512]: must be BF16"),
        (good().reshaped("kv", &[3, 2, 256]), "kv: BF16 [3, 2, 256]: must be BF16 [s_kv, 1, 512]"),
        (good().reshaped("indices", &[5, 1, 2]), "indices: I32 [5, 1, 2]: must be I32 [s_q = 2"),
        (good().set("indices", Dtype::I64, &[2, 1, 1], words(4)), "indices: I64 [2, 1, 1]: must be I32"),
        (good().reshaped("topk_length", &[1, 2]), "topk_length: I32 [1, 2]: must be I32 [2]"),
        (good().set("attn_sink", Dtype::BF16, &[2], words(1)), "attn_sink: BF16 [2]: must be F32 [2]"),
        (good().reshaped("out", &[2, 1, 1024]), "out: BF16 [2, 1, 1024]: must be BF16 [2, 2, 512]"),
        (good().reshaped("max_logits", &[4]), "max_logits: F32 [4]: must be F32 [2, 2]"),
        (good().reshaped("lse", &[1, 4]), "lse: F32 [1, 4]: must be F32 [2, 2]"),
        (good().key("softmax_scale", "0"), "metadata softmax_scale = \"0\": must be a positive number"),
        (good().key("op", "prefill"), "metadata op = \"prefill\": must be \"dense_decode\" or \"sparse_decode\" or"),
        // What the library itself refuses.
        (
            good().set("q", Dtype::BF16, &[2, 2, 8], words(16)).set("kv", Dtype::BF16, &[1, 1, 8], words(4)),
            "d_qk = 8: must be 576 or 512",
        ),
    ];
    for (i, (file, expected)) in cases.iter().enumerate() {
        let file = if expected.starts_with("d_qk") { file.clone().without("out") } else { file.clone() };
        let (code, out, err) = file.replay(&format!("malformed-prefill-{i}"));
        assert_eq!(code, 2, "{expected}: {out}{err}");
        assert!(err.contains(expected), "expected: {expected}\nin: {err}");
    }
}

#[test]
fn empty_prefills_succeed() {
    for (s_q, s_kv, topk) in [(0, 3, 5), (2, 0, 5), (2, 3, 0), (0, 0, 0)] {
        let file = File { tensors: BTreeMap::new(), metadata: HashMap::new() }
            .set("q", Dtype::BF16, &[s_q, 1, 576], vec![0; s_q * 576 * 2])
            .set("kv", Dtype::BF16, &[s_kv, 1, 576], vec![0xff; s_kv * 576 * 2])
            .set("indices", Dtype::I32, &[s_q, 1, topk], vec![0; s_q * topk * 4])
            .set("out", Dtype::BF16, &[s_q, 1, 512], vec![0; s_q * 512 * 2])
            .set("lse", Dtype::F32, &[s_q, 1], floats(&vec![f32::NEG_INFINITY; s_q]))
            .key("op", "sparse_prefill");
        let (code, out, err) = file.replay("empty-prefill");
        assert_eq!(code, 0, "{s_q} {s_kv} {topk}: {out}{err}");
    }
}

#[test]
fn known_results() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let (code, out, err) = known(dtype).replay(&format!("known-{dtype}"));
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("device CPU\nkernel cpu_dense_decode\n"), "{out}");
        assert!(out.contains("out [2, 1, 3, 512]: max error 0.000e0"), "{out}");
        assert!(out.contains("lse [2, 3, 1]: max error"), "{out}");
    }
}

#[test]
fn conventions_come_from_the_metadata() {
    let ln2 = std::f32::consts::LN_2;
    let inf = f32::INFINITY;
    let file = known(Dtype::BF16).key("lse_empty", "+inf");
    let (code, out, _) = file.replay("empty-wrong");
    assert_eq!(code, 1, "the file expects -inf: {out}");
    assert!(out.contains("OUTSIDE the bounds, 3 elements, the first at [1, 0, 0]"), "{out}");
    let (code, out, _) =
        file.set("lse", Dtype::F32, &[2, 3, 1], floats(&[ln2, ln2, ln2, inf, inf, inf])).replay("empty-right");
    assert_eq!(code, 0, "{out}");

    for (key, value) in [("causal", "1"), ("batch_invariant", "1"), ("lse_base", "e"), ("softmax_scale", "0.125")] {
        let (code, out, err) = known(Dtype::BF16).key(key, value).replay(&format!("key-{key}"));
        assert_eq!(code, 0, "{key}: {out}{err}");
    }
}

#[test]
fn softmax_scale_and_mask_reach_the_library() {
    // q is 1 in one place, so a row's score is its own element there times the scale.
    let q = || elements(Dtype::BF16, (0..2 * 3 * 576).map(|i| (i % 576 == 575) as i32 as f32));
    let file = known(Dtype::BF16).set("q", Dtype::BF16, &[2, 1, 3, 576], q()).key("softmax_scale", "4");
    let (a, b) = (1f64.exp(), 3f64.exp());
    let (lse, out) = ((a + b).ln() as f32, ((0.25 * a + 0.75 * b) / (a + b)) as f32);
    let none = f32::NEG_INFINITY;
    let outs = std::iter::repeat_n(out, 3 * 512).chain(std::iter::repeat_n(0.0, 3 * 512));
    let file = file.set("out", Dtype::BF16, &[2, 1, 3, 512], elements(Dtype::BF16, outs)).set(
        "lse",
        Dtype::F32,
        &[2, 3, 1],
        floats(&[lse, lse, lse, none, none, none]),
    );
    let (code, out, err) = file.replay("scale");
    assert_eq!(code, 0, "{out}{err}");

    // Two query tokens instead of heads: the first sees one key less.
    let outs = [0.25f32, 0.5, 0.0, 0.0].into_iter().flat_map(|v| std::iter::repeat_n(v, 512));
    let ln2 = std::f32::consts::LN_2;
    let file = known(Dtype::BF16)
        .key("causal", "1")
        .set("q", Dtype::BF16, &[2, 2, 1, 576], vec![0; 2 * 2 * 576 * 2])
        .set("out", Dtype::BF16, &[2, 2, 1, 512], elements(Dtype::BF16, outs))
        .set("lse", Dtype::F32, &[2, 1, 2], floats(&[0.0, ln2, none, none]));
    let (code, out, err) = file.clone().replay("causal");
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(file.key("causal", "0").replay("not-causal").0, 1);
}

#[test]
fn differences_are_found_and_located() {
    let mut wrong = vec![0.5f32; 3 * 512];
    wrong.extend([0.0; 3 * 512]);
    wrong[512 + 7] = 0.52;
    wrong[512 + 8] = f32::NAN;
    let file = known(Dtype::BF16).set("out", Dtype::BF16, &[2, 1, 3, 512], elements(Dtype::BF16, wrong.into_iter()));
    let (code, out, err) = file.replay("different");
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("OUTSIDE the bounds, 2 elements, the first at [0, 0, 1, 7]"), "{out}");
    assert!(out.contains("lse [2, 3, 1]"), "the other tensor is compared too: {out}");
}

#[test]
fn references_are_optional() {
    let file = known(Dtype::F16).without("out");
    let (code, out, _) = file.replay("lse-only");
    assert_eq!(code, 0);
    assert!(out.contains("lse [") && !out.contains("out ["), "{out}");
    let (code, out, _) = file.without("lse").replay("neither");
    assert_eq!(code, 0);
    assert!(out.contains("nothing to compare with"), "{out}");
}

#[test]
fn results_are_written_with_their_conventions() {
    let (case, results) = (scratch("written-case"), scratch("written-results"));
    std::fs::write(&case, known(Dtype::BF16).bytes()).unwrap();
    assert_eq!(replay(&["--out", &results, "--device", "cpu", &case]).0, 0);
    let file = std::fs::read(&results).unwrap();
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["op"], "dense_decode");
    assert_eq!(metadata["lse_empty"], "-inf");
    assert_eq!(metadata["device"], "CPU");
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let out = known(Dtype::BF16).tensors["out"].2.clone();
    assert_eq!(tensors.tensor("out").unwrap().data(), out);

    let (code, _, err) = replay(&["--out", "/nonexistent/out", "--device", "cpu", &case]);
    assert_eq!(code, 1);
    assert!(err.contains("/nonexistent/out: "), "{err}");
}

#[test]
fn malformed_tensors_are_named() {
    let good = || known(Dtype::BF16);
    let words = |n: usize| vec![0u8; n * 4];
    let cases = [
        (good().without("q"), "q: missing: must be BF16 or F16 [b, s_q, h_q, d_qk]"),
        (good().without("kv_cache"), "kv_cache: missing: must be BF16 [num_blocks, page_block_size, h_kv, 576]"),
        (good().without("block_table"), "block_table: missing: must be I32 [b = 2, max_blocks_per_seq]"),
        (good().without("cache_seqlens"), "cache_seqlens: missing: must be I32 [b = 2]"),
        (good().set("q", Dtype::F32, &[2, 1, 3, 4], words(24)), "q: F32 [2, 1, 3, 4]: must be BF16 or F16"),
        (good().reshaped("q", &[6, 576]), "q: BF16 [6, 576]: must be"),
        (good().set("kv_cache", Dtype::F16, &[1, 1, 1, 576], words(288)), "kv_cache: F16 [1, 1, 1, 576]: must be BF16"),
        (good().reshaped("kv_cache", &[4, 2, 1, 288]), "kv_cache: BF16 [4, 2, 1, 288]: must be"),
        (good().reshaped("block_table", &[4, 1]), "block_table: I32 [4, 1]: must be I32 [b = 2"),
        (good().reshaped("block_table", &[4]), "block_table: I32 [4]: must be"),
        (good().set("cache_seqlens", Dtype::I64, &[2], words(4)), "cache_seqlens: I64 [2]: must be I32 [b = 2]"),
        (good().set("cache_seqlens", Dtype::I32, &[3], words(3)), "cache_seqlens: I32 [3]: must be I32 [b = 2]"),
        (good().reshaped("out", &[2, 3, 1, 512]), "out: BF16 [2, 3, 1, 512]: must be BF16 [2, 1, 3, 512]"),
        (good().set("out", Dtype::F32, &[1], words(1)), "out: F32 [1]: must be BF16 [2, 1, 3, 512]"),
        (good().reshaped("lse", &[2, 1, 3]), "lse: F32 [2, 1, 3]: must be F32 [2, 3, 1]"),
        // What the library itself refuses.
        (good().reshaped("kv_cache", &[1, 2, 2, 576]), "h_q = 3: must be a multiple of h_kv = 2"),
    ];
    for (i, (file, expected)) in cases.iter().enumerate() {
        let (code, out, err) = file.replay(&format!("malformed-{i}"));
        assert_eq!(code, 2, "{expected}: {out}{err}");
        assert!(err.contains(expected), "expected: {expected}\nin: {err}");
    }
}

#[test]
fn malformed_metadata_is_named() {
    let good = || known(Dtype::BF16);
    let cases = [
        (good().without_key("op"), "metadata op: missing: must be \"dense_decode\""),
        (good().key("op", "dense_prefill"), "metadata op = \"dense_prefill\": must be \"dense_decode\""),
        (good().key("causal", "yes"), "metadata causal = \"yes\": must be \"0\" or \"1\""),
        (good().key("lse_empty", "inf"), "metadata lse_empty = \"inf\": must be \"-inf\" or \"+inf\""),
        (good().key("lse_base", "2"), "metadata lse_base = \"2\": must be \"e\""),
        (good().key("batch_invariant", ""), "metadata batch_invariant = \"\""),
        (good().key("softmax_scale", "small"), "metadata softmax_scale = \"small\": must be a positive number"),
        (good().key("softmax_scale", "NaN"), "metadata softmax_scale = \"NaN\""),
        (good().key("softmax_scale", "-1"), "metadata softmax_scale = \"-1\""),
    ];
    for (i, (file, expected)) in cases.iter().enumerate() {
        let (code, _, err) = file.replay(&format!("metadata-{i}"));
        assert_eq!(code, 2, "{expected}: {err}");
        assert!(err.contains(expected), "expected: {expected}\nin: {err}");
    }
}

/// Whatever the bytes: an answer, no panic.
#[test]
fn broken_files_are_refused() {
    let good = known(Dtype::BF16).bytes();
    let path = scratch("broken");
    let run = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        replay(&[&path, "--device", "cpu"])
    };
    let cut = [&good[..4], &good[..8], &good[..100], &good[..good.len() - 1]];
    for bytes in cut.into_iter().chain([&[][..], &[0xff; 64], b"{}"]) {
        let (code, _, err) = run(bytes);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("not a safetensors file"), "{err}");
    }
    // One byte of the header replaced, everywhere in it.
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let replacements = [b'9', b'0', b'"', b',', 0xff];
    for at in 0..header {
        let mut bytes = good.clone();
        bytes[at] = replacements[at % replacements.len()];
        let (code, out, err) = run(&bytes);
        assert!((0..=2).contains(&code), "byte {at}: {code} {out}{err}");
    }
}

#[test]
fn empty_problems_succeed() {
    let bf16 = Dtype::BF16;
    let file = File { tensors: BTreeMap::new(), metadata: HashMap::new() }
        .set("q", bf16, &[0, 1, 3, 576], vec![])
        .set("kv_cache", bf16, &[0, 64, 1, 576], vec![])
        .set("block_table", Dtype::I32, &[0, 2], vec![])
        .set("cache_seqlens", Dtype::I32, &[0], vec![])
        .set("out", bf16, &[0, 1, 3, 512], vec![])
        .key("op", "dense_decode");
    let (code, out, err) = file.replay("empty");
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn wrong_usage_is_2() {
    let case = scratch("usage");
    std::fs::write(&case, known(Dtype::BF16).bytes()).unwrap();
    let case = case.as_str();
    for (args, expected) in [
        (&[][..], "CASE.safetensors is missing"),
        (&[case], "--device cpu|N is missing"),
        (&[case, "--device"], "--device: a value must follow"),
        (&[case, "--device", "tpu"], "--device tpu: must be \"cpu\" or a device ordinal"),
        (&[case, case, "--device", "cpu"], "one case file at a time"),
        (&[case, "--device", "cpu", "--verbose"], "--verbose: unknown option"),
        (&["/nonexistent", "--device", "cpu"], "/nonexistent: "),
    ] {
        let (code, out, err) = replay(args);
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
        assert!(out.is_empty());
    }
    assert_eq!(replay(&["--help"]), (0, args::USAGE.into(), String::new()));
}

#[test]
fn a_device_that_is_not_there_is_3() {
    let case = scratch("device");
    std::fs::write(&case, known(Dtype::BF16).bytes()).unwrap();
    let (code, _, err) = replay(&[&case, "--device", "4711"]);
    assert_eq!(code, 3, "{err}");
}

#[test]
fn bounds() {
    let out = |x: &[f64], r: &[f64]| bounds::compare(x, r, bounds::OUT);
    assert_eq!(out(&[1.0, 0.0], &[1.0, 0.0]), bounds::Difference::default());
    assert_eq!(out(&[], &[]).outside, 0);
    let edge = 8e-4 + 2.01 / 128.0;
    assert_eq!(out(&[1.0 + edge * 0.999], &[1.0]).outside, 0);
    assert_eq!(out(&[1.0 + edge * 1.001], &[1.0]).outside, 1);
    let d = out(&[1.0, 4.0], &[1.0, 3.0]);
    assert_eq!((d.max_error, d.outside, d.first_outside), (1.0, 1, Some(1)));
    assert!((d.relative_rms - (1f64 / 10.0).sqrt()).abs() < 1e-12);
    assert!((d.cosine - (1.0 - 2.0 * 13.0 / 27.0)).abs() < 1e-12);
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    assert_eq!(out(&[inf, -inf, nan], &[inf, -inf, nan]).outside, 0);
    for (x, r) in [(inf, -inf), (nan, 0.0), (0.0, nan), (1e30, inf), (inf, nan)] {
        assert_eq!(out(&[x], &[r]).outside, 1, "{x} {r}");
    }
    let lse = |x: f64| bounds::compare(&[x], &[8.0], bounds::LSE).outside;
    assert_eq!((lse(8.0009), lse(8.0011)), (0, 1));
}

/// A sparse decode whose result is known: q is 0, so the output is the mean of the attended tokens. Tokens 0 and 2
/// of the first cache are 1 x 0.25 and 1 x 0.75, token 0 of the second one 1 x 0.5; token 1 is NaN.
fn known_sparse_decode() -> File {
    let token = |code: u8, scale: f32| -> Vec<u8> {
        let scales = scale.to_le_bytes().repeat(4);
        [vec![code; 512], scales, vec![0; 128]].concat()
    };
    let cache = [token(0x38, 0.25), token(0x7f, 1.0), token(0x38, 0.75), vec![0xff; 656]].concat();
    let extra = [token(0x38, 0.5), vec![0xff; 656]].concat();
    let mean = (0.25 + 0.75 + 0.5) / 3.0;
    let out = std::iter::repeat_n(mean, 2 * 512).chain(std::iter::repeat_n(0.0, 2 * 512));
    let (ln3, none) = (3f32.ln(), f32::NEG_INFINITY);
    File { tensors: BTreeMap::new(), metadata: HashMap::new() }
        .set("q", Dtype::BF16, &[2, 1, 2, 576], elements(Dtype::BF16, std::iter::repeat_n(0.0, 2 * 2 * 576)))
        .set("kv_cache", Dtype::U8, &[2, 2, 656], cache)
        .set("indices", Dtype::I32, &[2, 1, 3], ints(&[2, 0, 1, -1, 4, 2147480000]))
        .set("topk_length", Dtype::I32, &[2], ints(&[2, 3]))
        .set("extra_kv_cache", Dtype::U8, &[2, 656], extra)
        .set("extra_indices", Dtype::I32, &[2, 1, 1], ints(&[0, 2]))
        .set("out", Dtype::BF16, &[2, 1, 2, 512], elements(Dtype::BF16, out))
        .set("lse", Dtype::F32, &[2, 2, 1], floats(&[ln3, ln3, none, none]))
        .key("op", "sparse_decode")
        .key("layout", "V32")
        .key("page_block_size", "2")
        .key("extra_page_block_size", "1")
}

#[test]
fn sparse_decodes_of_a_known_result() {
    let (code, out, err) = known_sparse_decode().replay("known-sparse");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("kernel cpu_sparse_decode"), "{out}");
    // A length for each query token is the same, where there is one of them.
    let by_token = known_sparse_decode().set("topk_length", Dtype::I32, &[2, 1], ints(&[2, 3]));
    assert_eq!(by_token.replay("known-sparse-by-token").0, 0);
    // Another number is outside.
    let wrong = known_sparse_decode().set("lse", Dtype::F32, &[2, 2, 1], floats(&[0.0; 4]));
    let (code, out, _) = wrong.replay("wrong-sparse");
    assert!(code == 1 && out.contains("lse [2, 2, 1]") && out.contains("OUTSIDE"), "{out}");
    for (file, message) in [
        (known_sparse_decode().key("layout", "V5"), "metadata layout = \"V5\": must be \"V32\" or \"V4\""),
        (known_sparse_decode().without_key("page_block_size"), "metadata page_block_size: missing"),
        (known_sparse_decode().key("page_block_size", "-1"), "metadata page_block_size = \"-1\": must be a number"),
        (known_sparse_decode().key("page_block_size", "64"), "kv_cache.strides[0] = 1312: must be at least 41984"),
        (
            known_sparse_decode().set("topk_length", Dtype::I32, &[3], ints(&[2, 3, 1])),
            "topk_length: I32 [3]: must be I32 [b = 2]",
        ),
        (
            known_sparse_decode().set("indices", Dtype::I32, &[2, 3], ints(&[0; 6])),
            "indices: I32 [2, 3]: must be I32 [b = 2, s_q = 1, topk]",
        ),
        (
            known_sparse_decode().set("kv_cache", Dtype::I32, &[2, 328], vec![0; 2624]),
            "kv_cache: I32 [2, 328]: must be U8",
        ),
    ] {
        let (code, _, err) = file.replay("malformed-sparse");
        assert!(code == 2 && err.contains(message), "{message}: {err}");
    }
}
