//! The tensors of a case as they lie in memory. Whatever the contract says must not be read into the result is
//! poison: NaN in the gaps and in the tokens that no index names, and past a query's length indices of such
//! tokens and of tokens that don't exist.

use super::spec::{Pick, Scales, Spec};
use crate::data::{encode, Strided};
use crate::latent::{self, page_bytes};
use crate::random::{NormalTable, Random};
use crate::spec::Layout as Strides;
use flashmla::problem::dense_decode::{Dtype, D_V};
use flashmla::problem::layout::Layout;

/// NaN in BF16; and its bytes are NaN in e4m3, e8m0 and FP32.
const POISON: u16 = 0xffff;

/// A cache and what is attended to in it.
#[derive(Debug, Clone)]
pub struct Cache {
    pub page: i64,
    pub num_blocks: i64,
    pub topk: i64,
    /// Bytes from page to page.
    pub page_stride: i64,
    /// What the library is told of it; 0: contiguous.
    pub given_stride: i64,
    pub bytes: Vec<u8>,
    pub indices: Vec<i32>,
    pub indices_place: Strided<3>,
    /// Empty: left out.
    pub lengths: Vec<i32>,
    /// Strides of 0 along the query tokens where lengths are told for requests.
    pub lengths_place: Strided<2>,
}

#[derive(Debug, Clone)]
pub struct Data {
    pub spec: Spec,
    pub q: Vec<u16>,
    pub cache: Cache,
    pub extra: Option<Cache>,
    /// Empty: left out.
    pub sinks: Vec<f32>,
    pub q_place: Strided<4>,
    pub sinks_place: Strided<1>,
    pub out_place: Strided<4>,
    pub lse_place: Strided<3>,
}

/// Tokens that no index names, where there are that many: they hold NaN.
fn is_poisoned(token: i64) -> bool {
    token % 8 == 3
}

/// A product of a code's value and a scale, which double precision holds exactly, as attention takes it: BF16, by way of
/// FP32.
fn dequantised(product: f64) -> f64 {
    half::bf16::from_f32(product as f32).to_f64()
}

/// What a cache of a case is made by.
struct Wanted<'a> {
    page: i64,
    s_k: i64,
    topk: i64,
    lengths: &'a Option<Vec<i32>>,
}

impl Data {
    pub fn new(spec: &Spec) -> Data {
        let mut random = Random::new(spec.seed);
        let Spec { b, s_q, h_q, .. } = *spec;
        let d_qk = spec.d_qk();
        let (q, out, lse) = ([b, s_q, h_q, d_qk], [b, s_q, h_q, D_V], [b, h_q, s_q]);
        let (q_place, out_place, lse_place, sinks_place) = match spec.strides {
            Strides::Contiguous => {
                (Strided::contiguous(q), Strided::contiguous(out), Strided::contiguous(lse), Strided::contiguous([h_q]))
            }
            Strides::Padded => (
                Strided::new(q, [0, 1, 2, 3], 1, 8, 0),
                Strided::new(out, [0, 1, 2, 3], 1, 16, 0),
                Strided::new(lse, [0, 1, 2], 2, 1, 0),
                Strided::new([h_q], [0], 2, 0, 0),
            ),
            Strides::Swapped => (
                Strided::new(q, [2, 0, 1, 3], 1, 64, 16),
                Strided::new(out, [1, 2, 0, 3], 1, 8, 16),
                Strided::new(lse, [2, 0, 1], 1, 5, 12),
                Strided::new([h_q], [0], 1, 0, 12),
            ),
        };
        let first = Wanted { page: spec.page, s_k: spec.s_k, topk: spec.topk, lengths: &spec.lengths };
        let cache = Cache::new(spec, first, &mut random);
        let extra = spec.extra.as_ref().map(|extra| {
            let second = Wanted { page: extra.page, s_k: extra.s_k, topk: extra.topk, lengths: &extra.lengths };
            Cache::new(spec, second, &mut random)
        });
        let mut data = Data {
            spec: spec.clone(),
            q: vec![POISON; q_place.extent()],
            cache,
            extra,
            sinks: Vec::new(),
            q_place,
            sinks_place,
            out_place,
            lse_place,
        };
        if let Some(sinks) = &spec.sinks {
            data.sinks = vec![f32::NAN; data.sinks_place.extent()];
            for h in 0..h_q {
                data.sinks[data.sinks_place.at([h])] = sinks[h as usize % sinks.len()];
            }
        }
        data.fill_q(&mut random);
        data
    }

