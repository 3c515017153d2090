//! Sizes and numbers that several operations check alike.

use crate::status::{Error, Result};
use crate::{err, error};

/// Columns of V in MQA mode: the first 512 of a latent row.
pub const D_V: i64 = 512;
/// Every size fits `i32`, so that kernels index with 32 bits and scale by 64-bit strides.
pub const MAX_SIZE: i64 = i32::MAX as i64;

#[inline(always)]
pub fn size(name: &str, value: i64, min: i64) -> Result<()> {
    match (value >= min) & (value <= MAX_SIZE) {
        true => Ok(()),
        false => Err(wrong_size(name, value, min)),
    }
}

#[cold]
#[inline(never)]
fn wrong_size(name: &str, value: i64, min: i64) -> Error {
    if value < min {
        return error!(FLASHMLA_ERROR_INVALID_SHAPE, "{name} = {value}: must be at least {min}");
    }
    error!(FLASHMLA_ERROR_OVERFLOW, "{name} = {value}: must be at most {MAX_SIZE}")
}

#[inline(always)]
pub fn product<const N: usize>(name: &str, factors: &[i64; N]) -> Result<()> {
    let p = factors.iter().try_fold(1i64, |acc, f| acc.checked_mul(*f));
    match p {
        Some(v) if v <= MAX_SIZE => Ok(()),
        _ => Err(wrong_product(name, *factors)),
    }
}

#[cold]
#[inline(never)]
fn wrong_product<const N: usize>(name: &str, factors: [i64; N]) -> Error {
    error!(FLASHMLA_ERROR_OVERFLOW, "{name} = {factors:?} multiplied: must be at most {MAX_SIZE}")
}

/// The head dim of Q and of a latent row.
pub fn latent_d_qk(d_qk: i64) -> Result<()> {
    if d_qk != 576 && d_qk != 512 {
        return err!(FLASHMLA_ERROR_INVALID_SHAPE, "d_qk = {d_qk}: must be 576 or 512");
    }
    Ok(())
}

/// The factor of Q K^T, 0 standing for the default.
pub fn softmax_scale(scale: f32, d_qk: i64) -> Result<f32> {
    let scale = if scale == 0.0 { 1.0 / (d_qk as f32).sqrt() } else { scale };
    if !scale.is_finite() || scale < 0.0 {
        return err!(
            FLASHMLA_ERROR_INVALID_ARGUMENT,
            "softmax_scale = {scale}: must be finite and positive (or 0 for d_qk^-0.5)"
        );
    }
    Ok(scale)
}
