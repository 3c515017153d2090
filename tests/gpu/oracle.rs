//! What the contract says a case gives, in float64, and what upstream computed for the golden ones.

use crate::data::{decode, Data, Strided};
use crate::spec::{Layout, Spec};
use flashmla::problem::dense_decode::{Dtype, D_V};
use safetensors::tensor::{Dtype as FileDtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `out [b, s_q, h_q, 512]` and `lse [b, h_q, s_q]`.
pub struct Expected {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
}

/// The reference of a whole case.
pub fn expected(data: &Data) -> Expected {
    let Spec { s_q, h_q, .. } = data.spec;
    let b = data.spec.b();
    let mut all = Expected { out: vec![0.0; (b * s_q * h_q * D_V) as usize], lse: vec![0.0; (b * h_q * s_q) as usize] };
    let (out_size, lse_size) = ((s_q * h_q * D_V) as usize, (h_q * s_q) as usize);
    for i in 0..b as usize {
        request(data, i, &mut all.out[i * out_size..][..out_size], &mut all.lse[i * lse_size..][..lse_size]);
    }
    all
}

/// Tokens whose rows are decoded at a time.
const CHUNK: i64 = 64;

/// The softmax of a query row, so far: the sums are relative to exp(`highest`).
struct Row {
    q: Vec<f64>,
    /// Keys that it sees, counted from the first.
    visible: i64,
    highest: f64,
    sum: f64,
    out: Vec<f64>,
}

/// The reference of one request: `out [s_q, h_q, 512]`, `lse [h_q, s_q]`, both zeroed.
fn request(data: &Data, i: usize, out: &mut [f64], lse: &mut [f64]) {
    let Spec { s_q, h_q, h_kv, .. } = data.spec;
    let group = h_q / h_kv;
    for kv_head in 0..h_kv {
        let heads = kv_head * group..(kv_head + 1) * group;
        let queries: Vec<(i64, i64)> = (0..s_q).flat_map(|t| heads.clone().map(move |h| (t, h))).collect();
        for ((t, h), (row, row_lse)) in queries.iter().zip(rows(data, i, kv_head, &queries)) {
            out[((t * h_q + h) * D_V) as usize..][..D_V as usize].copy_from_slice(&row);
            lse[(h * s_q + t) as usize] = row_lse;
        }
    }
}

/// The reference of some queries (token, head) of a request that share a KV head: each one's
/// 512 columns and lse.
pub fn rows(data: &Data, i: usize, kv_head: i64, queries: &[(i64, i64)]) -> Vec<(Vec<f64>, f64)> {
    let mut rows: Vec<Row> = queries.iter().map(|(t, h)| query(data, i as i64, *t, *h)).collect();
    attend(data, i, kv_head, &mut rows);
    let finish = |mut row: Row| {
        if row.sum == 0.0 {
            return (row.out, if data.spec.lse_pos_inf { f64::INFINITY } else { f64::NEG_INFINITY });
        }
        row.out.iter_mut().for_each(|x| *x /= row.sum);
        (row.out, row.highest + row.sum.ln())
    };
    rows.into_iter().map(finish).collect()
}

fn query(data: &Data, i: i64, t: i64, h: i64) -> Row {
    let spec = &data.spec;
    let value = decode(spec.dtype);
    // The factor as the library takes it: FP32.
    let scale = if spec.scale == 0.0 { 1.0 / (spec.d_qk as f32).sqrt() } else { spec.scale } as f64;
    let row = &data.q[data.q_place.at([i, t, h, 0])..][..spec.d_qk as usize];
    let tokens = if data.num_blocks == 0 { 0 } else { spec.tokens(i as usize) };
    // Aligned to the bottom right.
    let visible = if spec.causal { tokens - spec.s_q + t + 1 } else { tokens };
    let q = row.iter().map(|x| value(*x) * scale).collect();
    Row { q, visible, highest: f64::NEG_INFINITY, sum: 0.0, out: vec![0.0; D_V as usize] }
}

fn attend(data: &Data, i: usize, kv_head: i64, rows: &mut [Row]) {
    let d_qk = data.spec.d_qk as usize;
    let last = rows.iter().map(|row| row.visible).max().unwrap_or(0);
    let mut keys = vec![0.0; CHUNK as usize * d_qk];
    let mut weights = [0.0; CHUNK as usize];
    for first in (0..last.max(0)).step_by(CHUNK as usize) {
        let n = CHUNK.min(last - first);
        for (j, key) in keys.chunks_exact_mut(d_qk).take(n as usize).enumerate() {
            read_key(data, i as i64, first + j as i64, kv_head, key);
        }
        for row in rows.iter_mut() {
            let n = n.min(row.visible - first);
            if n <= 0 {
                continue;
            }
            let weights = &mut weights[..n as usize];
            for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(d_qk)) {
                *weight = dot(&row.q, key);
            }
            let highest = weights.iter().fold(row.highest, |a, b| a.max(*b));
            let rescale = (row.highest - highest).exp();
            row.highest = highest;
            row.sum *= rescale;
            row.out.iter_mut().for_each(|x| *x *= rescale);
            for (weight, key) in weights.iter().zip(keys.chunks_exact(d_qk)) {
                let p = (weight - highest).exp();
                row.sum += p;
                for (x, v) in row.out.iter_mut().zip(key) {
                    *x += p * v;
                }
            }
        }
    }
}

