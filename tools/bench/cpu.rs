//! A case on the CPU backend, by the host's clock.

use super::case::Case;
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::Library;
use super::record::Measured;
use super::stats::median;
use super::target::Target;
use std::time::Instant;

/// Host memory of one tensor: a case that needs more is none for this backend.
const MAX_BYTES: usize = 2 << 30;
const MIN_REPS: usize = 5;
const MEASURE_S: f64 = 1.0;

pub fn measure(
    case: &Case,
    batch_invariant: bool,
    library: &Library,
    reps: Option<usize>,
) -> Result<Measured, Failure> {
    let target = Target::Cpu;
    let mut random = Random::new(1);
    let memory = |bytes: usize| {
        if bytes > MAX_BYTES {
            return Err(Failure::Run(format!("a tensor of {bytes} bytes: too large for --device cpu")));
        }
        let values = inputs::values(case.dtype(), bytes / 2, &mut random);
        let bytes: Vec<u8> = values.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        target.upload(&bytes)
    };
    let problem = case.problem(batch_invariant, library, &target, memory)?;
    let operation = problem.operation(library, &target)?;
    operation.plan(target.stream())?;

    // One run to warm up, which also tells how many more fit.
    let time = || {
        let start = Instant::now();
        operation.run(target.stream())?;
        Ok::<f64, Failure>(start.elapsed().as_secs_f64())
    };
    let first = time()?.max(1e-6);
    let reps = reps.unwrap_or(((MEASURE_S / first) as usize).clamp(MIN_REPS, 1000));
    let samples = (0..reps).map(|_| time()).collect::<Result<Vec<f64>, Failure>>()?;
    let seconds = median(&samples).ok_or_else(|| Failure::Run("no repetitions".into()))?;
    Ok(Measured { ms: seconds * 1e3, reps, kernel: problem.kernel.clone(), ..Measured::default() })
}
