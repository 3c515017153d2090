//! The C++ face of the library, bindings/cpp/flashmla.hpp: under every compiler and standard, with and without
//! exceptions, what it does on the CPU backend, and that it lacks nothing of the C API.

mod programs;

use programs::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const STRICT: [&str; 7] =
    ["-pedantic", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wnon-virtual-dtor", "-Werror"];
const STANDARDS: [&str; 3] = ["c++17", "c++20", "c++2b"];

/// Ways to build: their options, and whether errors are thrown.
const MODES: [(&str, &[&str], bool); 3] = [
    ("exceptions", &[], true),
    ("macro", &["-DFLASHMLA_NO_EXCEPTIONS"], false),
    ("switched_off", &["-fno-exceptions", "-fno-rtti"], false),
];

fn compiler(name: &str, standard: &str, options: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.arg(format!("-std={standard}")).args(STRICT).args(options);
    for include in ["include", "bindings/cpp"] {
        command.arg("-I").arg(root().join(include));
    }
    command
}

/// The first C++ compiler that is there.
fn any() -> &'static str {
    ["g++", "clang++"].into_iter().find(|c| has(c)).expect("a C++ compiler")
}

fn source(name: &str) -> PathBuf {
    root().join("tests/cpp").join(name)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Builds files of tests/cpp, or objects, into one program and runs it.
fn run(mut command: Command, files: &[PathBuf], folder: &Path, name: &str) -> String {
    let program = folder.join(name);
    command.args(files).arg("-L").arg(library().parent().unwrap()).arg("-lflashmla");
    output(command.arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o").arg(&program));
    output(&mut Command::new(program))
}

/// Every program under every standard and mode; optimised, as users build, so that the optimiser's view of the
/// structs is tested too.
fn matrix(test: &str, cxx: &str) {
    if !has(cxx) {
        return skip(test, &format!("no {cxx} here"));
    }
    let folder = folder("cpp_tests");
    for standard in STANDARDS {
        for (mode, options, throws) in MODES {
            for program in ["defaults", if throws { "throwing" } else { "returning" }] {
                let mut command = compiler(cxx, standard, options);
                command.arg("-O2");
                let name = format!("{program}_{cxx}_{standard}_{mode}");
                run(command, &[source(&format!("{program}.cpp"))], &folder, &name);
            }
        }
    }
}

#[test]
fn gcc() {
    matrix("cpp::gcc", "g++");
}

#[test]
fn clang() {
    matrix("cpp::clang", "clang++");
}

/// Under the sanitizers nothing leaks, and no call trips over the bindings.
#[test]
fn sanitized() {
    let folder = folder("cpp_tests");
    let probe = folder.join("probe.cpp");
    std::fs::write(&probe, "int main() {}\n").unwrap();
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"];
    let mut command = compiler(any(), "c++17", &sanitizers);
    if !command.arg(&probe).arg("-o").arg(folder.join("probe")).output().unwrap().status.success() {
        return skip("cpp::sanitized", "the compiler comes without its sanitizers");
    }
    for (program, options) in [("throwing", &[][..]), ("returning", &["-fno-exceptions"][..])] {
        let mut command = compiler(any(), "c++17", &sanitizers);
        command.args(options);
        run(command, &[source(&format!("{program}.cpp"))], &folder, &format!("{program}_sanitized"));
    }
}

/// Files with and without exceptions in one program: each gets its own functions.
#[test]
fn mixed_modes_link() {
    let folder = folder("cpp_tests");
    let part = folder.join("mixed_part.o");
    let mut command = compiler(any(), "c++17", &["-fno-exceptions", "-fno-rtti"]);
    output(command.arg("-c").arg(source("mixed_part.cpp")).arg("-o").arg(&part));
    run(compiler(any(), "c++17", &[]), &[source("mixed_main.cpp"), part], &folder, "mixed");
}

/// Every exported symbol is what some C++ function calls: coverage.cpp names none of them, and asks for all.
#[test]
fn every_symbol_has_a_cpp_face() {
    let code = read("tests/cpp/coverage.cpp");
    assert!(!code.contains("flashmla_"), "coverage.cpp is to use C++ alone");
    let object = folder("cpp_tests").join("coverage.o");
    for (_, options, _) in MODES {
        output(compiler(any(), "c++17", options).arg("-c").arg(source("coverage.cpp")).arg("-o").arg(&object));
        let undefined = output(Command::new("nm").arg("-u").arg(&object));
        for symbol in read("tests/c/symbols.txt").lines() {
            assert!(
                undefined.split_whitespace().any(|u| u == symbol),
                "{symbol} has no C++ face: give it one in flashmla.hpp, and call that in tests/cpp/coverage.cpp"
            );
        }
    }
}

/// Every macro that is a value has its enumerator or constant, and every struct its twin, member by member.
#[test]
fn every_constant_and_member_has_a_cpp_face() {
    let c = read("include/flashmla.h");
    let cpp = read("bindings/cpp/flashmla.hpp");
    let has_word = |word: &str| cpp.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word);
    let mut constants = 0;
    for line in c.lines().filter_map(|l| l.strip_prefix("#define FLASHMLA_")) {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        if value.trim_start().parse::<i64>().is_ok() {
            assert!(has_word(&format!("FLASHMLA_{name}")), "FLASHMLA_{name} is not in flashmla.hpp");
            constants += 1;
        }
    }
    assert!(constants >= 30, "{constants} constants: is the header read rightly?");

    let mut members = 0;
    for block in c.split("typedef struct ").skip(1).filter_map(|b| b.split_once(" {\n")) {
        let (name, rest) = block;
        if name.contains(';') {
            continue; // opaque
        }
        let body = rest.split_once("} ").expect("the end of a struct").0;
        for line in body.lines().filter(|l| l.ends_with(';') && !l.trim_start().starts_with('*')) {
            let member = line.trim_end_matches(';').rsplit([' ', '*']).next().unwrap().split('[').next().unwrap();
            let check = format!(", {name}, {member});");
            assert!(cpp.contains(&check), "flashmla.hpp does not compare {name}.{member}");
            members += 1;
        }
    }
    assert!(members >= 40, "{members} members: is the header read rightly?");
}

/// The layout checks can fail: a C header whose struct moved or grew does not compile with this one.
#[test]
fn another_layout_is_refused() {
    let folder = folder("cpp_tests").join("altered");
    std::fs::create_dir_all(&folder).unwrap();
    let header = read("include/flashmla.h");
    for (from, to, complaint) in [
        ("int64_t s_q;", "int64_t s_q;\n    int64_t added;", "DenseDecodeParams::h_q is not laid out"),
        (
            "    struct flashmla_plan_t *plan;\n",
            "    struct flashmla_plan_t *plan;\n    int64_t added;\n",
            "DenseDecodeParams is not laid out",
        ),
        ("char name[64];", "char name[72];", "KernelInfo::name is not laid out"),
    ] {
        assert!(header.contains(from), "{from} is gone from the header");
        std::fs::write(folder.join("flashmla.h"), header.replacen(from, to, 1)).unwrap();
        let mut command = Command::new(any());
        command.args(["-std=c++17", "-fsyntax-only", "-x", "c++", "-I"]).arg(&folder);
        let errors = refused(command.arg(root().join("bindings/cpp/flashmla.hpp")));
        assert!(errors.contains(complaint), "no word of \"{complaint}\":\n{errors}");
    }
}

/// What a program must not do does not compile.
#[test]
fn misuse_is_refused() {
    let folder = folder("cpp_tests");
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("size", &[], "flashmla::Context().dense_decode_plan_size({});", "nodiscard"),
        ("open", &[], "flashmla::Context::open(-1);", "nodiscard"),
        ("status", &["-DFLASHMLA_NO_EXCEPTIONS"], "flashmla::Context().dense_decode({});", "nodiscard"),
        ("copy", &[], "flashmla::Context a, b = a;", "delete"),
        ("integer", &[], "flashmla::DenseDecodeParams p; p.dtype = 1;", "Dtype"),
        ("const", &[], "const flashmla::Context c; c.close();", "const"),
    ];
    for (name, options, statement, complaint) in cases {
        let file = folder.join(format!("misuse_{name}.cpp"));
        std::fs::write(&file, format!("#include <flashmla.hpp>\nint main() {{ {statement} }}\n")).unwrap();
        let errors = refused(compiler(any(), "c++17", options).arg("-fsyntax-only").arg(&file));
        assert!(errors.contains(complaint), "{statement}: no word of \"{complaint}\":\n{errors}");
    }
    let file = folder.join("misuse_old.cpp");
    std::fs::write(&file, "#include <flashmla.hpp>\n").unwrap();
    let errors = refused(compiler(any(), "c++14", &[]).arg("-fsyntax-only").arg(&file));
    assert!(errors.contains("flashmla.hpp needs C++17 or later"), "{errors}");
}

