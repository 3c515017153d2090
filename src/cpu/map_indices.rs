//! Map indices on the CPU: a few operations an index, on the calling thread.

use crate::problem::map_indices::MapIndices;

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub block_table: &'a [i32],
    pub cache_seqlens: Option<&'a [i32]>,
}

/// Calls `map` for every index, with its place and the function that maps a position: positions and
/// indices may lie in the same memory.
pub fn run(problem: &MapIndices, inputs: Inputs, mut map: impl FnMut([i64; 3], &dyn Fn(i32) -> i32)) {
    let MapIndices { b, s_q, topk, num_blocks, page_block_size, max_blocks_per_seq, .. } = *problem;
    for request in 0..b {
        let tokens = max_blocks_per_seq * page_block_size;
        let tokens = match (&problem.cache_seqlens, inputs.cache_seqlens) {
            (Some(tensor), Some(lens)) => tokens.min(lens[tensor.offset([request]) as usize] as i64),
            _ => tokens,
        };
        let index = |position: i32| {
            let position = position as i64;
            if !(0..tokens).contains(&position) {
                return -1;
            }
            let entry = problem.block_table.offset([request, position / page_block_size]) as usize;
            let page = inputs.block_table[entry] as i64;
            let index = page * page_block_size + position % page_block_size;
            match (0..num_blocks).contains(&page) && index <= i32::MAX as i64 {
                true => index as i32,
                false => -1,
            }
        };
        for token in 0..s_q {
            for k in 0..topk {
                map([request, token, k], &index);
            }
        }
    }
}
