//! The command line of `bench`.

use super::case::OPERATIONS;
use super::failure::Failure;
use super::target::DeviceName;

pub const USAGE: &str = "\
usage: bench --cases FILE.jsonl [options]

  --op OP             only this operation (dense_decode, sparse_decode, sparse_prefill, kv_cache_append,
                      kv_cache_gather, map_indices)
  --device N|cpu      CUDA device (default 0), or the CPU backend for small cases
  --filter SUBSTR     only cases whose name contains SUBSTR (names go to stderr: \"b1 s_q1 ...\")
  --reps N            repetitions of a case (default: 0.2 s worth of them, at least 30)
  --rest              8 GB of memset between repetitions: the chip at its full clock
  --batch-invariant   of decode: results that do not depend on the batch, to the bit
  --vs PEER.jsonl     compares with a peer's figures of the same cases
  --plot OUT.svg      draws the cases under the roofline

Prints JSON lines: the ceilings of this run, then one line a case. Times are medians in
milliseconds, of the whole call between two CUDA events, the L2 flushed before each; `graph_ms`
the same through a captured graph, `plan_ms` the plan, which an engine makes once per step. `host_us`
is what a call takes of the host, in a row of calls: the median, over bursts of 33, of the last 32's mean;
`launch_us`, among the ceilings, the same of a kernel that does nothing.

Exit code: 0; 1 if a case failed; 2 wrong usage or file; 3 not possible on this machine.
";

/// Fewer say little about a median.
pub const MIN_REPS: usize = 30;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    pub cases: String,
    pub op: Option<String>,
    pub device: DeviceName,
    pub filter: Option<String>,
    pub reps: Option<usize>,
    pub rest: bool,
    pub batch_invariant: bool,
    pub vs: Option<String>,
    pub plot: Option<String>,
}

/// `None`: the usage was asked for.
pub fn parse(args: &[String]) -> Result<Option<Args>, Failure> {
    let mut cases = None;
    let mut parsed = Args {
        cases: String::new(),
        op: None,
        device: DeviceName::Gpu(0),
        filter: None,
        reps: None,
        rest: false,
        batch_invariant: false,
        vs: None,
        plot: None,
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(Failure::Usage(format!("{arg}: a value must follow")));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--cases" => cases = Some(value()?),
            "--op" => parsed.op = Some(operation(value()?)?),
            "--device" => parsed.device = DeviceName::parse(&value()?)?,
            "--filter" => parsed.filter = Some(value()?),
            "--reps" => parsed.reps = Some(repetitions(&value()?)?),
            "--rest" => parsed.rest = true,
            "--batch-invariant" => parsed.batch_invariant = true,
            "--vs" => parsed.vs = Some(value()?),
            "--plot" => parsed.plot = Some(value()?),
            _ => return Err(Failure::Usage(format!("{arg}: unknown option"))),
        }
    }
    parsed.cases = cases.ok_or(Failure::Usage("--cases FILE.jsonl is missing".into()))?;
    Ok(Some(parsed))
}

fn operation(name: String) -> Result<String, Failure> {
    match OPERATIONS.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(Failure::Usage(format!("--op {name}: must be {}", OPERATIONS.join(" or ")))),
    }
}

fn repetitions(text: &str) -> Result<usize, Failure> {
    match text.parse() {
        Ok(n) if (1..=100_000).contains(&n) => Ok(n),
        _ => Err(Failure::Usage(format!("--reps {text}: must be 1 .. 100000"))),
    }
}
