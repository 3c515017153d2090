//! Compiles the CUDA kernels under `cuda/` to fatbins, which `src/gpu/kernels.rs` embeds, and generates
//! the C++ twins of the kernels' parameter structs from `src/gpu/params.rs`. Standard library only.
//!
//! Environment: `FLASHMLA_NO_KERNELS=1` builds without kernels (CPU backend only); `FLASHMLA_RACECHECK=1`
//! builds them for compute-sanitizer's racecheck (`kArrivalsOfWarp` in cuda/common/mbarrier.cuh);
//! `FLASHMLA_ARCHS` chooses the architectures (default `90a`); `NVCC`, `CUDA_HOME`, `CUDA_PATH` say where nvcc is.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The oldest nvcc that knows every architecture and option used here.
const MIN_NVCC: (u32, u32) = (12, 8);
const SPILLS_ALLOWED: &str = "flashmla: spills allowed";

fn main() {
    if let Err(error) = build() {
        // Cargo shows what a build script prints to standard error when it fails.
        eprintln!("\nerror: {error}\n");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    for variable in
        ["FLASHMLA_NO_KERNELS", "FLASHMLA_RACECHECK", "FLASHMLA_ARCHS", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"]
    {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/gpu/params.rs");
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libflashmla.so.0");
    // Kernels are never unloaded, and thread-local destructors must find their code.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");

    let structs = params::parse(&fs::read_to_string(root.join("src/gpu/params.rs"))?)?;
    let include = out.join("include");
    fs::create_dir_all(&include)?;
    write_if_changed(&include.join("flashmla_params.h"), &params::header(&structs))?;
    write_if_changed(&out.join("params_check.rs"), &params::check(&structs))?;

    let no_kernels = is_set("FLASHMLA_NO_KERNELS");
    let fatbins = if no_kernels { Vec::new() } else { compile_all(&root, &out, &include)? };
    let mut table = String::from("pub static FATBINS: Fatbins = &[\n");
    for (name, path) in &fatbins {
        writeln!(table, "    ({name:?}, include_bytes!({path:?})),")?;
    }
    table.push_str("];\n");
    write_if_changed(&out.join("kernels.rs"), &table)
}

fn is_set(variable: &str) -> bool {
    env::var(variable).is_ok_and(|v| !v.is_empty() && v != "0")
}

/// Name ("sm90/dense_decode/bf16_576") and fatbin of every kernel file.
fn compile_all(root: &Path, out: &Path, include: &Path) -> Result<Vec<(String, PathBuf)>> {
    let nvcc = Nvcc::find(root)?;
    println!("cargo:rustc-env=FLASHMLA_NVCC_VERSION={}.{}", nvcc.version.0, nvcc.version.1);
    let archs = env::var("FLASHMLA_ARCHS").unwrap_or_else(|_| "90a".into());
    let archs: Vec<&str> = archs.split([',', ' ', ';']).filter(|a| !a.is_empty()).collect();
    let cuda = root.join("cuda");
    let mut jobs = Vec::new();
    for source in sources(&cuda)? {
        let relative = source.strip_prefix(&cuda)?.with_extension("");
        let name = relative.to_str().ok_or("a kernel file's name is not UTF-8")?.to_owned();
        // A folder smNN holds kernels of that architecture alone.
        let family = name.split('/').next().and_then(|f| f.strip_prefix("sm"));
        let fits = |arch: &&&str| family.is_none_or(|f| arch.trim_end_matches(char::is_alphabetic) == f);
        let archs: Vec<&str> = archs.iter().filter(fits).copied().collect();
        if !archs.is_empty() {
            let fatbin = out.join("fatbins").join(&relative).with_extension("fatbin");
            jobs.push(Job { source, name, fatbin, archs });
        }
    }
    // Each compiler is a process of its own: threads only wait for them.
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 64);
    let next = AtomicUsize::new(0);
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                job.run(&nvcc, &cuda, include)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|w| w.join().expect("a compile thread panicked")).collect()
    });
    results.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(jobs.into_iter().map(|job| (job.name, job.fatbin)).collect())
}

fn sources(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "cu") {
            found.insert(path);
        }
    }
    Ok(found)
}

struct Job<'a> {
    source: PathBuf,
    name: String,
    fatbin: PathBuf,
    archs: Vec<&'a str>,
}

