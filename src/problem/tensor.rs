//! A tensor argument: address, shape and strides, and the checks that every tensor goes through.

use crate::status::{Error, Result};
use crate::{err, error};

const WORKSPACE_ALIGN: i64 = 256;

/// A tensor as the caller described it: an address and up to four strides in elements. All
/// strides 0 stand for the contiguous layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawTensor {
    pub addr: u64,
    pub strides: [i64; 4],
}

/// What a tensor must satisfy. Sizes and alignments are powers of two: a call checks six tensors, and a division takes
/// as long as the rest of a stride's check.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Bytes of one element.
    pub elem_bytes: i64,
    /// The address, and every stride but the innermost in bytes, are multiples of this.
    pub align: i64,
    /// The innermost stride must be 1.
    pub unit_inner: bool,
    /// No two elements may share memory.
    pub output: bool,
    /// A stride of 0 repeats what is there along its dimension.
    pub broadcast: bool,
}

impl Rules {
    /// Rows of 16-bit elements: what the copy engine and 128-bit loads need.
    pub const ROW_16: Rules = Rules { elem_bytes: 2, align: 16, unit_inner: true, output: false, broadcast: false };
    /// Single 32-bit elements, read or written one by one.
    pub const WORD_32: Rules = Rules { elem_bytes: 4, align: 4, unit_inner: false, output: false, broadcast: false };

    /// Bytes; who names them knows how they must be aligned.
    pub const BYTES: Rules = Rules { elem_bytes: 1, align: 1, unit_inner: true, output: false, broadcast: false };

    pub const fn output(self) -> Rules {
        Rules { output: true, ..self }
    }

    pub const fn broadcast(self) -> Rules {
        Rules { broadcast: true, ..self }
    }
}

/// A checked tensor of rank `N`; strides in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor<const N: usize> {
    pub addr: u64,
    pub shape: [i64; N],
    pub strides: [i64; N],
}

impl<const N: usize> Tensor<N> {
    /// No element at all.
    pub const EMPTY: Self = Tensor { addr: 0, shape: [0; N], strides: [0; N] };

