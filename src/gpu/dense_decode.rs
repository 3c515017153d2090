//! Dense decode on the GPU.

use super::GpuDevice;
use crate::problem::dense_decode::{DenseDecode, Shape};
use crate::problem::tensor::Tensor;
use crate::schedule::Grid;
use crate::status::Result;

/// The kernel that a problem gets, and its launch.
pub struct Selection {
    pub name: &'static str,
    pub grid: Grid,
    pub thread_blocks: i64,
}

impl GpuDevice {
    pub fn dense_decode_kernel(&self, shape: &Shape) -> Result<Selection> {
        let grid = Grid::new(shape, self.multiprocessors());
        Ok(Selection { name: "", grid, thread_blocks: grid.row_blocks * shape.h_kv * grid.partitions })
    }

    pub fn dense_decode_plan(&self, _shape: &Shape, _lens: &Tensor<1>, _plan: u64, _stream: u64) -> Result<()> {
        Ok(())
    }

    pub fn dense_decode(&self, _problem: &DenseDecode, _plan: u64, _stream: u64) -> Result<()> {
        Ok(())
    }
}
