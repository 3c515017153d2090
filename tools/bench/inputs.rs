//! Random inputs: values randn / 10 clamped to +-1, and shuffled block tables.

use super::case::{Case, Dtype};
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
pub fn blocks_per_request(case: &Case) -> i64 {
    let longest = case.lens.iter().max().copied().unwrap_or(0);
    let strides = (longest + 255) / 256;
    (strides * 256 + case.page_block_size - 1) / case.page_block_size
}

/// A block table of `b` rows in which every page of the cache occurs once, in random order.
pub fn block_table(case: &Case, random: &mut Random) -> Vec<i32> {
    let mut table: Vec<i32> = (0..(case.b * blocks_per_request(case)) as i32).collect();
    for i in (1..table.len()).rev() {
        table.swap(i, random.below(i as u64 + 1) as usize);
    }
    table
}