    /// Checks strides only: enough for queries, where no memory is touched.
    #[inline(always)]
    pub fn check_layout(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Self> {
        Self::with_extent(name, raw, shape, rules).map(|(tensor, _)| tensor)
    }

    /// As `check_layout`, and the elements from the first to the last of a tensor that is not empty.
    #[inline(always)]
    fn with_extent(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<(Self, i64)> {
        if let Some(strides) = fine_resolved(raw, &shape) {
            if let Some(extent) = fine_strides(&shape, &strides, rules) {
                return Ok((Tensor { addr: raw.addr, shape, strides }, extent));
            }
        }
        // Copies go into the cold call and out of it: what it took or wrote by address would have to lie in memory in every
        // call, fine or not (cuda/NOTES.md, on the host's part of a call).
        let Rules { elem_bytes, align, unit_inner, output, broadcast } = rules;
        let rules = Rules { elem_bytes, align, unit_inner, output, broadcast };
        match Self::with_any_extent(name, *raw, shape.map(|n| n), rules) {
            Ok((Tensor { addr, shape, strides }, extent)) => Ok((Tensor { addr, shape, strides }, extent)),
            Err(error) => Err(error),
        }
    }

    #[cold]
    #[inline(never)]
    fn with_any_extent(name: &str, raw: RawTensor, shape: [i64; N], rules: Rules) -> Result<(Self, i64)> {
        let strides = resolve_strides(name, &raw, &shape)?;
        let extent = check_strides(name, &shape, &strides, rules)?;
        Ok((Tensor { addr: raw.addr, shape, strides }, extent))
    }

    /// As `check`, of a tensor that the caller may leave out with a null address.
    #[inline(always)]
    pub fn check_optional(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Option<Self>> {
        match raw.addr {
            0 => Self::check_layout(name, raw, shape, rules).map(|_| None),
            _ => Self::check(name, raw, shape, rules).map(Some),
        }
    }

    /// Checks strides and address. An empty tensor may have any address, null too.
    #[inline(always)]
    pub fn check(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Self> {
        let (t, extent) = Self::with_extent(name, raw, shape, rules)?;
        if !t.is_empty() {
            check_address(name, ".data", t.addr, rules.align.max(rules.elem_bytes))?;
            // Fits: the strides were checked.
            let bytes = extent * rules.elem_bytes;
            if t.addr > (i64::MAX - bytes) as u64 {
                return Err(past_the_end(name, t.addr, bytes));
            }
        }
        Ok(t)
    }

    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Elements from the first to the last, both included: what an implementation may touch.
    pub fn extent(&self) -> i64 {
        if self.is_empty() {
            return 0;
        }
        1 + self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<i64>()
    }

    /// Element offset of an index.
    pub fn offset(&self, index: [i64; N]) -> i64 {
        index.iter().zip(&self.strides).map(|(i, s)| i * s).sum()
    }
}

/// The workspace must hold `needed` bytes, as the layout of the launch says.
pub fn check_workspace(addr: u64, size: u64, needed: u64) -> Result<()> {
    if needed == 0 {
        return Ok(());
    }
    if size < needed {
        return err!(FLASHMLA_ERROR_BUFFER_TOO_SMALL, "workspace_size = {size}: must be at least {needed} bytes");
    }
    check_address("workspace", "", addr, WORKSPACE_ALIGN)
}

/// `align` is a power of two. `member` completes the name: nothing is allocated unless there is something to tell.
#[inline(always)]
pub fn check_address(name: &str, member: &str, addr: u64, align: i64) -> Result<()> {
    match (addr != 0) & (addr & (align as u64 - 1) == 0) {
        true => Ok(()),
        false => Err(wrong_address(name, member, addr, align)),
    }
}

#[cold]
#[inline(never)]
fn wrong_address(name: &str, member: &str, addr: u64, align: i64) -> Error {
    if addr == 0 {
        return error!(FLASHMLA_ERROR_NULL_POINTER, "{name}{member} = NULL: must point to memory");
    }
    error!(FLASHMLA_ERROR_MISALIGNED, "{name}{member} = {addr:#x}: must be a multiple of {align} bytes")
}

#[cold]
#[inline(never)]
fn past_the_end(name: &str, addr: u64, bytes: i64) -> Error {
    error!(FLASHMLA_ERROR_OVERFLOW, "{name}: {bytes} bytes from address {addr:#x} pass the end of the address space")
}

/// What `resolve_strides` gives, where nothing is wrong.
#[inline(always)]
fn fine_resolved<const N: usize>(raw: &RawTensor, shape: &[i64; N]) -> Option<[i64; N]> {
    let (mut any, mut unused) = (0, 0);
    for (i, s) in raw.strides.iter().enumerate() {
        match i < N {
            true => any |= s,
            false => unused |= s,
        }
    }
    let mut strides: [i64; N] = std::array::from_fn(|i| raw.strides[i]);
    let mut fine = unused == 0;
    if any == 0 {
        let mut step = 1i64;
        for i in (0..N).rev() {
            strides[i] = step;
            let (next, too_far) = step.overflowing_mul(shape[i].max(1));
            fine &= !too_far;
            step = next;
        }
    }
    fine.then_some(strides)
}

fn resolve_strides<const N: usize>(name: &str, raw: &RawTensor, shape: &[i64; N]) -> Result<[i64; N]> {
    for (i, s) in raw.strides.iter().enumerate().skip(N) {
        if *s != 0 {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{name}.strides[{i}] = {s}: must be 0, the tensor has {N} dimensions"
            );
        }
    }
    let mut strides = [0; N];
    strides.copy_from_slice(&raw.strides[..N]);
    if strides.iter().all(|s| *s == 0) {
        let mut step: i64 = 1;
        for i in (0..N).rev() {
            strides[i] = step;
            step = match step.checked_mul(shape[i].max(1)) {
                Some(v) => v,
                None => return err!(FLASHMLA_ERROR_OVERFLOW, "{name}: the sizes {shape:?} overflow 63 bits"),
            };
        }
    }
    Ok(strides)
}

/// What `check_strides` gives, where that is easy to see: of strides that are right, an output's in order. Without a branch
/// but the last, as every call comes here for each of its tensors.
#[inline(always)]
fn fine_strides<const N: usize>(shape: &[i64; N], strides: &[i64; N], rules: Rules) -> Option<i64> {
    let step = (rules.align >> rules.elem_bytes.trailing_zeros()).max(1);
    let (mut span, mut fine) = (0i64, true);
    for i in (0..N).rev() {
        let (n, s) = (shape[i], strides[i]);
        fine &= match i == N - 1 && rules.unit_inner {
            true => s == 1,
            false => (s & (step - 1) == 0) & (s >= (n > 1 && !rules.broadcast) as i64),
        };
        fine &= !rules.output | (n <= 1) | (s > span);
        let (reach, too_far) = (n.max(1) - 1).overflowing_mul(s);
        let (sum, too_long) = span.overflowing_add(reach);
        fine &= !too_far & !too_long;
        span = sum;
    }
    fine &= span < i64::MAX >> rules.elem_bytes.trailing_zeros();
    fine.then_some(span + 1)
}

/// Gives the elements from the first to the last, a dimension without any counting as one.
#[cold]
fn check_strides<const N: usize>(name: &str, shape: &[i64; N], strides: &[i64; N], rules: Rules) -> Result<i64> {
    let step = (rules.align >> rules.elem_bytes.trailing_zeros()).max(1);
    // From the first element to the last; none where that overflows.
    let mut extent = Some(1i64);
    for i in 0..N {
        let s = strides[i];
        let named = || format!("{name}.strides[{i}] = {s}");
        if s < 0 {
            return err!(FLASHMLA_ERROR_INVALID_STRIDE, "{}: must not be negative", named());
        }
        if i == N - 1 && rules.unit_inner {
            if s != 1 {
                return err!(FLASHMLA_ERROR_INVALID_STRIDE, "{}: must be 1 (the innermost dimension)", named());
            }
        } else if s & (step - 1) != 0 {
            return err!(FLASHMLA_ERROR_INVALID_STRIDE, "{}: must be a multiple of {step} elements", named());
        } else if s == 0 && shape[i] > 1 && !rules.broadcast {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{}: must be at least 1, the dimension has {} elements",
                named(),
                shape[i]
            );
        }
        extent = extent.zip((shape[i].max(1) - 1).checked_mul(s)).and_then(|(sum, span)| sum.checked_add(span));
    }
    let Some(extent) = extent.filter(|n| n.checked_mul(rules.elem_bytes).is_some()) else {
        return err!(
            FLASHMLA_ERROR_OVERFLOW,
            "{name}: sizes {shape:?} with strides {strides:?} overflow 63 bits of bytes"
        );
    };
    if rules.output && !shape.contains(&0) {
        check_disjoint(name, shape, strides)?;
    }
    Ok(extent)
}

/// Sorted by stride, each dimension must step over all that the smaller ones span. What they span fits 63 bits.
fn check_disjoint<const N: usize>(name: &str, shape: &[i64; N], strides: &[i64; N]) -> Result<()> {
    let mut order: [usize; N] = std::array::from_fn(|i| N - 1 - i);
    // Most have them in order, from the innermost on.
    if !order.is_sorted_by_key(|i| strides[*i]) {
        order.sort_unstable_by_key(|i| strides[*i]);
    }
    let mut span = 0;
    for i in order.into_iter().filter(|i| shape[*i] > 1) {
        if strides[i] <= span {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{name}.strides[{i}] = {}: must be at least {}, or elements of the output overlap",
                strides[i],
                span + 1
            );
        }
        span += (shape[i] - 1) * strides[i];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is easy to see is what the checks say.
    #[test]
    fn fine_strides_are_right() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let sizes = [0, 1, 2, 3, 64, i32::MAX as i64];
        let steps = [0, 1, 2, 8, 9, 64, 576, 1 << 20, 1 << 31, 1 << 61, i64::MAX - 7, -8];
        let rules = [Rules::ROW_16, Rules::WORD_32, Rules::BYTES];
        let (mut seen, mut disagreed) = (0, 0);
        for _ in 0..300_000 {
            let shape: [i64; 4] = std::array::from_fn(|_| sizes[random(6) as usize]);
            let mut strides: [i64; 4] = std::array::from_fn(|_| steps[random(12) as usize]);
            if random(2) == 0 {
                strides[3] = 1;
                strides[..3].sort_unstable_by_key(|s| -s);
            }
            let mut rules = rules[random(3) as usize];
            match random(3) {
                0 => rules = rules.output(),
                1 => rules = rules.broadcast(),
                _ => {}
            }
            let checked = check_strides("t", &shape, &strides, rules);
            match fine_strides(&shape, &strides, rules) {
                Some(extent) => {
                    assert_eq!(checked, Ok(extent), "{shape:?} {strides:?} {rules:?}");
                    seen += 1;
                }
                // Outputs in another order of dimensions, or without an element.
                None if checked.is_ok() => {
                    assert!(rules.output, "{shape:?} {strides:?} {rules:?}");
                    disagreed += 1;
                }
                None => {}
            }
            let raw = RawTensor { addr: 0, strides };
            let raw = if random(4) == 0 { RawTensor::default() } else { raw };
            assert_eq!(fine_resolved(&raw, &shape), resolve_strides("t", &raw, &shape).ok());
            let two = [shape[0], shape[1]];
            assert_eq!(fine_resolved(&raw, &two), resolve_strides("t", &raw, &two).ok());
        }
        assert!(seen > 10_000 && disagreed > 1_000, "{seen} {disagreed}");
    }
}
