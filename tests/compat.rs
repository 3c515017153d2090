//! Programs and libraries of different releases: a header that was frozen long ago, and one of the future.

mod programs;

use programs::*;
use std::path::{Path, PathBuf};
use std::process::Command;

fn build(include: &Path, name: &str, folder: &Path) -> PathBuf {
    let program = folder.join(name);
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", "-I"]).arg(include);
    command.arg(root().join(format!("tests/compat/{name}.c"))).arg("-L").arg(library().parent().unwrap());
    command.args(["-lflashmla", "-lm"]).arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o").arg(&program);
    output(&mut command);
    program
}

#[test]
fn an_old_program_runs() {
    let program = build(&root().join("tests/compat/first"), "old_program", &folder("compat_tests"));
    assert_eq!(output(&mut Command::new(program)), "an old program runs\n");
}

#[test]
fn a_new_program_runs() {
    let folder = folder("compat_tests");
    let include = folder.join("future");
    std::fs::create_dir_all(&include).unwrap();
    // A member more for every struct that says its size.
    let mut header = String::new();
    let (mut versioned, mut grown) = (false, 0);
    for line in std::fs::read_to_string(root().join("include/flashmla.h")).unwrap().lines() {
        versioned |= line == "    size_t struct_size;";
        if line.starts_with("} flashmla_") && versioned {
            header += "    int64_t added[4];\n";
            (versioned, grown) = (false, grown + 1);
        }
        header += line;
        header += "\n";
    }
    assert!(grown >= 6, "{grown} structs have grown: is the header read rightly?");
    std::fs::write(include.join("flashmla.h"), header).unwrap();
    let program = build(&include, "new_program", &folder);
    assert_eq!(output(&mut Command::new(program)), "a new program runs\n");
}
