//! `bench`: times the library on the cases of a file, beside two ceilings measured in the same
//! run. See args.rs for the usage, run.rs for the course of a run.

mod args;
mod case;
mod ceilings;
mod clock;
mod cpu;
mod dense_decode;
mod gpu;
mod inputs;
mod kv_cache;
mod peers;
mod plot;
mod problem;
mod record;
mod roofline;
mod run;
mod sparse_decode;
mod sparse_prefill;
mod stats;
mod timing;

#[path = "../common/cuda.rs"]
mod cuda;
// Of the shared modules, each tool uses a part.
#[allow(dead_code)]
#[path = "../common/failure.rs"]
mod failure;
#[allow(dead_code)]
#[path = "../common/library.rs"]
mod library;
#[allow(dead_code)]
#[path = "../common/target.rs"]
mod target;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let code = run::main(&args, &mut std::io::stdout(), &mut std::io::stderr());
    std::process::exit(code);
}
