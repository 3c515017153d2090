//! A million random problems of each operation, sane and hostile: nothing panics, and what is accepted is
//! safe to run.

#[path = "../random/mod.rs"]
mod random;

mod dense_decode;
mod kv_cache;
mod sparse_decode;
mod sparse_prefill;

use flashmla::problem::tensor::{RawTensor, Tensor};
use flashmla::status::Error;
use random::Random;

const HOSTILE: [i64; 12] = [0, -1, 1, 7, 575, 577, i64::MIN, i64::MAX, 1 << 31, (1 << 31) - 1, 1 << 40, -576];

fn size(r: &mut Random, sane: &[i64]) -> i64 {
    if r.below(24) == 0 {
        r.pick(&HOSTILE)
    } else {
        r.pick(sane)
    }
}

/// Contiguous, padded, or wrong.
fn tensor(r: &mut Random, shape: &[i64]) -> RawTensor {
    let addr = if r.below(16) == 0 { r.pick(&[0, 1, 8, 0x1004, u64::MAX - 15]) } else { 0x7f00_0000_0000 };
    let mut strides = [0i64; 4];
    if r.below(3) > 0 {
        let mut step = 1i64;
        for i in (0..shape.len()).rev() {
            strides[i] = step;
            step = step.wrapping_mul(shape[i].max(1)).wrapping_add(r.pick(&[0, 0, 8, 64]));
        }
        if r.below(12) == 0 {
            strides[r.below(4) as usize] = r.pick(&HOSTILE);
        }
    }
    RawTensor { addr, strides }
}

fn softmax_scale(r: &mut Random) -> f32 {
    r.pick(&[0.0, 0.04, 1.0, 1.0, 1.0, f32::NAN, -1.0, f32::INFINITY])
}

/// Everything that an implementation may touch lies between the address and the extent that was checked.
fn safe<const N: usize>(t: &Tensor<N>, bytes: i128) {
    if t.is_empty() {
        return;
    }
    assert!(t.addr != 0 && t.strides.iter().all(|s| *s >= 0), "{t:?}");
    let last: i128 = t.shape.iter().zip(&t.strides).map(|(n, s)| (*n as i128 - 1) * *s as i128).sum();
    assert_eq!(t.extent() as i128, last + 1, "{t:?}");
    assert!(t.addr as i128 + (last + 1) * bytes <= i64::MAX as i128, "{t:?}");
}

/// By counting: no two elements of a small output share memory.
fn disjoint<const N: usize>(t: &Tensor<N>) {
    let count: i128 = t.shape.iter().map(|n| *n as i128).product();
    if count == 0 || count > 4096 {
        return;
    }
    let mut offsets: Vec<i64> = (0..count as i64)
        .map(|mut i| {
            let mut index = [0; N];
            for d in (0..N).rev() {
                (index[d], i) = (i % t.shape[d], i / t.shape[d]);
            }
            t.offset(index)
        })
        .collect();
    offsets.sort_unstable();
    assert!(offsets.windows(2).all(|w| w[0] < w[1]), "{t:?}");
}

/// An argument error whose message says what would be right.
fn well_put(e: &Error) {
    assert!((1000..2000).contains(&e.status), "{e:?}");
    let says = ["must", "not known", "overflow", "pass the end"];
    assert!(says.iter().any(|part| e.message.contains(part)), "{e:?}");
}