/// A cached row; a page outside the cache reads as zeros.
fn read_key(data: &Data, i: i64, token: i64, kv_head: i64, key: &mut [f64]) {
    let page_size = data.spec.page;
    let page = data.table[data.table_place.at([i, token / page_size])] as i64;
    if !(0..data.num_blocks).contains(&page) {
        key.fill(0.0);
        return;
    }
    let value = decode(data.spec.dtype);
    let at = data.kv_place.at([page, token % page_size, kv_head, 0]);
    for (to, from) in key.iter_mut().zip(&data.kv[at..]) {
        *to = value(*from);
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

pub struct Golden {
    pub name: String,
    pub data: Data,
    pub upstream: Expected,
}

/// Every `dense_*.safetensors` of the golden folder.
pub fn golden_cases() -> Vec<Golden> {
    golden_files("dense_").iter().map(golden).collect()
}

/// A file of the golden folder.
pub struct GoldenFile {
    pub name: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

/// The files whose names begin so.
pub fn golden_files(prefix: &str) -> Vec<GoldenFile> {
    let folder = std::env::var("FLASHMLA_GOLDEN_DIR").unwrap_or_else(|_| "tests/golden".into());
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder}: {e}: set FLASHMLA_GOLDEN_DIR"));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a folder's entry").path()).collect();
    paths.retain(|path| {
        let name = path.file_name().map_or("".into(), |name| name.to_string_lossy());
        name.starts_with(prefix) && name.ends_with(".safetensors")
    });
    paths.sort();
    paths.iter().map(|path| GoldenFile::read(path)).collect()
}

impl GoldenFile {
    fn read(path: &Path) -> GoldenFile {
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let metadata = header.metadata().clone().unwrap_or_default();
        GoldenFile { name, bytes, metadata }
    }

    pub fn key(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("{}: metadata {key} is missing", self.name))
    }

    fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        tensors.tensor(name).ok()
    }

    fn dtype(&self, name: &str) -> FileDtype {
        self.tensor(name).unwrap_or_else(|| panic!("{}: {name} is missing", self.name)).dtype()
    }

    pub fn shape<const N: usize>(&self, name: &str) -> [i64; N] {
        let tensor = self.tensor(name).unwrap_or_else(|| panic!("{}: {name} is missing", self.name));
        assert_eq!(tensor.shape().len(), N, "{}: dimensions of {name}", self.name);
        std::array::from_fn(|i| tensor.shape()[i] as i64)
    }

    /// A tensor's content, where the file has it.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.tensor(name).map(|tensor| tensor.data().to_vec())
    }
}

fn golden(file: &GoldenFile) -> Golden {
    let name = file.name.clone();
    let key = |key: &str| file.key(key);
    let bytes = |tensor: &str| file.bytes(tensor).unwrap_or_else(|| panic!("{name}: {tensor} is missing"));
    assert_eq!((key("op"), key("lse_base")), ("dense_decode", "e"), "{name}");

    let (q, kv, table): ([i64; 4], [i64; 4], [i64; 2]) =
        (file.shape("q"), file.shape("kv_cache"), file.shape("block_table"));
    let dtype = match file.dtype("q") {
        FileDtype::BF16 => Dtype::Bf16,
        FileDtype::F16 => Dtype::Fp16,
        other => panic!("{name}: q is {other:?}"),
    };
    let lens = words(&bytes("cache_seqlens"));
    let spec = Spec {
        dtype,
        d_qk: q[3],
        h_q: q[2],
        h_kv: kv[2],
        s_q: q[1],
        page: kv[1],
        lens: lens.clone(),
        columns: Some(table[1]),
        causal: key("causal") == "1",
        lse_pos_inf: key("lse_empty") == "+inf",
        scale: key("softmax_scale").parse().unwrap_or_else(|e| panic!("{name}: softmax_scale: {e}")),
        layout: Layout::Contiguous,
        ..Spec::default()
    };
    let (b, s_q, h_q) = (spec.b(), spec.s_q, spec.h_q);
    let data = Data {
        num_blocks: kv[0],
        columns: table[1],
        q: halves(&bytes("q")),
        q_place: Strided::contiguous([b, s_q, h_q, q[3]]),
        kv: halves(&bytes("kv_cache")),
        kv_place: Strided::contiguous([kv[0], kv[1], kv[2], kv[3]]),
        table: words(&bytes("block_table")),
        table_place: Strided::contiguous([b, table[1]]),
        lens,
        lens_place: Strided::contiguous([b]),
        out_place: Strided::contiguous([b, s_q, h_q, D_V]),
        lse_place: Strided::contiguous([b, h_q, s_q]),
        spec,
    };
    let upstream = Expected {
        out: halves(&bytes("out")).into_iter().map(decode(dtype)).collect(),
        lse: words(&bytes("lse")).into_iter().map(|bits| f32::from_bits(bits as u32) as f64).collect(),
    };
    Golden { name, data, upstream }
}

pub fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

pub fn words(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}
