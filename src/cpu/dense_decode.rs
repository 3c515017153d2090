//! Dense decode on the CPU.
//!
//! Work is cut into items of up to 32 query rows of one (request, KV head). An item walks the request's
//! tokens in tiles, which it converts to FP32 once for all its rows. An item's result depends on nothing
//! else, so that neither the number of threads nor the rest of the batch changes a bit.

use super::page::Fp8Pages;
use super::share::share;
use super::softmax::{Block, Row, ROWS, TOKENS};
use super::CpuDevice;
use crate::problem::dense_decode::DenseDecode;

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 or FP16 bits.
    pub q: &'a [u16],
    pub kv_cache: &'a [u16],
    /// Instead of `kv_cache`, bytes.
    pub fp8_cache: &'a [u8],
    pub block_table: &'a [i32],
    pub cache_seqlens: &'a [i32],
}

/// Computes every row, `[request, token, head]`, and hands it to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &DenseDecode, inputs: Inputs, mut store: impl FnMut(&Row<3>)) {
    let shape = &problem.shape;
    let blocks = (shape.rows() as usize).div_ceil(ROWS);
    let per_request = shape.h_kv as usize * blocks;
    share(
        device.threads(),
        shape.b as usize * per_request,
        || Block::new(shape.dtype, shape.d_qk, problem.softmax_scale),
        |block, i| {
            let (request, rest) = (i / per_request, i % per_request);
            let (kv_head, first) = (rest / blocks, rest % blocks * ROWS);
            let item = Item { problem, inputs, request: request as i64, kv_head: kv_head as i64, first: first as i64 };
            item.compute(block)
        },
        |rows| rows.iter().for_each(&mut store),
    );
}

/// Rows `first ..` of a (request, KV head).
struct Item<'a> {
    problem: &'a DenseDecode,
    inputs: Inputs<'a>,
    request: i64,
    kv_head: i64,
    first: i64,
}

impl Item<'_> {
    fn compute(&self, block: &mut Block) -> Vec<Row<3>> {
        let Item { problem, inputs, .. } = self;
        let shape = &problem.shape;
        let count = (shape.rows() - self.first).min(ROWS as i64) as usize;
        let place = |r: usize| {
            let row = self.first + r as i64;
            [self.request, row / shape.group(), self.kv_head * shape.group() + row % shape.group()]
        };
        let len = inputs.cache_seqlens[problem.cache_seqlens.offset([self.request]) as usize] as i64;
        let len = len.clamp(0, shape.max_tokens());
        // Keys that a row sees, counted from the first.
        let visible = |r: usize| match shape.causal {
            true => (len - shape.s_q + place(r)[1] + 1).clamp(0, len) as usize,
            false => len as usize,
        };
        block.clear();
        for r in 0..count {
            let [i, token, head] = place(r);
            let from = problem.q.offset([i, token, head, 0]) as usize;
            block.set_query(r, &inputs.q[from..from + shape.d_qk as usize]);
        }
        // Rows come in the order of their tokens: the last one sees most.
        let end = visible(count - 1);
        for base in (0..end).step_by(TOKENS) {
            let tokens = TOKENS.min(end - base);
            for t in 0..tokens {
                self.load(block, t, (base + t) as i64);
            }
            for r in 0..count {
                let seen = visible(r).saturating_sub(base).min(tokens);
                if seen > 0 {
                    block.attend(r, seen);
                }
            }
        }
        let finish = |r| {
            let mut row = block.finish(r, place(r), None);
            if row.is_empty() && shape.lse_empty_pos_inf {
                row.lse = f32::INFINITY;
            }
            row
        };
        (0..count).map(finish).collect()
    }

    /// A cached token into row `t` of the tile. A page that does not exist reads as zeros.
    fn load(&self, block: &mut Block, t: usize, token: i64) {
        let (problem, inputs, shape) = (self.problem, &self.inputs, &self.problem.shape);
        let (entry, offset) = (token / shape.page_block_size, token % shape.page_block_size);
        let page = inputs.block_table[problem.block_table.offset([self.request, entry]) as usize] as i64;
        if !(0..shape.num_blocks).contains(&page) {
            return block.set_token(t, None);
        }
        if shape.layout.is_fp8() {
            let pages = Fp8Pages {
                layout: shape.layout,
                bytes: inputs.fp8_cache,
                page_stride: problem.fp8_cache.strides[0],
                page_block_size: shape.page_block_size,
            };
            return pages.read(page * shape.page_block_size + offset, block.token_mut(t));
        }
        let from = problem.kv_cache.offset([page, offset, self.kv_head, 0]) as usize;
        block.set_token(t, Some(&inputs.kv_cache[from..from + shape.d_qk as usize]));
    }
}
