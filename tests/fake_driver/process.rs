//! Running a test's body in a process of its own, with a driver of its own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which `libcuda.so.1` the process finds.
pub enum Driver<'a> {
    Whole,
    /// One that lacks a function.
    Without(&'a str),
    /// A file that is no library.
    Unloadable,
}

/// Set in the processes that run a body: the case they run.
const CASE: &str = "FAKE_DRIVER_CASE";

/// Runs `body` in a new process. To be called by a `#[test]` function directly, once: the process
/// is this test program again, told to run that test alone.
pub fn alone(driver: Driver, settings: &[(&str, &str)], body: fn()) {
    if env::var_os(CASE).is_some() {
        return body();
    }
    run_test_again(&driver, settings, "");
}

/// Runs `body` in a new process for each case: its name, its driver and its settings.
pub fn each_alone<'a>(cases: impl IntoIterator<Item = Case<'a>>, body: fn(case: &str)) {
    if let Ok(case) = env::var(CASE) {
        return body(&case);
    }
    for case in cases {
        let settings: Vec<_> = case.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        run_test_again(&case.driver, &settings, &case.name);
    }
}

pub struct Case<'a> {
    pub name: String,
    pub driver: Driver<'a>,
    pub settings: Vec<(&'a str, String)>,
}

fn run_test_again(driver: &Driver, settings: &[(&str, &str)], case: &str) {
    let thread = std::thread::current();
    let test = thread.name().expect("tests run on threads that have their names");
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .envs(settings.iter().copied())
        .env(CASE, case)
        .env("LD_LIBRARY_PATH", driver_folder(driver))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "case {case:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder that holds the driver alone.
fn driver_folder(driver: &Driver) -> PathBuf {
    let variant = match driver {
        Driver::Whole => "whole".into(),
        Driver::Without(function) => format!("without_{function}"),
        Driver::Unloadable => "unloadable".into(),
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake_driver").join(variant);
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libcuda.so.1");
    // Tests run side by side: each writes a file of its own and moves it into place.
    let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
    let draft = folder.join(format!("draft.{}.{thread}", std::process::id()));
    match driver {
        Driver::Whole => compile(&draft, &[]),
        Driver::Without(function) => {
            let script = draft.with_extension("map");
            std::fs::write(&script, format!("{{ global: *; local: {function}; }};\n")).unwrap();
            compile(&draft, &[format!("-Wl,--version-script={}", script.display())]);
            std::fs::remove_file(script).unwrap();
        }
        Driver::Unloadable => std::fs::write(&draft, "no library\n").unwrap(),
    }
    std::fs::rename(draft, library).unwrap();
    folder
}

fn compile(to: &Path, options: &[String]) {
    // As make does: a name, and perhaps options.
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut words = compiler.split_whitespace();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_driver/libcuda_fake.c");
    let output = Command::new(words.next().expect("CC is empty"))
        .args(words)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
        .arg(to)
        .arg(source)
        .args(options)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
}
