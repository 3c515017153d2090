//! What a C programmer links: exported symbols, dependencies, the header under every compiler and standard, the
//! layout of the structs, and what wrong arguments get.

mod programs;

use flashmla::capi::{
    context::*, dense_decode::*, kv_cache_append::*, kv_cache_gather::*, map_indices::*, sparse_decode::*,
    sparse_prefill::*, types::*,
};
use programs::*;
use std::mem::{offset_of, size_of};
use std::path::PathBuf;
use std::process::Command;

const STRICT: [&str; 5] = ["-pedantic", "-Wall", "-Wextra", "-Wmissing-field-initializers", "-Werror"];

/// Builds tests/c/NAME.c against the library and returns the program, which finds it.
fn program(compiler: &str, standard: &str, name: &str) -> PathBuf {
    let folder = folder("c_tests");
    let to = folder.join(format!("{name}_{compiler}"));
    let mut command = Command::new(compiler);
    command.arg(format!("-std={standard}")).args(STRICT).arg("-I").arg(root().join("include"));
    command.arg(root().join(format!("tests/c/{name}.c"))).arg("-L").arg(library().parent().unwrap()).arg("-lflashmla");
    command.arg(format!("-Wl,-rpath,{}", folder.display())).arg("-o").arg(&to);
    output(&mut command);
    to
}

#[test]
fn exports_the_golden_list() {
    let text = output(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let mut symbols: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    symbols.sort_unstable();
    let golden = std::fs::read_to_string(root().join("tests/c/symbols.txt")).unwrap();
    assert_eq!(symbols, golden.lines().collect::<Vec<_>>(), "tests/c/symbols.txt is the ABI: add, never remove");
}

#[test]
fn needs_the_c_library_alone() {
    let text = output(Command::new("readelf").arg("-d").arg(library()));
    assert!(text.contains("[libflashmla.so.0]"), "no SONAME:\n{text}");
    assert!(text.contains("NODELETE"), "could be unloaded under its threads:\n{text}");
    for line in text.lines().filter(|l| l.contains("(NEEDED)")) {
        let allowed = ["libc.so.", "libm.so.", "libgcc_s.so.", "ld-linux"];
        assert!(allowed.iter().any(|a| line.contains(a)), "{line}");
    }
}

#[test]
fn stays_small() {
    let stripped = library().with_extension("stripped");
    output(Command::new("strip").arg("-o").arg(&stripped).arg(library()));
    let size = std::fs::metadata(&stripped).unwrap().len();
    assert!(size < 8 << 20, "{size} bytes without debug information");
}

#[test]
fn header_compiles_everywhere() {
    let c = ["c99", "c11", "c17", "c2x"];
    let cpp = ["c++11", "c++14", "c++17", "c++20", "c++2b"];
    let mut compiled = 0;
    for (compilers, standards, language) in [(["gcc", "clang"], &c[..], "c"), (["g++", "clang++"], &cpp[..], "c++")] {
        for compiler in compilers.iter().filter(|c| has(c)) {
            for standard in standards {
                for beside_cuda in [false, true] {
                    let mut command = Command::new(compiler);
                    command.args(["-fsyntax-only", "-x", language]).arg(format!("-std={standard}")).args(STRICT);
                    command.arg("-I").arg(root().join("include")).arg(root().join("tests/c/initializers.c"));
                    if beside_cuda {
                        command.arg("-DBESIDE_CUDA");
                    }
                    output(&mut command);
                    compiled += 1;
                }
            }
        }
    }
    assert!(compiled >= 8, "found no compiler");
    println!("{compiled} combinations of compiler, standard and surroundings");
}

#[test]
fn structs_are_laid_out_alike() {
    let text = output(&mut Command::new(program("cc", "c99", "layout")));
    let mut checked = 0;
    let mut check = |name: &str, member: &str, expected: usize| {
        assert!(
            text.lines().any(|l| l == format!("{name} {member} {expected}")),
            "{name} {member} {expected}:\n{text}"
        );
        checked += 1;
    };
    macro_rules! same {
        ($($name:ident { $($member:ident),* })*) => {
            $(check(stringify!($name), "-", size_of::<$name>());
            $(check(stringify!($name), stringify!($member), offset_of!($name, $member));)*)*
        };
    }
    same! {
        flashmla_const_tensor_t { data, strides }
        flashmla_tensor_t { data, strides }
        flashmla_options_t { struct_size, cpu_threads, reserved }
        flashmla_device_info_t { struct_size, name, device, compute_capability, multiprocessors, driver_version }
        flashmla_kernel_info_t { struct_size, name, thread_blocks, cluster_size, partitions }
        flashmla_plan_t { struct_size, data, size, fingerprint }
        flashmla_dense_decode_params_t {
            struct_size, dtype, flags, b, s_q, h_q, h_kv, d_qk, d_v, num_blocks, page_block_size, max_blocks_per_seq,
            softmax_scale, reserved, q, kv_cache, block_table, cache_seqlens, out, lse, workspace, workspace_size, plan,
            kv_layout, reserved2
        }
        flashmla_sparse_decode_params_t {
            struct_size, layout, flags, softmax_scale, extra_layout, b, s_q, h_q, d_qk, num_blocks,
            page_block_size, topk, extra_num_blocks, extra_page_block_size, extra_topk, q, kv_cache, indices,
            topk_length, extra_kv_cache, extra_indices, extra_topk_length, attn_sink, out, lse, workspace,
            workspace_size, plan
        }
        flashmla_kv_cache_append_params_t {
            struct_size, layout, scale_rule, slot_type, reserved, n, d_qk, num_blocks, page_block_size, rows,
            slot_mapping, kv_cache
        }
        flashmla_kv_cache_gather_params_t {
            struct_size, layout, reserved, n, d_qk, num_blocks, page_block_size, b, max_blocks_per_seq,
            kv_cache, indices, block_table, cu_seqlens, seq_starts, rows
        }
        flashmla_map_indices_params_t {
            struct_size, b, s_q, topk, num_blocks, page_block_size, max_blocks_per_seq, positions,
            block_table, cache_seqlens, indices
        }
        flashmla_sparse_prefill_params_t {
            struct_size, flags, softmax_scale, s_q, h_q, s_kv, d_qk, topk, q, kv, indices, topk_length, attn_sink, out,
            max_logits, lse, workspace, workspace_size
        }
    }
    assert_eq!(checked, text.lines().count(), "a member is checked on one side only:\n{text}");
}

#[test]
fn wrong_arguments_are_named() {
    for compiler in ["gcc", "clang"].into_iter().filter(|c| has(c)) {
        for name in ["arguments", "arguments_sparse_prefill", "arguments_sparse_decode", "arguments_kv_cache"] {
            print!("{}", output(&mut Command::new(program(compiler, "c99", name))));
        }
    }
}

#[test]
fn initializers_run() {
    output(&mut Command::new(program("cc", "c99", "initializers")));
}
