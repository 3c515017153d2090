//! How a call is timed on a GPU.

use super::args::MIN_REPS;
use super::clock::ClockSampler;
use super::cuda::{DeviceBuffer, Event, Result, Stream};
use super::stats::median;
use std::time::Instant;

/// More than any L2 cache holds.
const FLUSH_BYTES: usize = 256 << 20;
/// `--rest`: this many flushes between repetitions, 8 GB.
const REST_FLUSHES: usize = 32;
/// A chip that runs back to back settles at a clock that its power limit allows.
const WARM_UP_MS: f64 = 50.0;
const MEASURE_MS: f64 = 200.0;
const MAX_REPS: f64 = 1000.0;
/// Host timings are taken in bursts that the driver's queue takes without blocking, as many as this time allows. A model's
/// step calls once for each of its layers, 27 of the smallest such model and 61 of the largest.
const HOST_BURST_CALLS: usize = 32;
const MIN_HOST_BURSTS: usize = 8;
const MAX_HOST_BURSTS: usize = 200;
const HOST_MS: f64 = 100.0;

pub struct Timer<'a> {
    stream: &'a Stream,
    flush: DeviceBuffer,
    clock: &'a ClockSampler,
    rest: bool,
    reps: Option<usize>,
}

pub struct Timing {
    /// Median of the whole call between two events.
    pub ms: f64,
    pub reps: usize,
    /// Median SM clock in MHz during the repetitions.
    pub sm_clock_mhz: Option<f64>,
}

impl<'a> Timer<'a> {
    pub fn new(stream: &'a Stream, clock: &'a ClockSampler, rest: bool, reps: Option<usize>) -> Result<Timer<'a>> {
        Ok(Timer { stream, flush: stream.context().alloc(FLUSH_BYTES)?, clock, rest, reps })
    }

    /// Times what `call` puts on the stream. All repetitions are queued at once, so that the GPU
    /// does not wait for the host between them.
    pub fn time<E: From<String>>(
        &self,
        mut call: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<Timing, E> {
        let per_repetition = self.estimate(&mut call)?;
        let reps = self.reps.unwrap_or((MEASURE_MS / per_repetition).clamp(MIN_REPS as f64, MAX_REPS) as usize);
        let warm_up = (WARM_UP_MS / per_repetition).clamp(3.0, MAX_REPS) as usize;
        for _ in 0..warm_up {
            self.between()?;
            call()?;
        }
        let events: Vec<[Event; 2]> = (0..reps).map(|_| Ok([self.event()?, self.event()?])).collect::<Result<_>>()?;
        self.stream.synchronize()?;
        let (queued, sm_clock_mhz) = self.clock.during(|| {
            for [begin, end] in &events {
                self.between()?;
                self.stream.record(begin)?;
                call()?;
                self.stream.record(end)?;
            }
            Ok::<(), E>(self.stream.synchronize()?)
        });
        queued?;
        let samples = events.iter().map(|[begin, end]| end.elapsed_ms(begin)).collect::<Result<Vec<f64>>>()?;
        let ms = median(&samples).ok_or_else(|| "no repetitions".to_string())?;
        Ok(Timing { ms, reps, sm_clock_mhz })
    }

    /// The host's time in one call, in microseconds: the median, over bursts of calls in a row, of their mean. A burst
    /// begins when the GPU is idle, and its first call is not counted: it wakes what slept in the meantime, where an
    /// engine's calls follow one another.
    pub fn host_us<E: From<String>>(
        &self,
        mut call: impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<f64, E> {
        let began = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < MIN_HOST_BURSTS
            || samples.len() < MAX_HOST_BURSTS && began.elapsed().as_secs_f64() * 1e3 < HOST_MS
        {
            self.stream.synchronize()?;
            call()?;
            let start = Instant::now();
            for _ in 0..HOST_BURST_CALLS {
                call()?;
            }
            samples.push(start.elapsed().as_secs_f64() * 1e6 / HOST_BURST_CALLS as f64);
        }
        self.stream.synchronize()?;
        Ok(median(&samples).ok_or_else(|| "no repetitions".to_string())?)
    }

    /// Milliseconds of a repetition with all that belongs to it.
    fn estimate<E: From<String>>(
        &self,
        call: &mut impl FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<f64, E> {
        const CALLS: usize = 3;
        call()?;
        let (begin, end) = (self.event()?, self.event()?);
        self.stream.record(&begin)?;
        for _ in 0..CALLS {
            self.between()?;
            call()?;
        }
        self.stream.record(&end)?;
        end.synchronize()?;
        Ok((end.elapsed_ms(&begin)? / CALLS as f64).max(1e-3))
    }

    /// Empties the L2 cache, and with `--rest` lets the chip cool.
    fn between(&self) -> Result<()> {
        for _ in 0..if self.rest { REST_FLUSHES } else { 1 } {
            self.stream.fill(&self.flush, 0, FLUSH_BYTES, 0)?;
        }
        Ok(())
    }

    fn event(&self) -> Result<Event> {
        self.stream.context().event()
    }
}
