use super::{disjoint, safe, size, softmax_scale, tensor, well_put};
use crate::random::Random;
use flashmla::problem::sparse_prefill::{Raw, Shape, SparsePrefill, D_V};
use flashmla::problem::tensor::RawTensor;
use flashmla::status::*;

fn raw(r: &mut Random) -> Raw {
    let (s_q, h_q) = (size(r, &[0, 1, 2, 5, 70_000, i32::MAX as i64]), size(r, &[1, 3, 16, 127, 128]));
    let (s_kv, topk) = (size(r, &[0, 1, 300, 65_536]), size(r, &[0, 1, 63, 64, 2048]));
    let d_qk = size(r, &[576, 576, 512]);
    let mut raw = Raw {
        flags: size(r, &[0, 0, 2, 2, 1, 4]) as u32,
        softmax_scale: softmax_scale(r),
        s_q,
        h_q,
        s_kv,
        d_qk,
        topk,
        ..Default::default()
    };
    raw.q = tensor(r, &[s_q, h_q, d_qk]);
    raw.kv = tensor(r, &[s_kv, 1, d_qk]);
    raw.indices = tensor(r, &[s_q, 1, topk]);
    raw.topk_length = tensor(r, &[s_q]);
    raw.attn_sink = tensor(r, &[h_q]);
    raw.out = tensor(r, &[s_q, h_q, D_V]);
    raw.max_logits = tensor(r, &[s_q, h_q]);
    raw.lse = tensor(r, &[s_q, h_q]);
    raw
}

#[test]
fn a_million_problems() {
    let mut r = Random(4);
    let mut accepted = 0;
    for _ in 0..1_000_000 {
        let raw = raw(&mut r);
        match SparsePrefill::check(&raw) {
            Ok(p) => {
                accepted += 1;
                safe(&p.q, 2);
                safe(&p.kv, 2);
                safe(&p.indices, 4);
                p.topk_length.iter().for_each(|t| safe(t, 4));
                p.attn_sink.iter().for_each(|t| safe(t, 4));
                safe(&p.out, 2);
                disjoint(&p.out);
                for log in p.max_logits.iter().chain(&p.lse) {
                    safe(log, 4);
                    disjoint(log);
                }
                assert!(p.softmax_scale.is_finite() && p.softmax_scale > 0.0);
                // Kernels index with 32 bits.
                for size in [p.shape.s_q, p.shape.h_q, p.shape.s_kv, p.shape.topk] {
                    assert!((0..1 << 31).contains(&size));
                }
                // What an index may name, there is.
                assert!(p.shape.s_q * p.shape.topk == 0 || p.kv.shape[0] == p.shape.s_kv);
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(accepted > 50_000, "only {accepted} problems were accepted: the others prove little");
}

/// A problem without fault.
fn good() -> Raw {
    let at = |addr: u64| RawTensor { addr, strides: [0; 4] };
    Raw {
        s_q: 3,
        h_q: 5,
        s_kv: 7,
        d_qk: 576,
        topk: 2,
        q: at(0x10000),
        kv: at(0x20000),
        indices: at(0x30004),
        topk_length: at(0x40004),
        attn_sink: at(0x50004),
        out: at(0x60010),
        max_logits: at(0x70004),
        lse: at(0x80004),
        ..Raw::default()
    }
}

#[test]
fn defaults_are_filled_in() {
    let p = SparsePrefill::check(&good()).unwrap();
    assert_eq!(p.softmax_scale, 1.0 / 24.0);
    assert_eq!(p.q.strides, [5 * 576, 576, 1]);
    assert_eq!(p.kv.strides, [576, 576, 1]);
    assert_eq!(p.indices.strides, [2, 2, 1]);
    assert_eq!(p.out.strides, [5 * 512, 512, 1]);
    assert_eq!(p.lse.unwrap().strides, [5, 1]);
    assert_eq!(p.topk_length.unwrap().strides, [1]);
    assert!(!p.shape.lse_empty_pos_inf);
    assert!(Shape::check(&Raw { flags: 2, ..good() }).unwrap().lse_empty_pos_inf);
    let p = SparsePrefill::check(&Raw { softmax_scale: 0.5, d_qk: 512, ..good() }).unwrap();
    assert_eq!(p.softmax_scale, 0.5);
}

#[test]
fn optional_tensors_may_be_left_out() {
    let none = RawTensor::default();
    let raw = Raw { topk_length: none, attn_sink: none, max_logits: none, lse: none, ..good() };
    let p = SparsePrefill::check(&raw).unwrap();
    assert_eq!((p.topk_length, p.attn_sink, p.max_logits, p.lse), (None, None, None, None));
}

#[test]
fn nothing_to_do_needs_no_memory() {
    let none = RawTensor::default();
    let p = SparsePrefill::check(&Raw { s_q: 0, q: none, kv: none, indices: none, out: none, ..good() }).unwrap();
    assert!(p.shape.is_empty());
    for raw in [Raw { topk: 0, kv: none, indices: none, ..good() }, Raw { s_kv: 0, kv: none, ..good() }] {
        assert!(SparsePrefill::check(&raw).unwrap().kv.is_empty());
    }
}

/// Queries of millions of tokens and rows far apart: sizes are counted in 64 bits.
#[test]
fn large_problems_are_accepted() {
    let most = i32::MAX as i64;
    SparsePrefill::check(&Raw { s_q: most, h_q: 128, topk: 2048, s_kv: most, ..good() }).unwrap();
    let far = RawTensor { addr: 0x10000, strides: [1 << 40, 576, 1, 0] };
    assert_eq!(SparsePrefill::check(&Raw { q: far, ..good() }).unwrap().q.extent(), (2 << 40) + 5 * 576);
}

#[test]
fn a_workspace_is_checked_against_what_the_launch_needs() {
    let with = |workspace, workspace_size| SparsePrefill::check(&Raw { workspace, workspace_size, ..good() }).unwrap();
    assert!(with(0, 0).check_workspace(0).is_ok());
    assert!(with(0x1000, 512).check_workspace(512).is_ok());
    for (problem, status, message) in [
        (with(0x1000, 511), FLASHMLA_ERROR_BUFFER_TOO_SMALL, "workspace_size = 511: must be at least 512 bytes"),
        (with(0, 512), FLASHMLA_ERROR_NULL_POINTER, "workspace = NULL: must point to memory"),
        (with(0x1080, 512), FLASHMLA_ERROR_MISALIGNED, "workspace = 0x1080: must be a multiple of 256 bytes"),
    ] {
        let error = problem.check_workspace(512).unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (status, message));
    }
}
