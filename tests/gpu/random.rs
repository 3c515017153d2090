//! Random numbers that are the same on every machine.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }

    /// In `low ..= high`.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// In (0, 1].
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// Many normal numbers cheaply: 16-bit values drawn from a table of 65536 samples.
pub struct NormalTable(Vec<u16>);

impl NormalTable {
    /// Standard deviation `std`, cut at ten times that; `encode` gives the bits.
    pub fn new(std: f64, encode: impl Fn(f32) -> u16) -> NormalTable {
        let mut random = Random::new(1);
        NormalTable((0..65536).map(|_| encode((random.normal().clamp(-10.0, 10.0) * std) as f32)).collect())
    }

    pub fn fill(&self, random: &mut Random, to: &mut [u16]) {
        for four in to.chunks_mut(4) {
            let bits = random.next();
            for (i, value) in four.iter_mut().enumerate() {
                *value = self.0[(bits >> (16 * i)) as u16 as usize];
            }
        }
    }
}
