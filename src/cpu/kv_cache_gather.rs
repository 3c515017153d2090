//! Gather on the CPU, in blocks of rows.

use super::page::Fp8Pages;
use super::share::share;
use super::CpuDevice;
use crate::problem::kv_cache_gather::{KvCacheGather, Source};
use crate::problem::tensor::Tensor;

/// Rows of an item.
const ROWS: i64 = 64;

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub kv_cache: &'a [u8],
    pub indices: &'a [i32],
    pub block_table: &'a [i32],
    pub cu_seqlens: &'a [i32],
    pub seq_starts: Option<&'a [i32]>,
}

/// What a row gets.
enum Token {
    /// It is left as it is.
    Uncovered,
    Zeros,
    Index(i64),
}

/// Hands every row that is to be written and its BF16 bits to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &KvCacheGather, inputs: Inputs, mut store: impl FnMut(i64, &[u16])) {
    let d = problem.d_qk as usize;
    share(
        device.threads(),
        ((problem.n + ROWS - 1) / ROWS) as usize,
        || vec![0f32; d],
        |values, item| {
            let first = item as i64 * ROWS;
            let mut rows = Vec::new();
            let mut bits = Vec::new();
            for row in first..problem.n.min(first + ROWS) {
                match token(problem, &inputs, row) {
                    Token::Uncovered => continue,
                    Token::Zeros => bits.resize(bits.len() + d, 0),
                    Token::Index(index) => read(problem, &inputs, index, values, &mut bits),
                }
                rows.push(row);
            }
            (rows, bits)
        },
        |(rows, bits)| rows.iter().zip(bits.chunks_exact(d)).for_each(|(row, bits)| store(*row, bits)),
    );
}

fn token(problem: &KvCacheGather, inputs: &Inputs, row: i64) -> Token {
    let (page_block_size, num_blocks) = (problem.page_block_size, problem.num_blocks);
    match &problem.source {
        Source::Indices(tensor) => {
            let index = inputs.indices[tensor.offset([row]) as usize] as i64;
            match (0..num_blocks * page_block_size).contains(&index) {
                true => Token::Index(index),
                false => Token::Zeros,
            }
        }
        Source::Ranges { b, max_blocks_per_seq, block_table, cu_seqlens, seq_starts } => {
            let Some((request, j)) = request_of(*b, cu_seqlens, inputs.cu_seqlens, row) else {
                return Token::Uncovered;
            };
            let start = match (seq_starts, inputs.seq_starts) {
                (Some(tensor), Some(starts)) => starts[tensor.offset([request]) as usize] as i64,
                _ => 0,
            };
            let token = start + j;
            if !(0..max_blocks_per_seq * page_block_size).contains(&token) {
                return Token::Zeros;
            }
            let entry = block_table.offset([request, token / page_block_size]) as usize;
            let page = inputs.block_table[entry] as i64;
            match (0..num_blocks).contains(&page) {
                true => Token::Index(page * page_block_size + token % page_block_size),
                false => Token::Zeros,
            }
        }
    }
}

/// The request whose range covers a row, and which row of the range it is.
fn request_of(b: i64, tensor: &Tensor<1>, cu_seqlens: &[i32], row: i64) -> Option<(i64, i64)> {
    let at = |i: i64| cu_seqlens[tensor.offset([i]) as usize] as i64;
    // The last request that begins at or before the row.
    let (mut low, mut high) = (0, b);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if at(middle) <= row {
            low = middle;
        } else {
            high = middle;
        }
    }
    (b > 0 && at(low) <= row && row < at(low + 1)).then(|| (low, row - at(low)))
}

fn read(problem: &KvCacheGather, inputs: &Inputs, index: i64, values: &mut [f32], bits: &mut Vec<u16>) {
    let (page_block_size, pages) = (problem.page_block_size, &problem.kv_cache);
    if problem.layout.is_fp8() {
        let pages = Fp8Pages {
            layout: problem.layout,
            bytes: inputs.kv_cache,
            page_stride: pages.page_stride,
            page_block_size,
        };
        pages.read(index, values);
        // They are BF16 already.
        bits.extend(values.iter().map(|x| (x.to_bits() >> 16) as u16));
        return;
    }
    let from = index / page_block_size * pages.page_stride + index % page_block_size * pages.row_stride;
    let row = &inputs.kv_cache[from as usize..][..2 * problem.d_qk as usize];
    bits.extend(row.chunks_exact(2).map(|x| u16::from_ne_bytes([x[0], x[1]])));
}