impl Job<'_> {
    /// Compiles, unless the fatbin is newer than everything that it was made from, by the same command.
    fn run(&self, nvcc: &Nvcc, cuda: &Path, include: &Path) -> Result<()> {
        fs::create_dir_all(self.fatbin.parent().unwrap())?;
        let dependencies = self.fatbin.with_extension("d");
        let mut command = Command::new(&nvcc.path);
        command.args(["--fatbin", "-std=c++17", "-O3", "-lineinfo", "--compress-mode=size", "-Xptxas", "-v"]);
        if is_set("FLASHMLA_RACECHECK") {
            command.arg("-DFLASHMLA_RACECHECK");
        }
        for arch in &self.archs {
            command.arg("-gencode").arg(format!("arch=compute_{arch},code=sm_{arch}"));
        }
        command.arg("-I").arg(cuda).arg("-I").arg(include).args(&nvcc.arguments);
        command.arg("-MD").arg("-MF").arg(&dependencies).arg("-o").arg(&self.fatbin).arg(&self.source);
        let stamp = format!("{:?} {:?}", nvcc.version, command);
        let stamp_file = self.fatbin.with_extension("stamp");
        if fs::read_to_string(&stamp_file).is_ok_and(|s| s == stamp) && self.is_fresh(&dependencies) {
            return Ok(());
        }
        let output = command.output().map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
        let log = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let _ = fs::remove_file(&self.fatbin);
            return Err(format!("nvcc failed on {}:\n{log}", self.source.display()).into());
        }
        self.check_resources(&log)?;
        // Last: a stamp stands for a finished compilation.
        fs::write(stamp_file, stamp)?;
        Ok(())
    }

    fn is_fresh(&self, dependencies: &Path) -> bool {
        let modified = |p: &Path| fs::metadata(p).and_then(|m| m.modified()).ok();
        let (Some(made), Ok(rule)) = (modified(&self.fatbin), fs::read_to_string(dependencies)) else {
            return false;
        };
        // "target : a b \", one rule of make; folders with spaces are escaped.
        let rule = rule.replace("\\\n", " ").replace("\\ ", "\u{0}");
        let Some((_, list)) = rule.split_once(" : ").or_else(|| rule.split_once(": ")) else {
            return false;
        };
        list.split_whitespace()
            .map(|name| PathBuf::from(name.replace('\u{0}', " ")))
            .all(|file| modified(&file).is_some_and(|time| time <= made))
    }

    /// Registers in memory cost more than they look. Kernels that need it say so, and why.
    fn check_resources(&self, log: &str) -> Result<()> {
        if ["C7507", "C7510", "C7512", "C7518", "C7520"].iter().any(|code| log.contains(code)) {
            let what = "serialises its matrix products, or ignores setmaxnreg";
            return Err(format!("{}: the compiler {what}:\n{log}", self.source.display()).into());
        }
        let spills = log.lines().any(|line| {
            let mut words = line.split([',', ' ']).filter(|w| !w.is_empty()).peekable();
            let mut last = "0";
            let mut found = false;
            while let Some(word) = words.next() {
                found |= word == "bytes" && words.peek().is_some_and(|w| *w == "spill") && last != "0";
                last = word;
            }
            found
        });
        // Kernels for racecheck are not for speed.
        if spills && !is_set("FLASHMLA_RACECHECK") && !self.allows_spills()? {
            return Err(format!(
                "{} spills registers; make it fit, or say why not in a comment `// {SPILLS_ALLOWED}, because ...` \
                 in the file:\n{log}",
                self.source.display()
            )
            .into());
        }
        Ok(())
    }

    fn allows_spills(&self) -> Result<bool> {
        Ok(fs::read_to_string(&self.source)?.contains(SPILLS_ALLOWED))
    }
}

struct Nvcc {
    path: PathBuf,
    version: (u32, u32),
    /// Include folders that this installation does not find by itself.
    arguments: Vec<String>,
}

impl Nvcc {
    /// `NVCC`, `CUDA_HOME`, `CUDA_PATH` (an error if set and wrong), then the usual places, then what
    /// `make toolchain` installed.
    fn find(root: &Path) -> Result<Nvcc> {
        for (variable, suffix) in [("NVCC", ""), ("CUDA_HOME", "bin/nvcc"), ("CUDA_PATH", "bin/nvcc")] {
            if let Some(value) = env::var_os(variable).filter(|v| !v.is_empty()) {
                let path = if suffix.is_empty() { value.into() } else { Path::new(&value).join(suffix) };
                return Nvcc::at(&path).map_err(|e| format!("{variable} is set, and wrong: {e}").into());
            }
        }
        let mut candidates: Vec<PathBuf> =
            env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("nvcc")).collect();
        candidates.push("/usr/local/cuda/bin/nvcc".into());
        candidates.push(root.join("target/toolchain/pkgs/nvidia/cu13/bin/nvcc"));
        let mut rejected = String::new();
        for path in candidates.iter().filter(|p| p.is_file()) {
            match Nvcc::at(path) {
                Ok(nvcc) => return Ok(nvcc),
                Err(error) => write!(rejected, "\n  {error}")?,
            }
        }
        Err(format!(
            "no nvcc of version {}.{} or newer was found.{rejected}\n\
             `make toolchain` installs one into target/toolchain; NVCC, CUDA_HOME or CUDA_PATH name another; \
             FLASHMLA_NO_KERNELS=1 builds the library without GPU kernels.",
            MIN_NVCC.0, MIN_NVCC.1
        )
        .into())
    }

    fn at(path: &Path) -> Result<Nvcc> {
        let shown = path.display();
        let output = Command::new(path).arg("--version").output().map_err(|e| format!("{shown}: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .split("release ")
            .nth(1)
            .and_then(|rest| rest.split([',', ' ', '\n']).next())
            .and_then(|v| v.split_once('.'))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| format!("{shown} --version does not look like nvcc's"))?;
        if version < MIN_NVCC {
            return Err(format!("{shown} is version {}.{}, too old", version.0, version.1).into());
        }
        // A toolkit from packages keeps its headers beside bin/; nvcc finds its own, but not all.
        let home = path.canonicalize()?.parent().and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
        let arguments = ["include", "include/cccl"]
            .iter()
            .map(|folder| home.join(folder))
            .filter(|folder| folder.is_dir())
            .map(|folder| format!("-I{}", folder.display()))
            .collect();
        Ok(Nvcc { path: path.into(), version, arguments })
    }
}

fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(fs::write(path, text)?)
}

/// The kernels' parameter structs, once in Rust and once in C++.
mod params {
    use super::Result;
    use std::fmt::Write as _;

    pub struct Struct {
        name: String,
        members: Vec<Member>,
    }

    struct Member {
        name: String,
        /// In C++.
        element: &'static str,
        count: Option<usize>,
        offset: usize,
        size: usize,
    }

    /// Reads `#[repr(C)] pub struct Name { pub member: type, ... }`; comments are skipped.
    pub fn parse(source: &str) -> Result<Vec<Struct>> {
        let mut structs = Vec::new();
        let mut lines = source.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line != "#[repr(C)]" {
                continue;
            }
            let declaration = lines.find(|l| l.starts_with("pub struct ")).ok_or("repr(C) without a struct")?;
            let name = declaration["pub struct ".len()..].trim_end_matches('{').trim().to_owned();
            let mut members: Vec<Member> = Vec::new();
            let mut offset = 0;
            for line in lines.by_ref().take_while(|l| *l != "}") {
                let Some(member) = line.strip_prefix("pub ") else { continue };
                let (member, kind) = member
                    .trim_end_matches(',')
                    .split_once(": ")
                    .ok_or_else(|| format!("{name}: `{line}` is not `pub name: type,`"))?;
                let (kind, count) = match kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
                    Some(array) => {
                        let (kind, count) = array.split_once("; ").ok_or("an array without a length")?;
                        (kind, Some(count.parse::<usize>()?))
                    }
                    None => (kind, None),
                };
                let (element, bytes) = match kind {
                    "u64" => ("uint64_t", 8),
                    "i64" => ("int64_t", 8),
                    "u32" => ("uint32_t", 4),
                    "i32" => ("int32_t", 4),
                    "f32" => ("float", 4),
                    other => return Err(format!("{name}.{member}: the kernels have no type for {other}").into()),
                };
                if offset % bytes != 0 {
                    return Err(format!("{name}.{member}: padding would arise before it").into());
                }
                let size = bytes * count.unwrap_or(1);
                members.push(Member { name: member.to_owned(), element, count, offset, size });
                offset += size;
            }
            structs.push(Struct { name, members });
        }
        Ok(structs)
    }

    fn size(s: &Struct) -> usize {
        let end = s.members.last().map_or(0, |m| m.offset + m.size);
        let align = s.members.iter().map(|m| m.size / m.count.unwrap_or(1)).max().unwrap_or(1);
        end.div_ceil(align) * align
    }

    pub fn header(structs: &[Struct]) -> String {
        let mut text = String::from(
            "// Generated by build.rs from src/gpu/params.rs.\n#pragma once\n#include <cstddef>\n#include <cstdint>\n\n\
             namespace flashmla {\n",
        );
        for s in structs {
            writeln!(text, "\nstruct {} {{", s.name).unwrap();
            for m in &s.members {
                let count = m.count.map(|n| format!("[{n}]")).unwrap_or_default();
                writeln!(text, "    {} {}{count};", m.element, m.name).unwrap();
            }
            writeln!(text, "}};\nstatic_assert(sizeof({}) == {});", s.name, size(s)).unwrap();
            for m in &s.members {
                writeln!(text, "static_assert(offsetof({}, {}) == {});", s.name, m.name, m.offset).unwrap();
            }
        }
        text + "\n}  // namespace flashmla\n"
    }

    /// The same numbers, asserted of the Rust structs; `src/gpu/params.rs` includes it.
    pub fn check(structs: &[Struct]) -> String {
        let mut text = String::new();
        for s in structs {
            writeln!(text, "const _: () = assert!(std::mem::size_of::<{}>() == {});", s.name, size(s)).unwrap();
            for m in &s.members {
                writeln!(text, "const _: () = assert!(std::mem::offset_of!({}, {}) == {});", s.name, m.name, m.offset)
                    .unwrap();
            }
        }
        text
    }
}
