//! The tensors of a case as they lie in memory. Whatever the contract says must not be read into
//! the result is poison: NaN in Q and the cache, wild page numbers in the block table.

use crate::random::{NormalTable, Random};
use crate::spec::{Layout, Spec};
use flashmla::problem::dense_decode::{Dtype, D_V};
use flashmla::schedule::ceil_div;
use half::{bf16, f16};

/// NaN in BF16 and in FP16.
const POISON: u16 = 0xffff;

/// Where the elements of a tensor lie.
#[derive(Debug, Clone, Copy)]
pub struct Strided<const N: usize> {
    pub shape: [i64; N],
    pub strides: [i64; N],
    /// The strides that the library gets: 0 where the layout is the default one.
    pub given: [i64; 4],
    /// Bytes from a 256-byte boundary to element 0.
    pub shift: usize,
}

impl<const N: usize> Strided<N> {
    /// Dimensions from the outermost to the innermost in memory, a gap of `pad` elements behind
    /// each but the innermost, whose elements are `step` apart.
    pub fn new(shape: [i64; N], order: [usize; N], step: i64, pad: i64, shift: usize) -> Strided<N> {
        let mut strides = [0; N];
        let mut next = step;
        for dim in order.into_iter().rev() {
            strides[dim] = next;
            next = next * shape[dim].max(1) + pad;
        }
        let mut given = [0; 4];
        given[..N].copy_from_slice(&strides);
        Strided { shape, strides, given, shift }
    }

    pub fn contiguous(shape: [i64; N]) -> Strided<N> {
        let mut order = [0; N];
        order.iter_mut().enumerate().for_each(|(i, dim)| *dim = i);
        Strided { given: [0; 4], ..Strided::new(shape, order, 1, 0, 0) }
    }

    /// Elements from the first to the last, both included.
    pub fn extent(&self) -> usize {
        if self.shape.contains(&0) {
            return 0;
        }
        1 + self.shape.iter().zip(&self.strides).map(|(n, s)| ((n - 1) * s) as usize).sum::<usize>()
    }

    pub fn at(&self, index: [i64; N]) -> usize {
        index.iter().zip(&self.strides).map(|(i, s)| (i * s) as usize).sum()
    }
}

#[derive(Debug, Clone)]
pub struct Data {
    pub spec: Spec,
    pub num_blocks: i64,
    pub columns: i64,
    pub q: Vec<u16>,
    pub q_place: Strided<4>,
    pub kv: Vec<u16>,
    pub kv_place: Strided<4>,
    pub table: Vec<i32>,
    pub table_place: Strided<2>,
    pub lens: Vec<i32>,
    pub lens_place: Strided<1>,
    pub out_place: Strided<4>,
    pub lse_place: Strided<3>,
}

/// The bits of a value in an element type.
pub fn encode(dtype: Dtype) -> fn(f32) -> u16 {
    match dtype {
        Dtype::Bf16 => |x| bf16::from_f32(x).to_bits(),
        Dtype::Fp16 => |x| f16::from_f32(x).to_bits(),
    }
}

pub fn decode(dtype: Dtype) -> fn(u16) -> f64 {
    match dtype {
        Dtype::Bf16 => |bits| bf16::from_bits(bits).to_f64(),
        Dtype::Fp16 => |bits| f16::from_bits(bits).to_f64(),
    }
}

/// Places of `q`, `kv_cache`, `block_table`, `cache_seqlens`, `out` and `lse`.
type Places = (Strided<4>, Strided<4>, Strided<2>, Strided<1>, Strided<4>, Strided<3>);

fn places(spec: &Spec, num_blocks: i64, columns: i64) -> Places {
    let Spec { d_qk, h_q, h_kv, s_q, page, .. } = *spec;
    let b = spec.b();
    let q = [b, s_q, h_q, d_qk];
    let kv = [num_blocks, page, h_kv, d_qk];
    let out = [b, s_q, h_q, D_V];
    match spec.layout {
        Layout::Contiguous => (
            Strided::contiguous(q),
            Strided::contiguous(kv),
            Strided::contiguous([b, columns]),
            Strided::contiguous([b]),
            Strided::contiguous(out),
            Strided::contiguous([b, h_q, s_q]),
        ),
        Layout::Padded => (
            Strided::new(q, [0, 1, 2, 3], 1, 8, 0),
            Strided::new(kv, [0, 1, 2, 3], 1, 24, 0),
            Strided::new([b, columns], [0, 1], 2, 3, 0),
            Strided::new([b], [0], 3, 0, 0),
            Strided::new(out, [0, 1, 2, 3], 1, 16, 0),
            Strided::new([b, h_q, s_q], [0, 1, 2], 2, 1, 0),
        ),
        Layout::Swapped => (
            Strided::new(q, [0, 2, 1, 3], 1, 64, 16),
            Strided::new(kv, [0, 2, 1, 3], 1, 8, 16),
            Strided::new([b, columns], [1, 0], 1, 5, 4),
            Strided::new([b], [0], 2, 0, 4),
            Strided::new(out, [1, 2, 0, 3], 1, 8, 16),
            Strided::new([b, h_q, s_q], [0, 2, 1], 1, 1, 4),
        ),
    }
}

