//! Reading what a C caller points to.

use crate::problem::tensor::Tensor;
use crate::status::{Error, Result};
use crate::{err, error};
use std::mem::{size_of, MaybeUninit};

/// A `repr(C)` struct whose first member is `size_t struct_size` and for which all bytes 0 is a
/// valid value.
///
/// # Safety
/// The implementor is `repr(C)`, starts with a `usize`, and every bit pattern of its members is
/// valid.
pub unsafe trait Versioned: Copy {
    const NAME: &'static str;
    /// Size of the struct in the first release that had it.
    const FIRST_SIZE: usize;
}

/// Copies a struct of an older or newer caller: what a shorter one lacks is 0, what a longer one
/// has beyond this version must be 0.
///
/// # Safety
/// `ptr` is null or points to `struct_size` readable bytes, aligned for `T`.
#[inline(always)]
pub unsafe fn read_struct<T: Versioned>(name: &str, ptr: *const T) -> Result<T> {
    let size = struct_size::<T>(name, ptr)?;
    if size == size_of::<T>() {
        // SAFETY: the caller vouches for the whole struct. (A copy of a size that the compiler knows.)
        return Ok(*ptr);
    }
    let mut value = MaybeUninit::<T>::zeroed();
    let known = size.min(size_of::<T>());
    // SAFETY: the caller vouches for `size` readable bytes; `value` has room for `known`.
    std::ptr::copy_nonoverlapping(ptr.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
    for i in known..size {
        // SAFETY: inside the caller's struct.
        if *ptr.cast::<u8>().add(i) != 0 {
            return err!(
                FLASHMLA_ERROR_STRUCT_SIZE,
                "{name}->struct_size = {size}: this library knows {} bytes of {}, and byte {i} is not 0",
                size_of::<T>(),
                T::NAME
            );
        }
    }
    // SAFETY: zeroed, then filled; every bit pattern is valid (`Versioned`).
    Ok(value.assume_init())
}

/// As `read_struct`, where the caller's struct is of this version without a copy: `copy` holds others.
///
/// # Safety
/// As `read_struct`; and nobody writes to the struct meanwhile.
#[inline(always)]
pub unsafe fn struct_ref<'a, T: Versioned>(name: &str, ptr: *const T, copy: &'a mut Option<T>) -> Result<&'a T> {
    if struct_size::<T>(name, ptr)? == size_of::<T>() {
        // SAFETY: not null, and the caller vouches for the whole struct.
        return Ok(&*ptr);
    }
    Ok(copy.insert(read_struct(name, ptr)?))
}

/// Writes an output struct: no more than the caller has, and 0 into a tail unknown to this version.
///
/// # Safety
/// `ptr` is null or points to `struct_size` writable bytes, aligned for `T`.
pub unsafe fn write_struct<T: Versioned>(name: &str, ptr: *mut T, value: &T) -> Result<()> {
    let size = struct_size::<T>(name, ptr)?;
    let known = size.min(size_of::<T>());
    let first = size_of::<usize>();
    // SAFETY: as above; `struct_size` stays the caller's.
    std::ptr::copy_nonoverlapping(
        (value as *const T).cast::<u8>().add(first),
        ptr.cast::<u8>().add(first),
        known - first,
    );
    std::ptr::write_bytes(ptr.cast::<u8>().add(known), 0, size - known);
    Ok(())
}

/// # Safety
/// `ptr` is null or points to a readable `usize`.
#[inline(always)]
pub unsafe fn struct_size<T: Versioned>(name: &str, ptr: *const T) -> Result<usize> {
    if ptr.is_null() {
        return Err(no_struct::<T>(name));
    }
    // SAFETY: the first member of every versioned struct.
    let size = *ptr.cast::<usize>();
    // A size that no later version will reach is an uninitialised member, not a newer caller.
    match (T::FIRST_SIZE..=65536).contains(&size) {
        true => Ok(size),
        false => Err(wrong_struct_size::<T>(name, size)),
    }
}

#[cold]
#[inline(never)]
fn no_struct<T: Versioned>(name: &str) -> Error {
    error!(FLASHMLA_ERROR_NULL_POINTER, "{name} = NULL: must point to a {}", T::NAME)
}

#[cold]
#[inline(never)]
fn wrong_struct_size<T: Versioned>(name: &str, size: usize) -> Error {
    error!(
        FLASHMLA_ERROR_STRUCT_SIZE,
        "{name}->struct_size = {size}: must be sizeof({}), {} bytes",
        T::NAME,
        size_of::<T>()
    )
}

/// A pointer that must not be null.
pub fn non_null<T>(name: &str, ptr: *mut T) -> Result<*mut T> {
    if ptr.is_null() {
        return err!(FLASHMLA_ERROR_NULL_POINTER, "{name} = NULL: must not be NULL");
    }
    Ok(ptr)
}

/// What an implementation may touch of a tensor in host memory, from its first element to its last.
///
/// # Safety
/// The memory is there, holds elements of type `T`, and nobody writes to it meanwhile.
pub unsafe fn elements<'a, T, const N: usize>(tensor: &Tensor<N>) -> &'a [T] {
    if tensor.is_empty() {
        return &[];
    }
    std::slice::from_raw_parts(tensor.addr as *const T, tensor.extent() as usize)
}
