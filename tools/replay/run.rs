//! The run: file, device memory, library, comparison, file.

use super::args::{self, Args};
use super::bounds::{self, Difference};
use super::case::{dims, Case, D_V};
use super::failure::Failure;
use super::library::{dense_decode_params, input, output, DenseDecode, Library};
use super::target::Target;
use flashmla::capi::types::*;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::io::Write;

/// Everything but the process: returns the exit code.
pub fn main(args: &[String], stdout: &mut dyn Write, stderr: &mut dyn Write) -> i32 {
    let mut report = String::new();
    let result = match args::parse(args) {
        Ok(None) => {
            report.push_str(args::USAGE);
            Ok(true)
        }
        Ok(Some(args)) => replay(&args, &mut report),
        Err(failure) => Err(Failure::Usage(format!("{failure}\n\n{}", args::USAGE))),
    };
    // A reader that has gone away is no reason to fail.
    let _ = stdout.write_all(report.as_bytes());
    match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(failure) => {
            let _ = writeln!(stderr, "replay: {failure}");
            failure.exit_code()
        }
    }
}

/// Whether everything that could be compared is within its bounds.
fn replay(args: &Args, report: &mut String) -> Result<bool, Failure> {
    let file = std::fs::read(&args.case).map_err(|e| Failure::Usage(format!("{}: {e}", args.case)))?;
    let case = Case::parse(&file).map_err(|f| f.context(&args.case))?;
    let library = Library::create(args.device)?;
    let target = Target::open(args.device)?;
    let results = run(&case, &library, &target)?;
    report.push_str(&format!("device {}\nkernel {}\n", library.device_name()?, results.kernel));
    if let Some(path) = &args.out {
        write(path, &case, &results, &library.device_name()?)?;
    }

    let mut within = true;
    if let Some(reference) = &case.out {
        let d = bounds::compare(&values(&results.out, case.dtype), &values(reference.data(), case.dtype), bounds::OUT);
        let good = d.outside == 0 && d.cosine <= bounds::MAX_COSINE;
        report.push_str(&line("out", &d, reference.shape(), good));
        within &= good;
    }
    if let Some(reference) = &case.lse {
        let d = bounds::compare(&values(&results.lse, Dtype::F32), &values(reference.data(), Dtype::F32), bounds::LSE);
        report.push_str(&line("lse", &d, reference.shape(), d.outside == 0));
        within &= d.outside == 0;
    }
    if case.out.is_none() && case.lse.is_none() {
        report.push_str("nothing to compare with: the file has neither out nor lse\n");
    }
    Ok(within)
}

struct Results {
    kernel: String,
    out: Vec<u8>,
    lse: Vec<u8>,
}

fn run(case: &Case, library: &Library, target: &Target) -> Result<Results, Failure> {
    let [b, s_q, h_q, d_qk] = dims(&case.q);
    let [num_blocks, page_block_size, h_kv, _] = dims(&case.kv_cache);
    let [_, max_blocks_per_seq] = dims(&case.block_table);
    let q = target.upload(case.q.data())?;
    let kv_cache = target.upload(case.kv_cache.data())?;
    let block_table = target.upload(case.block_table.data())?;
    let cache_seqlens = target.upload(case.cache_seqlens.data())?;

    let mut params = dense_decode_params();
    params.dtype = if case.dtype == Dtype::BF16 { FLASHMLA_DTYPE_BF16 } else { FLASHMLA_DTYPE_FP16 };
    params.flags = [
        (case.causal, FLASHMLA_FLAG_CAUSAL),
        (case.lse_empty_pos_inf, FLASHMLA_FLAG_LSE_EMPTY_POS_INF),
        (case.batch_invariant, FLASHMLA_FLAG_BATCH_INVARIANT),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, flag)| flags | flag);
    params.b = b as i64;
    params.s_q = s_q as i64;
    params.h_q = h_q as i64;
    params.h_kv = h_kv as i64;
    params.d_qk = d_qk as i64;
    params.num_blocks = num_blocks as i64;
    params.page_block_size = page_block_size as i64;
    params.max_blocks_per_seq = max_blocks_per_seq as i64;
    params.softmax_scale = case.softmax_scale;
    // The library's opinion of the sizes comes before memory of these sizes.
    let kernel = library.kernel_name(&params)?;

    // NaN everywhere: an element that is not written shows.
    let out = target.upload(&vec![0xff; b * s_q * h_q * D_V * 2])?;
    let lse = target.upload(&vec![0xff; b * h_q * s_q * 4])?;
    params.q = input(&q);
    params.kv_cache = input(&kv_cache);
    params.block_table = input(&block_table);
    params.cache_seqlens = input(&cache_seqlens);
    params.out = output(&out);
    params.lse = output(&lse);
    // SAFETY: the tensors have the sizes in the parameters and live to the end of this function.
    let decode = unsafe { DenseDecode::new(library, target, params) }?;
    decode.plan(target.stream())?;
    decode.run(target.stream())?;
    target.synchronize()?;
    Ok(Results { kernel, out: out.read()?, lse: lse.read()? })
}

/// The elements of a tensor's bytes.
fn values(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    let halves = || bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
    match dtype {
        Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f64()).collect(),
        Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f64()).collect(),
        _ => bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]) as f64).collect(),
    }
}

fn line(name: &str, d: &Difference, shape: &[usize], good: bool) -> String {
    let mut line = format!(
        "{name} {shape:?}: max error {:.3e}, relative RMS {:.3e}, cosine difference {:.3e}: {}",
        d.max_error,
        d.relative_rms,
        d.cosine,
        if good { "within bounds" } else { "OUTSIDE the bounds" }
    );
    if let Some(first) = d.first_outside {
        line.push_str(&format!(", {} elements, the first at {:?}", d.outside, index(first, shape)));
    }
    line.push('\n');
    line
}

/// The index of the n-th element.
fn index(mut n: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, size) in shape.iter().enumerate().rev() {
        index[i] = n % size;
        n /= size;
    }
    index
}

fn write(path: &str, case: &Case, results: &Results, device: &str) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Run(format!("{path}: {e}"));
    let [b, s_q, h_q, _] = dims(&case.q);
    let out = TensorView::new(case.dtype, vec![b, s_q, h_q, D_V], &results.out).map_err(|e| failed(&e))?;
    let lse = TensorView::new(Dtype::F32, vec![b, h_q, s_q], &results.lse).map_err(|e| failed(&e))?;
    let metadata = HashMap::from(
        [
            ("op", "dense_decode"),
            ("lse_base", "e"),
            ("lse_empty", if case.lse_empty_pos_inf { "+inf" } else { "-inf" }),
            ("device", device),
            ("kernel", &results.kernel),
            ("version", env!("CARGO_PKG_VERSION")),
        ]
        .map(|(key, value)| (key.to_string(), value.to_string())),
    );
    let file = safetensors::serialize([("out", out), ("lse", lse)], Some(metadata)).map_err(|e| failed(&e))?;
    std::fs::write(path, file).map_err(|e| failed(&e))
}
