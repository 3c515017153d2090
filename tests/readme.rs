//! The README's programs are files that are compiled and run: here in C and C++, by tests/install.sh in Go and by CMake.

mod programs;

use programs::*;
use std::process::Command;

/// The language of a block, and the file that it is a copy of.
const QUICK_STARTS: [(&str, &str); 5] = [
    ("c", "program.c"),
    ("cpp", "program.cpp"),
    ("cmake", "CMakeLists.txt"),
    ("go", "program.go"),
    ("go.mod", "go.mod"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The fenced blocks of a Markdown text: language and content.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let fences: Vec<_> = text.split("```").collect();
    assert!(fences.len() % 2 == 1, "a block does not end");
    fences.iter().skip(1).step_by(2).map(|block| block.split_once('\n').expect("a line after the fence")).collect()
}

#[test]
fn quick_starts_are_the_files() {
    let readme = read("README.md");
    let blocks = blocks(&readme);
    for (language, file) in QUICK_STARTS {
        let found: Vec<_> = blocks.iter().filter(|(l, _)| *l == language).collect();
        assert_eq!(found.len(), 1, "README.md has {} blocks of {language}", found.len());
        assert_eq!(found[0].1, read(&format!("tests/quick_start/{file}")), "README.md has another {file}");
    }
    for (language, _) in blocks {
        let known = language.is_empty() || language == "sh" || QUICK_STARTS.iter().any(|(l, _)| *l == language);
        assert!(known, "nobody compiles README.md's {language:?}");
    }
}

#[test]
fn quick_starts_run() {
    let folder = folder("quick_start");
    for (compiler, standard, file) in [("cc", "c99", "program.c"), ("c++", "c++20", "program.cpp")] {
        let program = folder.join(standard);
        let mut command = Command::new(compiler);
        command.arg(format!("-std={standard}")).args(["-pedantic", "-Wall", "-Wextra", "-Werror"]);
        for include in ["include", "bindings/cpp"] {
            command.arg("-I").arg(root().join(include));
        }
        command.arg(root().join("tests/quick_start").join(file)).arg("-L").arg(library().parent().unwrap());
        command.arg("-lflashmla").arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o").arg(&program);
        output(&mut command);
        assert_eq!(output(&mut Command::new(program)), "lse of head 0: 1.098612\n");
    }
}
