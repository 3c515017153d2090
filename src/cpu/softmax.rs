//! Attention of a block of query rows over tiles of latent rows, with a running maximum, sum and output
//! (online softmax): what every operation in MQA mode has in common.

use crate::problem::dense_decode::{Dtype, D_V};
use half::{bf16, f16};

pub const V: usize = D_V as usize;
/// Query rows of a block, and latent rows of a tile.
pub const ROWS: usize = 32;
pub const TOKENS: usize = 64;

/// One query row's result: where it belongs, its bits, the maximum of its scores and their log-sum-exp.
/// A row that attended to nothing has 0, -inf and -inf.
pub struct Row<const N: usize> {
    pub index: [i64; N],
    pub out: [u16; V],
    pub max_logit: f32,
    pub lse: f32,
}

impl<const N: usize> Row<N> {
    pub fn is_empty(&self) -> bool {
        self.lse == f32::NEG_INFINITY
    }
}

/// The query rows of an item and the tile that they attend to next, as FP32.
pub struct Block {
    dtype: Dtype,
    d_qk: usize,
    scale: f32,
    q: Vec<f32>,
    tile: Vec<f32>,
    scores: Vec<f32>,
    out: Vec<f32>,
    highest: [f32; ROWS],
    /// In double precision: the contract's bound of lse is absolute near 0.
    sum: [f64; ROWS],
}

impl Block {
    pub fn new(dtype: Dtype, d_qk: i64, scale: f32) -> Block {
        let d_qk = d_qk as usize;
        Block {
            dtype,
            d_qk,
            scale,
            q: vec![0.0; ROWS * d_qk],
            tile: vec![0.0; TOKENS * d_qk],
            scores: vec![0.0; ROWS * TOKENS],
            out: vec![0.0; ROWS * V],
            highest: [0.0; ROWS],
            sum: [0.0; ROWS],
        }
    }

    /// Begins anew: no row has attended to anything.
    pub fn clear(&mut self) {
        self.highest = [f32::NEG_INFINITY; ROWS];
        self.sum = [0.0; ROWS];
        self.out.fill(0.0);
    }

    /// Query row `r`, as bits.
    pub fn set_query(&mut self, r: usize, bits: &[u16]) {
        convert(self.dtype, bits, &mut self.q[r * self.d_qk..][..self.d_qk]);
    }

    /// Row `t` of the tile, as bits; `None` is a row of zeros.
    pub fn set_token(&mut self, t: usize, bits: Option<&[u16]>) {
        let to = &mut self.tile[t * self.d_qk..][..self.d_qk];
        match bits {
            Some(bits) => convert(self.dtype, bits, to),
            None => to.fill(0.0),
        }
    }

    /// Row `t` of the tile, to be filled.
    pub fn token_mut(&mut self, t: usize) -> &mut [f32] {
        &mut self.tile[t * self.d_qk..][..self.d_qk]
    }

    /// Query row `r` attends to the first `seen` rows of the tile.
    pub fn attend(&mut self, r: usize, seen: usize) {
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
            *s *= self.scale;
            highest = highest.max(*s);
        }
        // -inf only if every score so far is: any finite reference then gives weights of 0.
        let reference = if highest == f32::NEG_INFINITY { 0.0 } else { highest };
        let keep = (self.highest[r] - reference).exp();
        self.highest[r] = highest;
        let mut sum = 0.0;
        for s in scores.iter_mut() {
            *s = (*s - reference).exp();
            sum += *s as f64;
        }
        self.sum[r] = self.sum[r] * keep as f64 + sum;
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

    /// The result of query row `r`. A sink takes its part of the weights, and lse does not see it.
    pub fn finish<const N: usize>(&self, r: usize, index: [i64; N], sink: Option<f32>) -> Row<N> {
        let (highest, sum) = (self.highest[r], self.sum[r]);
        let mut row = Row { index, out: [0; V], max_logit: f32::NEG_INFINITY, lse: f32::NEG_INFINITY };
        if highest == f32::NEG_INFINITY && sum == 0.0 {
            return row;
        }
        // exp(lse) / (exp(lse) + exp(sink)), and 1 / sum, in one.
        let sink = sink.map_or(0.0, |sink| (sink as f64 - highest as f64).exp());
        let scale = (1.0 / (sum + sink)) as f32;
        for (to, from) in row.out.iter_mut().zip(&self.out[r * V..][..V]) {
            *to = match self.dtype {
                Dtype::Bf16 => bf16::from_f32(from * scale).to_bits(),
                Dtype::Fp16 => f16::from_f32(from * scale).to_bits(),
            };
        }
        row.max_logit = highest;
        row.lse = (highest as f64 + sum.ln()) as f32;
        row
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