impl Data {
    pub fn new(spec: &Spec) -> Data {
        let (num_blocks, columns) = (spec.num_blocks(), spec.columns());
        let (q_place, kv_place, table_place, lens_place, out_place, lse_place) = places(spec, num_blocks, columns);
        let mut data = Data {
            spec: spec.clone(),
            num_blocks,
            columns,
            q: vec![POISON; q_place.extent()],
            q_place,
            kv: vec![POISON; kv_place.extent()],
            kv_place,
            // Past the last used page, in the gaps too, entries are wild in both directions.
            table: (0..table_place.extent()).map(|i| if i % 2 == 0 { 2147480000 } else { -5 }).collect(),
            table_place,
            lens: vec![-7; lens_place.extent()],
            lens_place,
            out_place,
            lse_place,
        };
        let mut random = Random::new(spec.seed);
        data.fill_q(&mut random);
        data.fill_cache(&mut random);
        data
    }

    fn fill_q(&mut self, random: &mut Random) {
        let table = NormalTable::new(self.spec.q_std, encode(self.spec.dtype));
        let [b, s_q, h_q, d_qk] = self.q_place.shape;
        for (i, t, h) in (0..b).flat_map(|i| (0..s_q).flat_map(move |t| (0..h_q).map(move |h| (i, t, h)))) {
            let at = self.q_place.at([i, t, h, 0]);
            table.fill(random, &mut self.q[at..][..d_qk as usize]);
            if self.spec.ramp {
                self.q[at] = encode(self.spec.dtype)(if (t + h) % 2 == 0 { 480.0 } else { -480.0 });
            }
        }
    }

    fn fill_cache(&mut self, random: &mut Random) {
        let values = NormalTable::new(0.1, encode(self.spec.dtype));
        let mut pages: Vec<i32> = (0..self.num_blocks as i32).collect();
        random.shuffle(&mut pages);
        let mut pages = pages.into_iter();
        for i in 0..self.spec.lens.len() {
            self.lens[self.lens_place.at([i as i64])] = self.spec.lens[i];
            let tokens = self.spec.tokens(i);
            for column in 0..ceil_div(tokens, self.spec.page) {
                let page = pages.next().expect("as many pages as are used");
                let mut entry = page;
                if self.spec.bad_pages && random.below(3) == 0 {
                    let n = self.num_blocks as i32;
                    entry = random.pick(&[n, n + 7, -1, i32::MIN, i32::MAX, 2147480000, -n]);
                }
                self.table[self.table_place.at([i as i64, column])] = entry;
                let first = column * self.spec.page;
                for token in first..tokens.min(first + self.spec.page) {
                    self.fill_token(random, &values, page, token, tokens);
                }
            }
        }
    }

    fn fill_token(&mut self, random: &mut Random, values: &NormalTable, page: i32, token: i64, tokens: i64) {
        let [_, page_size, h_kv, d_qk] = self.kv_place.shape;
        for head in 0..h_kv {
            let at = self.kv_place.at([page as i64, token % page_size, head, 0]);
            values.fill(random, &mut self.kv[at..][..d_qk as usize]);
            if self.spec.ramp {
                self.kv[at] = encode(self.spec.dtype)(2.0 * token as f32 / tokens as f32 - 1.0);
            }
        }
    }

    /// Only these requests, in this order, over the same cache, which stays with the whole batch (see
    /// `Decode::share_cache`). The block table keeps its width.
    pub fn subset(&self, requests: &[usize]) -> Data {
        let mut spec = self.spec.clone();
        spec.lens = requests.iter().map(|i| self.spec.lens[*i]).collect();
        spec.columns = Some(self.columns);
        let (q_place, kv_place, table_place, lens_place, out_place, lse_place) =
            places(&spec, self.num_blocks, self.columns);
        let mut data = Data {
            num_blocks: self.num_blocks,
            columns: self.columns,
            q: vec![POISON; q_place.extent()],
            q_place,
            kv: Vec::new(),
            kv_place,
            table: vec![i32::MAX; table_place.extent()],
            table_place,
            lens: vec![-7; lens_place.extent()],
            lens_place,
            out_place,
            lse_place,
            spec,
        };
        let d_qk = self.spec.d_qk as usize;
        for (to, from) in requests.iter().enumerate().map(|(to, from)| (to as i64, *from as i64)) {
            for (t, h) in (0..self.spec.s_q).flat_map(|t| (0..self.spec.h_q).map(move |h| (t, h))) {
                let row = &self.q[self.q_place.at([from, t, h, 0])..][..d_qk];
                data.q[q_place.at([to, t, h, 0])..][..d_qk].copy_from_slice(row);
            }
            for column in 0..self.columns {
                data.table[table_place.at([to, column])] = self.table[self.table_place.at([from, column])];
            }
            data.lens[lens_place.at([to])] = self.lens[self.lens_place.at([from])];
        }
        data
    }
}
