//! Random inputs: values randn / 10 clamped to +-1, shuffled block tables, and indices.

use super::case::Dtype;
use super::dense_decode::DenseDecode;
use super::sparse_prefill::SparsePrefill;
use half::{bf16, f16};

/// xorshift64*: fast, and the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Below `n`, which fits 32 bits.
    fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

/// `count` random elements as bits. They are drawn from a table of 65536 normal values: a draw is
/// a look-up, and caches of gigabytes are filled with them.
pub fn values(dtype: Dtype, count: usize, random: &mut Random) -> Vec<u16> {
    let table: Vec<u16> = (0..65536)
        .map(|_| {
            // Box and Muller
            let normal = (-2.0 * random.uniform().ln()).sqrt() * (std::f64::consts::TAU * random.uniform()).cos();
            let value = (normal / 10.0).clamp(-1.0, 1.0);
            match dtype {
                Dtype::Bf16 => bf16::from_f64(value).to_bits(),
                Dtype::Fp16 => f16::from_f64(value).to_bits(),
            }
        })
        .collect();
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let draw = random.next();
        let left = (count - values.len()).min(4);
        values.extend((0..left).map(|i| table[(draw >> (16 * i)) as usize & 0xffff]));
    }
    values
}

/// Pages of each request: its share of a cache that is cut into 256-token strides.
pub fn blocks_per_request(case: &DenseDecode) -> i64 {
    let longest = case.lens.iter().max().copied().unwrap_or(0);
    let strides = (longest + 255) / 256;
    (strides * 256 + case.page_block_size - 1) / case.page_block_size
}

/// A block table of `b` rows in which every page of the cache occurs once, in random order.
pub fn block_table(case: &DenseDecode, random: &mut Random) -> Vec<i32> {
    shuffled(case.b * blocks_per_request(case), random)
}

/// A permutation of `0 .. n`.
pub fn shuffled(n: i64, random: &mut Random) -> Vec<i32> {
    let mut all: Vec<i32> = (0..n as i32).collect();
    for i in (1..all.len()).rev() {
        all.swap(i, random.below(i as u64 + 1) as usize);
    }
    all
}

/// `[b, s_q, topk]` indices into a cache of `pages` pages a request, mapped through a shuffled page table: distinct
/// tokens of the request's `s_k`, drawn anew for each query token; -1 where there are no more.
pub fn cache_indices(sizes: CacheIndices, random: &mut Random) -> Vec<i32> {
    let CacheIndices { b, s_q, s_k, topk, page_block_size, pages } = sizes;
    let table = shuffled(b * pages, random);
    let attended = topk.min(s_k) as usize;
    // The front of a permutation of all tokens is what a query token attends to.
    let mut tokens: Vec<i32> = (0..s_k as i32).collect();
    let mut indices = Vec::with_capacity((b * s_q * topk) as usize);
    for unit in 0..b * s_q {
        let table = &table[(unit / s_q * pages) as usize..];
        for i in 0..attended {
            tokens.swap(i, i + random.below(s_k as u64 - i as u64) as usize);
            let (page, offset) = (tokens[i] as i64 / page_block_size, tokens[i] as i64 % page_block_size);
            indices.push((table[page as usize] as i64 * page_block_size + offset) as i32);
        }
        indices.resize(indices.len() + topk as usize - attended, -1);
    }
    indices
}

#[derive(Debug, Clone, Copy)]
pub struct CacheIndices {
    pub b: i64,
    pub s_q: i64,
    pub s_k: i64,
    pub topk: i64,
    pub page_block_size: i64,
    /// Of a request.
    pub pages: i64,
}

/// `s_q` rows of `topk` indices, no row of KV twice in one; -1 where there are no more rows.
pub fn indices(case: &SparsePrefill, random: &mut Random) -> Vec<i32> {
    let (s_kv, attended) = (case.s_kv as usize, case.topk.min(case.s_kv) as usize);
    // The front of a permutation of all rows is what a query attends to.
    let mut rows: Vec<i32> = (0..case.s_kv as i32).collect();
    let kept = (case.shared.unwrap_or(0.0) * attended as f64).round() as usize;
    let mut indices = Vec::with_capacity((case.s_q * case.topk) as usize);
    for query in 0..case.s_q {
        if query == 0 || case.shared.is_none() {
            for i in 0..attended {
                rows.swap(i, i + random.below((s_kv - i) as u64) as usize);
            }
        } else if s_kv > attended {
            // Shuffled, so that those replaced are any of them; each by one from behind.
            for i in 0..attended {
                rows.swap(i, i + random.below((attended - i) as u64) as usize);
            }
            let others = s_kv - attended;
            for i in kept..attended.min(kept + others) {
                // Places that were swapped before hold rows of the previous query.
                let behind = attended + (i - kept);
                rows.swap(behind, behind + random.below((s_kv - behind) as u64) as usize);
                rows.swap(i, behind);
            }
        }
        indices.extend_from_slice(&rows[..attended]);
        indices.resize(indices.len() + case.topk as usize - attended, -1);
    }
    indices
}
