//! The run: file, library, comparison, file.

use super::args::{self, Args};
use super::bounds::{self, Difference};
use super::case::{Case, Results};
use super::failure::Failure;
use super::library::Library;
use super::target::Target;
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
    let results = case.run(&library, &target)?;
    report.push_str(&format!("device {}\nkernel {}\n", library.device_name()?, results.kernel));
    if let Some(path) = &args.out {
        write(path, &case, &results, &library.device_name()?)?;
    }

    let (mut within, mut compared) = (true, false);
    for output in &results.outputs {
        let Some(reference) = &output.reference else { continue };
        let values = |bytes: &[u8]| values(bytes, output.dtype);
        let d = bounds::compare(&values(&output.bytes), &values(reference.data()), output.bound);
        let good = d.outside == 0 && (output.name != "out" || d.cosine <= bounds::MAX_COSINE);
        report.push_str(&line(output.name, &d, &output.shape, good));
        within &= good;
        compared = true;
    }
    if !compared {
        let names: Vec<&str> = results.outputs.iter().map(|output| output.name).collect();
        report.push_str(&format!("nothing to compare with: the file has none of {}\n", names.join(", ")));
    }
    Ok(within)
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
    let metadata = HashMap::from(
        [
            ("op", case.op()),
            ("lse_base", "e"),
            ("lse_empty", if case.lse_empty_pos_inf() { "+inf" } else { "-inf" }),
            ("device", device),
            ("kernel", &results.kernel),
            ("version", env!("CARGO_PKG_VERSION")),
        ]
        .map(|(key, value)| (key.to_string(), value.to_string())),
    );
    let mut tensors = Vec::new();
    for output in &results.outputs {
        let view = TensorView::new(output.dtype, output.shape.clone(), &output.bytes).map_err(|e| failed(&e))?;
        tensors.push((output.name, view));
    }
    let file = safetensors::serialize(tensors, Some(metadata)).map_err(|e| failed(&e))?;
    std::fs::write(path, file).map_err(|e| failed(&e))
}
