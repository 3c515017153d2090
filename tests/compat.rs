//! Programs and libraries of different releases: a header that was frozen long ago, and one of the future.

mod programs;

use programs::*;
use std::collections::{BTreeMap, BTreeSet};
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

/// What a program was compiled with, from a header: functions, constants, and the members of structs in their order.
#[derive(Default)]
struct Abi {
    functions: BTreeSet<String>,
    constants: BTreeSet<String>,
    structs: BTreeMap<String, Vec<String>>,
}

fn abi(header: &str) -> Abi {
    let mut abi = Abi::default();
    let mut lines = header.lines();
    while let Some(line) = lines.next() {
        if let Some((name, value)) = line.strip_prefix("#define ").and_then(|d| d.split_once(' ')) {
            // The version goes on, and initialisers grow with their structs.
            if value.parse::<i64>().is_ok() && !name.starts_with("FLASHMLA_VERSION_") {
                abi.constants.insert(line.to_string());
            }
        } else if line.starts_with("typedef struct ") && line.ends_with(" {") {
            let members = lines.by_ref().take_while(|l| !l.starts_with('}')).map(str::trim);
            let members = members.filter(|l| l.ends_with(';') && !l.starts_with('*')).map(str::to_string).collect();
            abi.structs.insert(line.to_string(), members);
        } else if line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains("flashmla_") && line.contains('(')
        {
            let mut prototype = line.to_string();
            while !prototype.ends_with(';') {
                prototype += " ";
                prototype += lines.next().expect("the end of a prototype").trim();
            }
            abi.functions.insert(prototype);
        } else if line.starts_with("typedef ") {
            abi.functions.insert(line.to_string());
        }
    }
    abi
}

/// What was changed otherwise than by additions, structs by members at their end.
fn broken(old: &Abi, new: &Abi) -> Vec<String> {
    let mut broken: Vec<_> = old.functions.difference(&new.functions).cloned().collect();
    broken.extend(old.constants.difference(&new.constants).cloned());
    for (name, members) in &old.structs {
        let kept = new.structs.get(name).is_some_and(|now| {
            // Those without a size of their own cannot grow: they lie inside of others.
            let may_grow = members[0] == "size_t struct_size;";
            now.starts_with(members) && (may_grow || now.len() == members.len())
        });
        if !kept {
            broken.push(name.clone());
        }
    }
    broken
}

#[test]
fn the_header_has_only_grown() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (first, today) = (abi(&read("tests/compat/first/flashmla.h")), read("include/flashmla.h"));
    let counts = (first.functions.len(), first.constants.len(), first.structs.len());
    assert_eq!(counts, (17, 27, 8), "is the header read rightly?");
    assert_eq!(broken(&first, &abi(&today)), Vec::<String>::new());
    // It would be found if it were otherwise.
    for (from, to) in [
        ("int64_t s_q;", "int32_t s_q;"),
        ("    int64_t h_kv;", "    int64_t added;\n    int64_t h_kv;"),
        ("int64_t strides[4];", "int64_t strides[4];\n    int64_t added;"),
        ("int32_t flashmla_version(void);", "int32_t flashmla_versions(void);"),
        ("flashmla_create(int32_t device,", "flashmla_create(int64_t device,"),
        ("FLASHMLA_FLAG_CAUSAL 1", "FLASHMLA_FLAG_CAUSAL 8"),
        ("typedef int32_t flashmla_status_t;", "typedef int64_t flashmla_status_t;"),
    ] {
        assert!(today.contains(from), "{from} is gone from the header");
        assert_eq!(broken(&first, &abi(&today.replacen(from, to, 1))).len(), 1, "{to}");
    }
    let grown = today.replacen("    uint64_t fingerprint;", "    uint64_t fingerprint;\n    int64_t added;", 1);
    assert!(broken(&first, &abi(&grown)).is_empty(), "a struct may grow at its end");
}
