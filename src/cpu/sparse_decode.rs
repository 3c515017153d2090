//! Sparse decode on the CPU.
//!
//! Work is cut into items of up to 32 heads of one query token. An item gathers the tokens that the indices
//! name, of the first cache and then of the second, into tiles of FP32, leaving out masked entries, so that
//! nothing of them reaches the arithmetic. An item's result depends on nothing else, so that neither the
//! number of threads nor the rest of the batch changes a bit.

use super::page::Fp8Pages;
use super::share::share;
use super::softmax::{Block, Row, ROWS, TOKENS};
use super::CpuDevice;
use crate::problem::dense_decode::Dtype;
use crate::problem::sparse_decode::{Cache, SparseDecode};

/// A cache's inputs, each slice as long as its tensor's extent.
#[derive(Clone, Copy)]
pub struct CacheInputs<'a> {
    pub kv_cache: &'a [u8],
    pub indices: &'a [i32],
    pub topk_length: Option<&'a [i32]>,
}

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 bits.
    pub q: &'a [u16],
    pub cache: CacheInputs<'a>,
    pub extra: Option<CacheInputs<'a>>,
    pub attn_sink: Option<&'a [f32]>,
}

/// Computes every row, `[request, token, head]`, and hands it to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &SparseDecode, inputs: Inputs, mut store: impl FnMut(&Row<3>)) {
    let shape = &problem.shape;
    let blocks = (shape.h_q as usize).div_ceil(ROWS);
    share(
        device.threads(),
        shape.units() as usize * blocks,
        || Block::new(Dtype::Bf16, shape.d_qk, problem.softmax_scale),
        |block, i| {
            let (unit, first) = ((i / blocks) as i64, (i % blocks * ROWS) as i64);
            Item { problem, inputs, request: unit / shape.s_q, token: unit % shape.s_q, first }.compute(block)
        },
        |rows| rows.iter().for_each(&mut store),
    );
}

/// Heads `first ..` of a query token.
struct Item<'a> {
    problem: &'a SparseDecode,
    inputs: Inputs<'a>,
    request: i64,
    token: i64,
    first: i64,
}

impl Item<'_> {
    fn compute(&self, block: &mut Block) -> Vec<Row<3>> {
        let (problem, shape) = (self.problem, &self.problem.shape);
        let count = (shape.h_q - self.first).min(ROWS as i64) as usize;
        let d_qk = shape.d_qk as usize;
        block.clear();
        for r in 0..count {
            let from = problem.q.offset([self.request, self.token, self.first + r as i64, 0]) as usize;
            block.set_query(r, &self.inputs.q[from..from + d_qk]);
        }
        let mut tokens = 0;
        self.gather(&problem.cache, &self.inputs.cache, block, count, &mut tokens);
        if let (Some(cache), Some(inputs)) = (&problem.extra, &self.inputs.extra) {
            self.gather(cache, inputs, block, count, &mut tokens);
        }
        if tokens > 0 {
            (0..count).for_each(|r| block.attend(r, tokens));
        }
        (0..count).map(|r| self.finish(block, r)).collect()
    }

    /// Adds the tokens of a cache to the tile, of which `tokens` rows are taken, and attends to full tiles.
    fn gather(&self, cache: &Cache, inputs: &CacheInputs, block: &mut Block, count: usize, tokens: &mut usize) {
        let pages = Fp8Pages {
            layout: self.problem.shape.layout,
            bytes: inputs.kv_cache,
            page_stride: cache.kv_cache.strides[0],
            page_block_size: cache.page_block_size,
        };
        for &index in self.indices(cache, inputs) {
            if !(0..cache.index_limit).contains(&(index as i64)) {
                continue;
            }
            pages.read(index as i64, block.token_mut(*tokens));
            *tokens += 1;
            if *tokens == TOKENS {
                (0..count).for_each(|r| block.attend(r, TOKENS));
                *tokens = 0;
            }
        }
    }

    /// The indices that count.
    fn indices<'a>(&self, cache: &Cache, inputs: &CacheInputs<'a>) -> &'a [i32] {
        let length = match (&cache.topk_length, inputs.topk_length) {
            (Some(tensor), Some(lengths)) => lengths[tensor.offset([self.request, self.token]) as usize] as i64,
            _ => cache.topk,
        };
        match length.clamp(0, cache.topk) {
            0 => &[],
            n => &inputs.indices[cache.indices.offset([self.request, self.token, 0]) as usize..][..n as usize],
        }
    }

    fn finish(&self, block: &Block, r: usize) -> Row<3> {
        let head = self.first + r as i64;
        let sink = match (&self.problem.attn_sink, self.inputs.attn_sink) {
            (Some(tensor), Some(sinks)) => Some(sinks[tensor.offset([head]) as usize]),
            _ => None,
        };
        let mut row = block.finish(r, [self.request, self.token, head], sink);
        if row.is_empty() && self.problem.shape.lse_empty_pos_inf {
            row.lse = f32::INFINITY;
        }
        row
    }
}