    fn fill_q(&mut self, random: &mut Random) {
        let Spec { b, s_q, h_q, .. } = self.spec;
        let d_qk = self.spec.d_qk() as usize;
        let table = NormalTable::new(self.spec.q_std, encode(Dtype::Bf16));
        for (i, t, h) in (0..b).flat_map(|i| (0..s_q).flat_map(move |t| (0..h_q).map(move |h| (i, t, h)))) {
            let at = self.q_place.at([i, t, h, 0]);
            table.fill(random, &mut self.q[at..][..d_qk]);
            if self.spec.ramp {
                // Against the last element, which is not quantised.
                self.q[at + d_qk - 1] = encode(Dtype::Bf16)(if (t + h) % 2 == 0 { 480.0 } else { -480.0 });
            }
        }
    }

    /// The elements of all tokens that a query token attends to, those named twice twice: first those of the first
    /// cache.
    pub fn attended(&self, i: i64, t: i64) -> Vec<f64> {
        let caches = [Some(&self.cache), self.extra.as_ref()];
        caches.into_iter().flatten().flat_map(|cache| cache.attended(self.spec.layout, i, t)).collect()
    }
}

impl Cache {
    fn new(spec: &Spec, wanted: Wanted, random: &mut Random) -> Cache {
        let Wanted { page, s_k, topk, lengths } = wanted;
        let num_blocks = (s_k + page - 1) / page;
        let bytes = page_bytes(spec.layout, page);
        let page_stride = match spec.strides {
            // As upstream lays V4 pages out.
            Strides::Swapped => (bytes + 575) / 576 * 576,
            Strides::Padded => (bytes + 15) / 16 * 16 + 48,
            Strides::Contiguous => (bytes + 15) / 16 * 16,
        };
        let (indices, sizes) = ([spec.b, spec.s_q, topk], [spec.b, spec.s_q]);
        let indices_place = match spec.strides {
            Strides::Contiguous => Strided::contiguous(indices),
            Strides::Padded => Strided::new(indices, [0, 1, 2], 1, 3, 0),
            Strides::Swapped => Strided::new(indices, [1, 0, 2], 1, 5, 4),
        };
        let lengths_place = match (spec.by_request, spec.strides) {
            (true, strides) => {
                let step = if strides == Strides::Padded { 3 } else { 1 };
                Strided { shape: sizes, strides: [step, 0], given: [step, 0, 0, 0], shift: 4 }
            }
            (false, Strides::Contiguous) => Strided::contiguous(sizes),
            (false, Strides::Padded) => Strided::new(sizes, [0, 1], 3, 2, 0),
            (false, Strides::Swapped) => Strided::new(sizes, [1, 0], 2, 0, 4),
        };
        let tokens = num_blocks * page;
        let garbage = [2147480000, 3, -5, tokens.min(i32::MAX as i64) as i32, i32::MIN, 11];
        let mut cache = Cache {
            page,
            num_blocks,
            topk,
            page_stride,
            given_stride: if page_stride == bytes { 0 } else { page_stride },
            bytes: vec![POISON as u8; (num_blocks * page_stride) as usize],
            indices: (0..indices_place.extent()).map(|i| garbage[i % garbage.len()]).collect(),
            indices_place,
            lengths: Vec::new(),
            lengths_place,
        };
        if let Some(lengths) = lengths {
            cache.lengths = vec![i32::MAX; lengths_place.extent()];
            for (i, t) in (0..spec.b).flat_map(|i| (0..spec.s_q).map(move |t| (i, t))) {
                let unit = if spec.by_request { i } else { i * spec.s_q + t };
                cache.lengths[lengths_place.at([i, t])] = lengths[unit as usize % lengths.len()];
            }
        }
        let named = cache.fill_indices(spec, random);
        cache.fill_tokens(spec, random, &named);
        cache
    }

    pub fn tokens(&self) -> i64 {
        self.num_blocks * self.page
    }

    /// As the library is told it.
    pub fn strides(&self) -> [i64; 4] {
        match self.given_stride {
            0 => [0; 4],
            stride => [stride, 1, 0, 0],
        }
    }

