//! Dense decode on the CPU.
//!
//! Work is cut into items of up to 32 query rows of one (request, KV head). An item walks the request's
//! tokens in tiles: it converts the cache rows to FP32 once, computes S for all its rows, and keeps a running
//! maximum, sum and output (online softmax). An item's result depends on nothing else, so that neither
//! the number of threads nor the rest of the batch changes a bit.

use super::CpuDevice;
use crate::problem::dense_decode::{DenseDecode, Dtype, Shape, D_V};
use half::{bf16, f16};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

const V: usize = D_V as usize;
/// Query rows of an item, and tokens of a tile.
const ROWS: usize = 32;
const TOKENS: usize = 64;

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 or FP16 bits.
    pub q: &'a [u16],
    pub kv_cache: &'a [u16],
    pub block_table: &'a [i32],
    pub cache_seqlens: &'a [i32],
}

/// One query row's result: where it belongs, its bits and its lse.
struct Row {
    index: [i64; 3],
    out: [u16; V],
    lse: f32,
}

/// Takes a result: `(request, token, head)`, the row's bits and its lse.
pub type Store<'a> = dyn FnMut([i64; 3], &[u16; V], f32) + 'a;

/// Computes every row and hands it to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &DenseDecode, inputs: Inputs, store: &mut Store) {
    let shape = &problem.shape;
    let blocks = (shape.rows() as usize).div_ceil(ROWS);
    let items = shape.b as usize * shape.h_kv as usize * blocks;
    let next = AtomicUsize::new(0);
    // Bounded: workers wait where the caller stores more slowly than they compute.
    let (send, receive) = sync_channel::<Vec<Row>>(2 * device.threads());
    thread::scope(|scope| {
        for _ in 0..device.threads().min(items) {
            let send = send.clone();
            let next = &next;
            scope.spawn(move || {
                let mut scratch = Scratch::new(shape.d_qk as usize);
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= items {
                        return;
                    }
                    let (request, rest) =
                        (item / (shape.h_kv as usize * blocks), item % (shape.h_kv as usize * blocks));
                    let (kv_head, block) = (rest / blocks, rest % blocks);
                    let rows = scratch.item(problem, inputs, request as i64, kv_head as i64, (block * ROWS) as i64);
                    if send.send(rows).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for rows in receive {
            for row in rows {
                store(row.index, &row.out, row.lse);
            }
        }
    });
}

/// Buffers that a worker reuses from item to item.
struct Scratch {
    d_qk: usize,
    q: Vec<f32>,
    tile: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<f32>,
    highest: [f32; ROWS],
    sum: [f32; ROWS],
}

impl Scratch {
    fn new(d_qk: usize) -> Scratch {
        Scratch {
            d_qk,
            q: vec![0.0; ROWS * d_qk],
            tile: vec![0.0; TOKENS * d_qk],
            scores: vec![0.0; ROWS * TOKENS],
            out: vec![0.0; ROWS * V],
            highest: [0.0; ROWS],
            sum: [0.0; ROWS],
        }
    }

    /// Rows `first ..` of a (request, KV head).
    fn item(&mut self, problem: &DenseDecode, inputs: Inputs, request: i64, kv_head: i64, first: i64) -> Vec<Row> {
        let shape = &problem.shape;
        let count = (shape.rows() - first).min(ROWS as i64) as usize;
        let place = |r: usize| {
            let row = first + r as i64;
            [request, row / shape.group(), kv_head * shape.group() + row % shape.group()]
        };
        let len = inputs.cache_seqlens[problem.cache_seqlens.offset([request]) as usize] as i64;
        let len = len.clamp(0, shape.max_tokens());
        // Keys that a row sees, counted from the first.
        let visible = |r: usize| match shape.causal {
            true => (len - shape.s_q + place(r)[1] + 1).clamp(0, len) as usize,
            false => len as usize,
        };
        for r in 0..count {
            let [i, token, head] = place(r);
            let from = problem.q.offset([i, token, head, 0]) as usize;
            convert(shape.dtype, &inputs.q[from..from + self.d_qk], &mut self.q[r * self.d_qk..][..self.d_qk]);
        }
        self.highest = [f32::NEG_INFINITY; ROWS];
        self.sum = [0.0; ROWS];
        self.out.fill(0.0);
        // Rows come in the order of their tokens: the last one sees most.
        let end = visible(count - 1);
        for base in (0..end).step_by(TOKENS) {
            let tokens = TOKENS.min(end - base);
            self.load_tile(problem, inputs, request, kv_head, base, tokens);
            for r in 0..count {
                let seen = visible(r).saturating_sub(base).min(tokens);
                if seen > 0 {
                    self.row(r, seen, problem.softmax_scale);
                }
            }
        }
        (0..count).map(|r| self.finish(shape, place(r), r)).collect()
    }

    /// Cache rows `base .. base + tokens` of a request, as FP32. A page that does not exist reads as zeros.
    fn load_tile(
        &mut self,
        problem: &DenseDecode,
        inputs: Inputs,
        request: i64,
        kv_head: i64,
        base: usize,
        tokens: usize,
    ) {
        let shape = &problem.shape;
        for t in 0..tokens {
            let (entry, offset) =
                ((base + t) as i64 / shape.page_block_size, (base + t) as i64 % shape.page_block_size);
            let page = inputs.block_table[problem.block_table.offset([request, entry]) as usize] as i64;
            let to = &mut self.tile[t * self.d_qk..][..self.d_qk];
            if (0..shape.num_blocks).contains(&page) {
                let from = problem.kv_cache.offset([page, offset, kv_head, 0]) as usize;
                convert(shape.dtype, &inputs.kv_cache[from..from + self.d_qk], to);
            } else {
                to.fill(0.0);
            }
        }
    }

    /// Adds the first `seen` tokens of the tile to row `r`.
    fn row(&mut self, r: usize, seen: usize, scale: f32) {
        let d = self.d_qk;
        let q = &self.q[r * d..][..d];
        let scores = &mut self.scores[..seen.next_multiple_of(4)];
        for (t, four) in scores.chunks_exact_mut(4).enumerate() {
            // The tile has room for whole groups; what lies past `seen` is not used.
            four.copy_from_slice(&dot4(q, &self.tile[t * 4 * d..][..4 * d]));
        }
        let scores = &mut scores[..seen];
        let mut highest = self.highest[r];
        for s in scores.iter_mut() {
            *s *= scale;
            highest = highest.max(*s);
        }
        // -inf only if every score so far is: any finite reference then gives weights of 0.
        let reference = if highest == f32::NEG_INFINITY { 0.0 } else { highest };
        let keep = (self.highest[r] - reference).exp();
        self.highest[r] = highest;
        let mut sum = 0.0;
        for s in scores.iter_mut() {
            *s = (*s - reference).exp();
            sum += *s;
        }
        self.sum[r] = self.sum[r] * keep + sum;
        let out = &mut self.out[r * V..][..V];
        if keep != 1.0 {
            out.iter_mut().for_each(|o| *o *= keep);
        }
        for (t, weights) in scores.chunks(4).enumerate() {
            let rows = &self.tile[t * 4 * d..];
            match *weights {
                [a, b, c, e] => {
                    let (v0, v1) = (&rows[..V], &rows[d..d + V]);
                    let (v2, v3) = (&rows[2 * d..2 * d + V], &rows[3 * d..3 * d + V]);
                    for (i, o) in out.iter_mut().enumerate() {
                        *o += a * v0[i] + b * v1[i] + c * v2[i] + e * v3[i];
                    }
                }
                _ => {
                    for (k, w) in weights.iter().enumerate() {
                        let v = &rows[k * d..k * d + V];
                        for (o, v) in out.iter_mut().zip(v) {
                            *o += w * v;
                        }
                    }
                }
            }
        }
    }

    fn finish(&self, shape: &Shape, index: [i64; 3], r: usize) -> Row {
        let sum = self.sum[r];
        let empty = self.highest[r] == f32::NEG_INFINITY && sum == 0.0;
        let scale = if empty { 0.0 } else { 1.0 / sum };
        let mut out = [0; V];
        for (to, from) in out.iter_mut().zip(&self.out[r * V..][..V]) {
            *to = match shape.dtype {
                Dtype::Bf16 => bf16::from_f32(from * scale).to_bits(),
                Dtype::Fp16 => f16::from_f32(from * scale).to_bits(),
            };
        }
        let lse = match (empty, shape.lse_empty_pos_inf) {
            (true, true) => f32::INFINITY,
            (true, false) => f32::NEG_INFINITY,
            (false, _) => self.highest[r] + sum.ln(),
        };
        Row { index, out, lse }
    }
}

fn convert(dtype: Dtype, from: &[u16], to: &mut [f32]) {
    match dtype {
        // BF16 is the upper half of FP32.
        Dtype::Bf16 => from.iter().zip(to).for_each(|(x, y)| *y = f32::from_bits((*x as u32) << 16)),
        Dtype::Fp16 => from.iter().zip(to).for_each(|(x, y)| *y = f16::from_bits(*x).to_f32()),
    }
}

/// Products of `q` with four rows that lie one after the other. Eight sums each, which the compiler keeps in
/// vector registers.
fn dot4(q: &[f32], rows: &[f32]) -> [f32; 4] {
    let d = q.len();
    let (r0, rest) = rows.split_at(d);
    let (r1, rest) = rest.split_at(d);
    let (r2, r3) = rest.split_at(d);
    let mut acc = [[0f32; 8]; 4];
    let eights = q.chunks_exact(8).zip(r0.chunks_exact(8)).zip(r1.chunks_exact(8));
    for (((q, a), b), (c, e)) in eights.zip(r2.chunks_exact(8).zip(r3.chunks_exact(8))) {
        for i in 0..8 {
            acc[0][i] += q[i] * a[i];
            acc[1][i] += q[i] * b[i];
            acc[2][i] += q[i] * c[i];
            acc[3][i] += q[i] * e[i];
        }
    }
    acc.map(|a| a.iter().sum())
}
