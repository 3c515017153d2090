//! The course of a run: command line, cases, device, ceilings, cases one by one, summary, plot.

use super::args::{self, Args};
use super::case::{self, Case};
use super::ceilings;
use super::clock::ClockSampler;
use super::cpu;
use super::cuda::Stream;
use super::failure::Failure;
use super::gpu;
use super::library::Library;
use super::peers::{summary, Outcome, Peers};
use super::plot;
use super::record::{case_line, ceilings_line, failed_line, Measured, Setting};
use super::roofline::REFERENCE;
use super::target::Target;
use super::timing::Timer;
use std::io::Write;

/// Everything but the process: returns the exit code.
pub fn main(args: &[String], stdout: &mut dyn Write, stderr: &mut dyn Write) -> i32 {
    let result = match args::parse(args) {
        Ok(None) => write!(stdout, "{}", args::USAGE).map(|_| true).map_err(|e| Failure::Run(e.to_string())),
        Ok(Some(args)) => bench(&args, stdout, stderr),
        Err(failure) => Err(Failure::Usage(format!("{failure}\n\n{}", args::USAGE))),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(failure) => {
            let _ = writeln!(stderr, "bench: {failure}");
            failure.exit_code()
        }
    }
}

/// Whether every case ran.
fn bench(args: &Args, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<bool, Failure> {
    let cases = select(args, stderr)?;
    let peers = args.vs.as_deref().map(Peers::load).transpose()?;
    let library = Library::create(args.device)?;
    let target = Target::open(args.device)?;
    let setting = Setting {
        device: library.device_name()?,
        gpu: matches!(target, Target::Gpu { .. }),
        ceilings: None,
        rest: args.rest,
        batch_invariant: args.batch_invariant,
    };
    let mut course = Course { args, cases, peers, setting, stdout, stderr };
    match &target {
        Target::Cpu => course.run(|case| cpu::measure(case, args.batch_invariant, &library, args.reps)),
        Target::Gpu { stream, .. } => {
            let (clock, missing) = ClockSampler::new(stream.context().device());
            if let Some(reason) = missing {
                course.note(&format!("no SM clock: {reason}"));
            }
            let timer = Timer::new(stream, &clock, args.rest, args.reps)?;
            course.ceilings(&timer, stream)?;
            let mut pattern = None;
            course.run(|case| gpu::measure(case, args.batch_invariant, &library, &target, stream, &timer, &mut pattern))
        }
    }
}

/// The cases that the command line asks for, each once.
fn select(args: &Args, stderr: &mut dyn Write) -> Result<Vec<Case>, Failure> {
    let mut cases: Vec<Case> = Vec::new();
    let mut others = 0;
    for line in case::lines(&args.cases)? {
        let wanted = |op: &&str| args.op.as_ref().is_none_or(|wanted| wanted == op);
        let Some(op) = case::operation(&line.op).filter(wanted) else {
            others += 1;
            continue;
        };
        let case = Case::parse(op, &line.value["case"]).map_err(|f| f.context(&args.cases))?;
        let wanted = args.filter.as_ref().is_none_or(|filter| case.name().contains(filter.as_str()));
        // A file may hold several peers' figures of one case.
        if wanted && !cases.iter().any(|c| c.same_work(&case) && c.name() == case.name()) {
            cases.push(case);
        }
    }
    if others > 0 {
        let _ = writeln!(stderr, "{others} lines of other operations left out");
    }
    match cases.is_empty() {
        true => Err(Failure::Usage(format!("{}: no case that was asked for", args.cases))),
        false => Ok(cases),
    }
}

struct Course<'a> {
    args: &'a Args,
    cases: Vec<Case>,
    peers: Option<Peers>,
    setting: Setting,
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
}

impl Course<'_> {
    fn ceilings(&mut self, timer: &Timer, stream: &Stream) -> Result<(), Failure> {
        self.note("ceilings");
        let (measured, missing) = ceilings::measure(timer, stream, ceilings::fatbin())?;
        if let Some(reason) = missing {
            self.note(&format!("ceilings incomplete: {reason}"));
        }
        self.setting.ceilings = measured.ceilings();
        self.print(&ceilings_line(&measured, &self.setting))
    }

    /// Times every case, prints its line, and what follows from all of them.
    fn run(&mut self, mut measure: impl FnMut(&Case) -> Result<Measured, Failure>) -> Result<bool, Failure> {
        let (mut outcomes, mut points) = (Vec::new(), Vec::new());
        let cases = std::mem::take(&mut self.cases);
        for (i, case) in cases.iter().enumerate() {
            self.note(&format!("[{}/{}] {}", i + 1, cases.len(), case.name()));
            let measured = match measure(case) {
                Ok(measured) => measured,
                Err(failure) => {
                    self.note(&format!("failed: {failure}"));
                    self.print(&failed_line(case, &failure.to_string()))?;
                    continue;
                }
            };
            let peer = self.peers.as_ref().map(|peers| peers.best(case));
            self.print(&case_line(case, &measured, &self.setting, peer.as_ref()))?;
            outcomes.push(Outcome {
                case: case.json.clone(),
                ratio: peer.flatten().map(|p| p.ms / measured.ms),
                of_floor: self.setting.gpu.then(|| REFERENCE.floor_ms(case) / measured.ms),
            });
            // Cases without work have no place in it.
            if case.operations() > 0.0 {
                points.push(plot::Point {
                    name: case.name(),
                    intensity: case.operations() / case.bytes(),
                    tflops: case.operations() / measured.ms / 1e9,
                });
            }
        }
        if self.peers.is_some() {
            self.print(&summary(&outcomes))?;
        }
        if let Some(path) = &self.args.plot {
            let (ceilings, measured) = match self.setting.ceilings {
                Some(ceilings) => (ceilings, true),
                None => (REFERENCE, false),
            };
            let svg = plot::svg(&points, &ceilings, measured, &self.setting.device);
            std::fs::write(path, svg).map_err(|e| Failure::Run(format!("{path}: {e}")))?;
        }
        Ok(outcomes.len() == cases.len())
    }

    fn print(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.stdout, "{line}")
            .and_then(|_| self.stdout.flush())
            .map_err(|e| Failure::Run(format!("standard output: {e}")))
    }

    /// Progress; that nobody reads it is no reason to stop.
    fn note(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "{text}");
    }
}
