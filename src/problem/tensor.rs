//! A tensor argument: address, shape and strides, and the checks that every tensor goes through.

use crate::err;
use crate::status::Result;

const WORKSPACE_ALIGN: i64 = 256;

/// A tensor as the caller described it: an address and up to four strides in elements. All
/// strides 0 stand for the contiguous layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawTensor {
    pub addr: u64,
    pub strides: [i64; 4],
}

/// What a tensor must satisfy.
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
    pub fn check_layout(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Self> {
        let strides = resolve_strides(name, raw, &shape)?;
        check_strides(name, &shape, &strides, rules)?;
        Ok(Tensor { addr: raw.addr, shape, strides })
    }

    /// As `check`, of a tensor that the caller may leave out with a null address.
    pub fn check_optional(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Option<Self>> {
        match raw.addr {
            0 => Self::check_layout(name, raw, shape, rules).map(|_| None),
            _ => Self::check(name, raw, shape, rules).map(Some),
        }
    }

    /// Checks strides and address. An empty tensor may have any address, null too.
    pub fn check(name: &str, raw: &RawTensor, shape: [i64; N], rules: Rules) -> Result<Self> {
        let t = Self::check_layout(name, raw, shape, rules)?;
        if !t.is_empty() {
            check_address(name, ".data", t.addr, rules.align.max(rules.elem_bytes))?;
            let bytes = t.extent() as i128 * rules.elem_bytes as i128;
            if t.addr as i128 + bytes > i64::MAX as i128 {
                return err!(
                    FLASHMLA_ERROR_OVERFLOW,
                    "{name}: {bytes} bytes from address {:#x} pass the end of the address space",
                    t.addr
                );
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

/// `member` completes the name: nothing is allocated unless there is something to tell.
pub fn check_address(name: &str, member: &str, addr: u64, align: i64) -> Result<()> {
    if addr == 0 {
        return err!(FLASHMLA_ERROR_NULL_POINTER, "{name}{member} = NULL: must point to memory");
    }
    if addr % align as u64 != 0 {
        return err!(FLASHMLA_ERROR_MISALIGNED, "{name}{member} = {addr:#x}: must be a multiple of {align} bytes");
    }
    Ok(())
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

fn check_strides<const N: usize>(name: &str, shape: &[i64; N], strides: &[i64; N], rules: Rules) -> Result<()> {
    let step = (rules.align / rules.elem_bytes).max(1);
    let mut extent: i128 = 1;
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
        } else if s % step != 0 {
            return err!(FLASHMLA_ERROR_INVALID_STRIDE, "{}: must be a multiple of {step} elements", named());
        } else if s == 0 && shape[i] > 1 && !rules.broadcast {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{}: must be at least 1, the dimension has {} elements",
                named(),
                shape[i]
            );
        }
        extent += (shape[i].max(1) - 1) as i128 * s as i128;
    }
    if extent * rules.elem_bytes as i128 > i64::MAX as i128 {
        return err!(
            FLASHMLA_ERROR_OVERFLOW,
            "{name}: sizes {shape:?} with strides {strides:?} overflow 63 bits of bytes"
        );
    }
    if rules.output && !shape.contains(&0) {
        check_disjoint(name, shape, strides)?;
    }
    Ok(())
}

/// Sorted by stride, each dimension must step over all that the smaller ones span.
fn check_disjoint<const N: usize>(name: &str, shape: &[i64; N], strides: &[i64; N]) -> Result<()> {
    let mut order: [usize; N] = std::array::from_fn(|i| i);
    order.sort_unstable_by_key(|i| strides[*i]);
    let mut span: i128 = 0;
    for i in order.into_iter().filter(|i| shape[*i] > 1) {
        if (strides[i] as i128) <= span {
            return err!(
                FLASHMLA_ERROR_INVALID_STRIDE,
                "{name}.strides[{i}] = {}: must be at least {}, or elements of the output overlap",
                strides[i],
                span + 1
            );
        }
        span += (shape[i] - 1) as i128 * strides[i] as i128;
    }
    Ok(())
}
