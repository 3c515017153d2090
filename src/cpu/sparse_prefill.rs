//! Sparse prefill on the CPU.
//!
//! Work is cut into items of up to 32 heads of one query token. An item gathers the rows that the token's
//! indices name into tiles, leaving out masked entries, so that nothing of them reaches the arithmetic. An
//! item's result depends on nothing else, so that neither the number of threads nor the other queries
//! change a bit.

use super::share::share;
use super::softmax::{Block, Row, ROWS, TOKENS};
use super::CpuDevice;
use crate::problem::dense_decode::Dtype;
use crate::problem::sparse_prefill::SparsePrefill;

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 bits.
    pub q: &'a [u16],
    pub kv: &'a [u16],
    pub indices: &'a [i32],
    pub topk_length: Option<&'a [i32]>,
    pub attn_sink: Option<&'a [f32]>,
}

/// Computes every row, `[token, head]`, and hands it to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &SparsePrefill, inputs: Inputs, mut store: impl FnMut(&Row<2>)) {
    let shape = &problem.shape;
    let blocks = (shape.h_q as usize).div_ceil(ROWS);
    share(
        device.threads(),
        shape.s_q as usize * blocks,
        || Block::new(Dtype::Bf16, shape.d_qk, problem.softmax_scale),
        |block, i| {
            let item = Item { problem, inputs, token: (i / blocks) as i64, first: (i % blocks * ROWS) as i64 };
            item.compute(block)
        },
        |rows| rows.iter().for_each(&mut store),
    );
}

/// Heads `first ..` of a query token.
struct Item<'a> {
    problem: &'a SparsePrefill,
    inputs: Inputs<'a>,
    token: i64,
    first: i64,
}

impl Item<'_> {
    fn compute(&self, block: &mut Block) -> Vec<Row<2>> {
        let (problem, shape) = (self.problem, &self.problem.shape);
        let count = (shape.h_q - self.first).min(ROWS as i64) as usize;
        let d_qk = shape.d_qk as usize;
        block.clear();
        for r in 0..count {
            let from = problem.q.offset([self.token, self.first + r as i64, 0]) as usize;
            block.set_query(r, &self.inputs.q[from..from + d_qk]);
        }
        let mut tokens = 0;
        for &index in self.indices().iter().filter(|index| (0..shape.s_kv).contains(&(**index as i64))) {
            let from = problem.kv.offset([index as i64, 0, 0]) as usize;
            block.set_token(tokens, Some(&self.inputs.kv[from..from + d_qk]));
            tokens += 1;
            if tokens == TOKENS {
                (0..count).for_each(|r| block.attend(r, TOKENS));
                tokens = 0;
            }
        }
        if tokens > 0 {
            (0..count).for_each(|r| block.attend(r, tokens));
        }
        (0..count).map(|r| self.finish(block, r)).collect()
    }

    /// The indices that count.
    fn indices(&self) -> &[i32] {
        let (problem, topk) = (self.problem, self.problem.shape.topk);
        let length = match (&problem.topk_length, self.inputs.topk_length) {
            (Some(tensor), Some(lengths)) => (lengths[tensor.offset([self.token]) as usize] as i64).clamp(0, topk),
            _ => topk,
        };
        match length {
            0 => &[],
            _ => &self.inputs.indices[problem.indices.offset([self.token, 0, 0]) as usize..][..length as usize],
        }
    }

    fn finish(&self, block: &Block, r: usize) -> Row<2> {
        let head = self.first + r as i64;
        let sink = match (&self.problem.attn_sink, self.inputs.attn_sink) {
            (Some(tensor), Some(sinks)) => Some(sinks[tensor.offset([head]) as usize]),
            _ => None,
        };
        let mut row = block.finish(r, [self.token, head], sink);
        if row.is_empty() && self.problem.shape.lse_empty_pos_inf {
            row.lse = f32::INFINITY;
        }
        row
    }
}