    /// The indices that count; which tokens they name.
    fn fill_indices(&mut self, spec: &Spec, random: &mut Random) -> Vec<bool> {
        let n = self.tokens().min(i32::MAX as i64) as i32;
        let wild = [-1, i32::MIN, n, n.saturating_add(1), 2147480000, i32::MAX, -1 - n];
        let mut tokens: Vec<i32> = (0..n).filter(|token| !is_poisoned(*token as i64)).collect();
        let mut named = vec![false; n as usize];
        for (i, t) in (0..spec.b).flat_map(|i| (0..spec.s_q).map(move |t| (i, t))) {
            if spec.pick != Pick::Rising {
                // For three of them, and for all in another order.
                let front = if spec.pick == Pick::Distinct { self.topk } else { 3 };
                for i in 0..tokens.len().min(front as usize) {
                    let other = i + random.below((tokens.len() - i) as u64) as usize;
                    tokens.swap(i, other);
                }
            }
            let unit = i * spec.s_q + t;
            let empty = spec.empty_every > 0 && unit % spec.empty_every == spec.empty_every - 1;
            for j in 0..self.counted(i, t) {
                let token = match spec.pick {
                    _ if tokens.is_empty() || empty || random.below(100) < spec.masked => random.pick(&wild),
                    Pick::Any => random.pick(&tokens),
                    Pick::Distinct | Pick::Rising => tokens[j as usize % tokens.len()],
                    Pick::Same => tokens[0],
                    Pick::Three => tokens[random.below(tokens.len().min(3) as u64) as usize],
                };
                self.indices[self.indices_place.at([i, t, j])] = token;
                if let Some(named) = usize::try_from(token).ok().and_then(|token| named.get_mut(token)) {
                    *named = true;
                }
            }
        }
        named
    }

    /// Codes of normal values with a standard deviation of 100, and scales near 1/1000.
    fn fill_tokens(&mut self, spec: &Spec, random: &mut Random, named: &[bool]) {
        let codes = NormalTable::new(100.0, |x| latent::to_e4m3(x) as u16);
        let rope = NormalTable::new(0.1, encode(Dtype::Bf16));
        let (quantized, group) = latent::groups(spec.layout);
        let mut row = vec![0u16; quantized];
        let tokens = self.tokens();
        for token in (0..tokens).filter(|token| named[*token as usize]) {
            let page = &mut self.bytes[(token / self.page * self.page_stride) as usize..];
            let place = latent::offsets(spec.layout, self.page as usize, (token % self.page) as usize);
            codes.fill(random, &mut row);
            page[place[0]..].iter_mut().zip(&row).for_each(|(to, code)| *to = *code as u8);
            for g in 0..quantized / group {
                match (spec.layout, spec.scales) {
                    (Layout::V4, _) => page[place[1] + g] = 116 + random.below(3) as u8,
                    (_, scales) => {
                        let scale = match scales {
                            Scales::Powers => 2f32.powi(-11 + random.below(3) as i32),
                            Scales::Odd => (5e-4 * 4f64.powf(random.unit())) as f32,
                        };
                        page[place[1] + 4 * g..][..4].copy_from_slice(&scale.to_le_bytes());
                    }
                }
            }
            let mut bits = [0u16; 64];
            rope.fill(random, &mut bits);
            if spec.ramp {
                bits[63] = encode(Dtype::Bf16)(2.0 * token as f32 / tokens as f32 - 1.0);
            }
            page[place[2]..].chunks_exact_mut(2).zip(bits).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
        }
    }

    /// Fills anew what the indices name now.
    pub fn refill(&mut self, spec: &Spec) {
        let mut named = vec![false; self.tokens() as usize];
        for (i, t) in (0..spec.b).flat_map(|i| (0..spec.s_q).map(move |t| (i, t))) {
            for j in 0..self.counted(i, t) {
                let token = self.indices[self.indices_place.at([i, t, j])];
                if let Some(named) = usize::try_from(token).ok().and_then(|token| named.get_mut(token)) {
                    *named = true;
                }
            }
        }
        self.bytes.fill(POISON as u8);
        self.fill_tokens(spec, &mut Random::new(spec.seed), &named);
    }

    /// How many indices of a query token count.
    pub fn counted(&self, i: i64, t: i64) -> i64 {
        match self.lengths.is_empty() {
            true => self.topk,
            false => (self.lengths[self.lengths_place.at([i, t])] as i64).clamp(0, self.topk),
        }
    }

    fn attended(&self, layout: Layout, i: i64, t: i64) -> Vec<f64> {
        let index = |j| self.indices[self.indices_place.at([i, t, j])] as i64;
        let named = (0..self.counted(i, t)).map(index).filter(|token| (0..self.tokens()).contains(token));
        let elements = |token: i64| {
            let page = &self.bytes[(token / self.page * self.page_stride) as usize..];
            latent::token(layout, page, self.page as usize, (token % self.page) as usize).into_iter().map(dequantised)
        };
        named.flat_map(elements).collect()
    }
}
