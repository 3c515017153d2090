//! The tensors of a case as they lie in memory. Whatever the contract says must not be read into the
//! result is poison: NaN in the gaps and in the rows that no index names, and past a query's length
//! indices of such rows and of rows that don't exist.

use super::spec::{Pick, Spec};
use crate::data::{encode, Strided};
use crate::random::{NormalTable, Random};
use crate::spec::Layout;
use flashmla::problem::dense_decode::Dtype;
use flashmla::problem::sparse_prefill::D_V;

/// NaN in BF16.
const POISON: u16 = 0xffff;

#[derive(Debug, Clone)]
pub struct Data {
    pub spec: Spec,
    pub places: Places,
    pub q: Vec<u16>,
    pub kv: Vec<u16>,
    pub indices: Vec<i32>,
    /// Empty: left out.
    pub lengths: Vec<i32>,
    /// Empty: left out.
    pub sinks: Vec<f32>,
}

#[derive(Debug, Clone)]
pub struct Places {
    pub q: Strided<3>,
    pub kv: Strided<3>,
    pub indices: Strided<3>,
    pub lengths: Strided<1>,
    pub sinks: Strided<1>,
    pub out: Strided<3>,
    pub max_logits: Strided<2>,
    pub lse: Strided<2>,
}

impl Places {
    pub fn new(spec: &Spec) -> Places {
        let Spec { d_qk, h_q, s_q, s_kv, topk, .. } = *spec;
        let (q, kv, indices, out) = ([s_q, h_q, d_qk], [s_kv, 1, d_qk], [s_q, 1, topk], [s_q, h_q, D_V]);
        match spec.layout {
            Layout::Contiguous => Places {
                q: Strided::contiguous(q),
                kv: Strided::contiguous(kv),
                indices: Strided::contiguous(indices),
                lengths: Strided::contiguous([s_q]),
                sinks: Strided::contiguous([h_q]),
                out: Strided::contiguous(out),
                max_logits: Strided::contiguous([s_q, h_q]),
                lse: Strided::contiguous([s_q, h_q]),
            },
            Layout::Padded => Places {
                q: Strided::new(q, [0, 1, 2], 1, 8, 0),
                kv: Strided::new(kv, [0, 1, 2], 1, 24, 0),
                indices: Strided::new(indices, [0, 1, 2], 1, 3, 0),
                lengths: Strided::new([s_q], [0], 3, 0, 0),
                sinks: Strided::new([h_q], [0], 2, 0, 0),
                out: Strided::new(out, [0, 1, 2], 1, 16, 0),
                max_logits: Strided::new([s_q, h_q], [0, 1], 2, 1, 0),
                lse: Strided::new([s_q, h_q], [0, 1], 3, 2, 0),
            },
            Layout::Swapped => Places {
                q: Strided::new(q, [1, 0, 2], 1, 64, 16),
                kv: Strided::new(kv, [1, 0, 2], 1, 8, 16),
                indices: Strided::new(indices, [1, 0, 2], 1, 5, 4),
                lengths: Strided::new([s_q], [0], 2, 0, 4),
                sinks: Strided::new([h_q], [0], 1, 0, 12),
                out: Strided::new(out, [1, 0, 2], 1, 8, 16),
                max_logits: Strided::new([s_q, h_q], [1, 0], 1, 1, 4),
                lse: Strided::new([s_q, h_q], [0, 1], 1, 5, 12),
            },
        }
    }
}

/// Rows that no index names, where there are that many: they hold NaN.
fn is_poisoned(row: i64) -> bool {
    row % 8 == 3
}

