//! What the tests share that compile programs against the library and run them.
#![allow(dead_code)] // Each test program uses a part.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library that this test's build made, beside the folder of the test programs.
pub fn library() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let library = here.parent().unwrap().parent().unwrap().join("libflashmla.so");
    assert!(library.is_file(), "{} is missing: run `cargo build --release` first", library.display());
    library
}

/// A folder for programs, with the library under its SONAME, which is what they ask for at run time.
pub fn folder(name: &str) -> PathBuf {
    let folder = library().parent().unwrap().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    // Tests run side by side: each makes a link of its own and moves it into place.
    let draft = folder.join(format!("draft.{}.{:?}", std::process::id(), std::thread::current().id()));
    std::os::unix::fs::symlink(library(), &draft).unwrap();
    std::fs::rename(draft, folder.join("libflashmla.so.0")).unwrap();
    folder
}

/// Standard output and error of a command that must succeed.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text.into_owned()
}

/// Standard error of a command that must fail.
pub fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(!output.status.success(), "{command:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Counted by tools/test.sh; past the capture of the test harness.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr().lock(), "SKIP {test} skipped: {why}");
}
