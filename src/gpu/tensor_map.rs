//! Tensor maps: how the copy engine (TMA) sees a tensor.

use super::driver::{call, Driver};
use crate::err;
use crate::problem::dense_decode::Dtype;
use crate::problem::tensor::Tensor;
use crate::status::Result;
use cudarc::driver::sys::{
    CUtensorMapDataType_enum as DataType, CUtensorMapFloatOOBfill_enum as OutOfBounds,
    CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as L2Promotion,
    CUtensorMapSwizzle_enum as Swizzle,
};
use std::mem::size_of;
use std::ptr;

/// The driver's `CUtensorMap`: 128 bytes, at the larger of the alignments that CUDA's headers have
/// asked for (64 in CUDA 12, 128 in CUDA 13).
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, Default)]
pub struct TensorMap([u64; 16]);

const _: () = assert!(size_of::<TensorMap>() == 128);

/// The driver refuses strides from here on.
const MAX_STRIDE_BYTES: u64 = 1 << 40;
const ELEM_BYTES: u64 = 2;

/// Columns of a tile: 128 bytes, which the copy engine swizzles.
pub const TILE_COLUMNS: i64 = 64;

/// Tokens of a group: eight rows are what the swizzle repeats after.
pub const GROUP_TOKENS: i64 = 8;

/// Whether a cache can be seen by groups of tokens: its pages have whole groups, and its heads, if there are several, lie
/// side by side, so that their column tiles are one dimension.
#[inline(always)]
pub fn grouped(cache: &Tensor<4>) -> bool {
    let [_, tokens, heads, columns] = cache.shape;
    tokens % GROUP_TOKENS == 0
        && (heads == 1 || cache.strides[2] == columns)
        && (cache.strides[1] as u64) < MAX_STRIDE_BYTES / ELEM_BYTES / GROUP_TOKENS as u64
}

/// A view of a 4-dimensional tensor whose rows (its innermost dimension) are cut into column tiles. The
/// copy engine counts from the innermost: (column of a tile, `axes[0]`, column tile, `axes[1]`, `axes[2]`).
#[derive(Debug, Clone, Copy)]
pub struct Tiled<'a> {
    /// Names the tensor in messages.
    pub name: &'a str,
    pub tensor: &'a Tensor<4>,
    pub dtype: Dtype,
    /// The tensor's outer dimensions, in the order in which the copy engine sees them.
    pub axes: [usize; 3],
    /// The first column of the view and how many it has, multiples of 64.
    pub columns: (i64, i64),
}

impl TensorMap {
    /// As `encode_into`, a new one.
    pub fn encode(driver: &Driver, view: Tiled, length: u32, tiles: u32) -> Result<TensorMap> {
        let mut map = TensorMap::default();
        map.encode_into(driver, view, length, tiles)?;
        Ok(map)
    }

    /// Makes this a map of a checked, non-empty tensor whose innermost stride is 1. A copy takes `length` elements of
    /// `axes[0]` and `tiles` column tiles; they are laid out tile by tile for the matrix units (rows of
    /// 128 bytes, swizzled), and what lies outside the tensor reads as 0. Needs a current context.
    #[inline(always)]
    pub fn encode_into(&mut self, driver: &Driver, view: Tiled, length: u32, tiles: u32) -> Result<()> {
        let Tiled { name, tensor, dtype, axes, columns } = view;
        let size = |axis: usize| tensor.shape[axis] as u64;
        let sizes =
            [TILE_COLUMNS as u64, size(axes[0]), (columns.1 / TILE_COLUMNS) as u64, size(axes[1]), size(axes[2])];
        // The innermost stride is one element, and is not told.
        let strides = [
            stride_bytes(name, tensor, axes[0])?,
            TILE_COLUMNS as u64 * ELEM_BYTES,
            stride_bytes(name, tensor, axes[1])?,
            stride_bytes(name, tensor, axes[2])?,
        ];
        let tile = [TILE_COLUMNS as u32, length, tiles, 1, 1];
        self.encode_tiles(driver, dtype, tensor.addr + columns.0 as u64 * ELEM_BYTES, sizes, strides, tile)
    }

    /// Makes this a map of the first `columns` columns of each head of a checked, non-empty cache `[pages, tokens, heads,
    /// columns]` by groups of [`GROUP_TOKENS`] tokens: (column of a tile, token of a group, column tile of the heads in turn,
    /// group of a page, page). A copy takes `groups` groups and `tiles` column tiles; it is laid out group by group, in
    /// these tile by tile. For caches that are [`grouped`].
    #[inline(always)]
    pub fn encode_groups(
        &mut self,
        driver: &Driver,
        cache: &Tensor<4>,
        dtype: Dtype,
        columns: i64,
        groups: u32,
        tiles: u32,
    ) -> Result<()> {
        let [pages, tokens, heads, d_qk] = cache.shape;
        let token = stride_bytes("kv_cache", cache, 1)?;
        let sizes = [
            TILE_COLUMNS as u64,
            GROUP_TOKENS as u64,
            (((heads - 1) * d_qk + columns) / TILE_COLUMNS) as u64,
            (tokens / GROUP_TOKENS) as u64,
            pages as u64,
        ];
        let strides =
            [token, TILE_COLUMNS as u64 * ELEM_BYTES, token * GROUP_TOKENS as u64, stride_bytes("kv_cache", cache, 0)?];
        let tile = [TILE_COLUMNS as u32, GROUP_TOKENS as u32, tiles, groups, 1];
        self.encode_tiles(driver, dtype, cache.addr, sizes, strides, tile)
    }

    #[inline(always)]
    fn encode_tiles(
        &mut self,
        driver: &Driver,
        dtype: Dtype,
        addr: u64,
        sizes: [u64; 5],
        strides: [u64; 4],
        tile: [u32; 5],
    ) -> Result<()> {
        let data_type = match dtype {
            Dtype::Bf16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Dtype::Fp16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        let steps = [1u32; 5];
        // SAFETY: arrays of the rank's length, all alive; `self` has the size and alignment of a
        // CUtensorMap. The address is only written down.
        unsafe {
            call!(
                driver,
                cuTensorMapEncodeTiled(
                    ptr::from_mut(self).cast(),
                    data_type as u32,
                    5,
                    addr as *mut _,
                    sizes.as_ptr(),
                    strides.as_ptr(),
                    tile.as_ptr(),
                    steps.as_ptr(),
                    Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE as u32,
                    Swizzle::CU_TENSOR_MAP_SWIZZLE_128B as u32,
                    L2Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B as u32,
                    OutOfBounds::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as u32,
                )
            )
        }
    }
}

/// The stride of dimension `i` as the driver accepts it.
#[inline(always)]
fn stride_bytes(name: &str, tensor: &Tensor<4>, i: usize) -> Result<u64> {
    if tensor.shape[i] <= 1 {
        // Never stepped over, so the caller may have left anything there.
        return Ok(tensor.shape[3] as u64 * ELEM_BYTES);
    }
    let elements = tensor.strides[i] as u64;
    if elements >= MAX_STRIDE_BYTES / ELEM_BYTES {
        return err!(
            FLASHMLA_ERROR_INVALID_STRIDE,
            "{name}.strides[{i}] = {elements}: must be less than {} elements (2^40 bytes)",
            MAX_STRIDE_BYTES / ELEM_BYTES
        );
    }
    Ok(elements * ELEM_BYTES)
}