impl Data {
    pub fn new(spec: &Spec) -> Data {
        let places = Places::new(spec);
        let s_kv = spec.s_kv as i32;
        let garbage = [2147480000, 3, -5, s_kv, i32::MIN, 11];
        let mut data = Data {
            spec: spec.clone(),
            q: vec![POISON; places.q.extent()],
            kv: vec![POISON; places.kv.extent()],
            indices: (0..places.indices.extent()).map(|i| garbage[i % garbage.len()]).collect(),
            lengths: Vec::new(),
            sinks: Vec::new(),
            places,
        };
        let mut random = Random::new(spec.seed);
        if let Some(lengths) = &spec.lengths {
            data.lengths = vec![i32::MAX; data.places.lengths.extent()];
            for t in 0..spec.s_q {
                data.lengths[data.places.lengths.at([t])] = lengths[t as usize % lengths.len()];
            }
        }
        if let Some(sinks) = &spec.sinks {
            data.sinks = vec![f32::NAN; data.places.sinks.extent()];
            for h in 0..spec.h_q {
                data.sinks[data.places.sinks.at([h])] = sinks[h as usize % sinks.len()];
            }
        }
        data.fill_q(&mut random);
        let named = data.fill_indices(&mut random);
        data.fill_kv(&mut random, &named);
        data
    }

    fn fill_q(&mut self, random: &mut Random) {
        let table = NormalTable::new(self.spec.q_std, encode(Dtype::Bf16));
        for (t, h) in (0..self.spec.s_q).flat_map(|t| (0..self.spec.h_q).map(move |h| (t, h))) {
            let at = self.places.q.at([t, h, 0]);
            table.fill(random, &mut self.q[at..][..self.spec.d_qk as usize]);
            if self.spec.ramp {
                self.q[at] = encode(Dtype::Bf16)(if (t + h) % 2 == 0 { 480.0 } else { -480.0 });
            }
        }
    }

    /// The indices that count; which rows they name.
    fn fill_indices(&mut self, random: &mut Random) -> Vec<bool> {
        let Spec { s_q, s_kv, masked, empty_every, pick, .. } = self.spec;
        let n = s_kv as i32;
        let wild = [-1, i32::MIN, n, n.saturating_add(1), 2147480000, i32::MAX, -1 - n];
        let mut rows: Vec<i32> = (0..n).filter(|row| !is_poisoned(*row as i64)).collect();
        let mut named = vec![false; s_kv as usize];
        for t in 0..s_q {
            if pick != Pick::Rising {
                // For three of them, and for all in another order.
                let front = if pick == Pick::Distinct { self.spec.topk } else { 3 };
                for i in 0..rows.len().min(front as usize) {
                    let other = i + random.below((rows.len() - i) as u64) as usize;
                    rows.swap(i, other);
                }
            }
            let empty = empty_every > 0 && t % empty_every == empty_every - 1;
            for j in 0..self.counted(t) {
                let row = match pick {
                    _ if rows.is_empty() || empty || random.below(100) < masked => random.pick(&wild),
                    Pick::Any => random.pick(&rows),
                    Pick::Distinct | Pick::Rising => rows[j as usize % rows.len()],
                    Pick::Same => rows[0],
                    Pick::Three => rows[random.below(rows.len().min(3) as u64) as usize],
                };
                self.indices[self.places.indices.at([t, 0, j])] = row;
                if let Some(named) = usize::try_from(row).ok().and_then(|row| named.get_mut(row)) {
                    *named = true;
                }
            }
        }
        named
    }

    fn fill_kv(&mut self, random: &mut Random, named: &[bool]) {
        let values = NormalTable::new(0.1, encode(Dtype::Bf16));
        for row in (0..self.spec.s_kv).filter(|row| named[*row as usize]) {
            let at = self.places.kv.at([row, 0, 0]);
            values.fill(random, &mut self.kv[at..][..self.spec.d_qk as usize]);
            if self.spec.ramp {
                self.kv[at] = encode(Dtype::Bf16)(2.0 * row as f32 / self.spec.s_kv as f32 - 1.0);
            }
        }
    }

    /// How many indices of a query token count.
    pub fn counted(&self, t: i64) -> i64 {
        match self.lengths.is_empty() {
            true => self.spec.topk,
            false => (self.lengths[self.places.lengths.at([t])] as i64).clamp(0, self.spec.topk),
        }
    }

    /// The rows that a query token attends to, one of them more than once where it is named so.
    pub fn attended(&self, t: i64) -> Vec<i64> {
        let index = |j| self.indices[self.places.indices.at([t, 0, j])] as i64;
        (0..self.counted(t)).map(index).filter(|row| (0..self.spec.s_kv).contains(row)).collect()
    }
}
