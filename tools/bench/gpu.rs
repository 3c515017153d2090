//! A case on a GPU.

use super::case::{Case, Dtype};
use super::cuda::{DeviceBuffer, Stream};
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::Library;
use super::record::Measured;
use super::target::{Memory, Target};
use super::timing::Timer;

/// Random elements, made once on the host; caches of any size are filled with copies of them.
const PATTERN_BYTES: usize = 64 << 20;
/// Copies begin at different places of the pattern, so that they differ.
const SHIFTS: usize = 4 << 20;

/// The pattern of one element type on the device.
pub struct Pattern {
    dtype: Dtype,
    buffer: DeviceBuffer,
}

impl Pattern {
    fn new(stream: &Stream, dtype: Dtype) -> Result<Pattern, Failure> {
        let elements = (PATTERN_BYTES + SHIFTS) / 2;
        let buffer = stream.context().upload(&inputs::values(dtype, elements, &mut Random::new(1)))?;
        Ok(Pattern { dtype, buffer })
    }

    fn memory(&self, stream: &Stream, bytes: usize, random: &mut Random) -> Result<Memory, Failure> {
        let to = stream.context().alloc(bytes)?;
        for offset in (0..bytes).step_by(PATTERN_BYTES) {
            let chunk = PATTERN_BYTES.min(bytes - offset);
            let shift = random.next() as usize % (SHIFTS / 16) * 16;
            stream.copy(&to, offset, &self.buffer, shift, chunk)?;
        }
        stream.synchronize()?;
        Ok(Memory::Device(to))
    }
}

/// `pattern` is kept between cases of one element type.
pub fn measure(
    case: &Case,
    batch_invariant: bool,
    library: &Library,
    target: &Target,
    stream: &Stream,
    timer: &Timer,
    pattern: &mut Option<Pattern>,
) -> Result<Measured, Failure> {
    let pattern = match pattern.take().filter(|p| p.dtype == case.dtype()) {
        Some(kept) => pattern.insert(kept),
        None => pattern.insert(Pattern::new(stream, case.dtype())?),
    };
    let mut random = Random::new(2);
    let memory = |bytes| pattern.memory(stream, bytes, &mut random);
    let problem = case.problem(batch_invariant, library, target, memory)?;
    let operation = problem.operation(library, target)?;

    let plan = match operation.has_plan() {
        true => Some(timer.time(|| operation.plan(stream.as_ptr()))?.ms),
        false => None,
    };
    let run = timer.time(|| operation.run(stream.as_ptr()))?;
    let host_us = timer.host_us(|| operation.run(stream.as_ptr()))?;
    let graph = stream.capture(|stream| operation.run(stream.as_ptr()).map_err(|f| f.to_string()))?;
    let graph = timer.time::<Failure>(|| Ok(stream.launch_graph(&graph)?))?;
    Ok(Measured {
        ms: run.ms,
        reps: run.reps,
        kernel: problem.kernel.clone(),
        plan_ms: plan,
        graph_ms: Some(graph.ms),
        host_us: Some(host_us),
        sm_clock_mhz: run.sm_clock_mhz,
        workspace_bytes: Some(operation.workspace_bytes()),
    })
}
