//! Sizes and numbers that several operations check alike.

use crate::err;
use crate::status::Result;

/// Columns of V in MQA mode: the first 512 of a latent row.
pub const D_V: i64 = 512;
/// Every size fits `i32`, so that kernels index with 32 bits and scale by 64-bit strides.
pub const MAX_SIZE: i64 = i32::MAX as i64;

#[inline(always)]
pub fn size(name: &str, value: i64, min: i64) -> Result<()> {
    if value < min {
        return err!(FLASHMLA_ERROR_INVALID_SHAPE, "{name} = {value}: must be at least {min}");
    }
    if value > MAX_SIZE {
        return err!(FLASHMLA_ERROR_OVERFLOW, "{name} = {value}: must be at most {MAX_SIZE}");
    }
    Ok(())
}

#[inline(always)]
pub fn product(name: &str, factors: &[i64]) -> Result<()> {
    let p = factors.iter().try_fold(1i64, |acc, f| acc.checked_mul(*f));
    match p {
        Some(v) if v <= MAX_SIZE => Ok(()),
        _ => err!(FLASHMLA_ERROR_OVERFLOW, "{name} = {factors:?} multiplied: must be at most {MAX_SIZE}"),
    }
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
