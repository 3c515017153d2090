//! `replay`: runs a case from a safetensors file through the C API, for bug reports. See args.rs
//! for the usage, file.rs and the operations
//! for the file.

mod args;
mod bounds;
mod case;
mod dense_decode;
mod file;
mod run;
mod sparse_decode;
mod sparse_prefill;

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