/// What only a GPU's context answers, with a driver that launches nothing.
#[test]
fn gpu_calls_and_errors() {
    let folder = folder("cpp_tests").join("fake");
    std::fs::create_dir_all(&folder).unwrap();
    let mut driver = Command::new("cc");
    driver.args(["-std=c11", "-shared", "-fPIC", "-pthread", "-o"]).arg(folder.join("libcuda.so.1"));
    output(driver.arg(root().join("tests/fake_driver/libcuda_fake.c")));
    let program = folder.join("fake_gpu");
    let mut command = compiler(any(), "c++17", &[]);
    command.arg(source("fake_gpu.cpp")).arg("-L").arg(library().parent().unwrap()).arg("-lflashmla");
    output(command.arg(format!("-Wl,-rpath,{}/..", folder.display())).arg("-o").arg(&program));
    for fails in [false, true] {
        let mut run = Command::new(&program);
        run.env("LD_LIBRARY_PATH", &folder);
        if fails {
            run.arg("fails").env("FAKE_CUDA_FAIL", "cuLaunchKernelEx:1:700");
        }
        let output = run.output().unwrap();
        match output.status.code() {
            Some(0) => {}
            Some(77) => return skip("cpp::gpu_calls_and_errors", "a library without kernels"),
            code => panic!("fails {fails}: {code:?}: {}", String::from_utf8_lossy(&output.stdout)),
        }
    }
}
