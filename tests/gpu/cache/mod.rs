//! Append, gather and map: byte by byte against the definition.

mod append;
mod gather;
mod graphs;
mod map;
mod sizes;

use crate::decode::{input, output};
use crate::memory::{Fence, Region};
use crate::random::{NormalTable, Random};
use crate::session::{outcome, Queue, Refusal, Session};
use flashmla::capi::types::*;
use flashmla::problem::layout::Layout;

const LAYOUTS: [Layout; 3] = [Layout::Plain, Layout::V32, Layout::V4];

fn layout_code(layout: Layout) -> i32 {
    match layout {
        Layout::Plain => FLASHMLA_LAYOUT_PLAIN,
        Layout::V32 => FLASHMLA_LAYOUT_V32,
        Layout::V4 => FLASHMLA_LAYOUT_V4,
    }
}

/// A cache's sizes and where its pages lie, in bytes.
#[derive(Debug, Clone, Copy)]
struct Shape {
    layout: Layout,
    d_qk: i64,
    num_blocks: i64,
    page: i64,
    page_stride: i64,
    /// Of plain rows.
    row_stride: i64,
}

impl Shape {
    /// `pad`: gaps behind pages, and behind plain rows.
    fn new(layout: Layout, d_qk: i64, num_blocks: i64, page: i64, pad: i64) -> Shape {
        let row_stride = 2 * d_qk + pad * 16;
        let bytes = match layout {
            Layout::Plain => row_stride * page,
            fp8 => crate::latent::page_bytes(fp8, page),
        };
        // Odd numbers of V4 tokens fill no multiple of 16 bytes.
        Shape { layout, d_qk, num_blocks, page, page_stride: (bytes + 15) / 16 * 16 + pad * 48, row_stride }
    }

    fn tokens(&self) -> i64 {
        self.num_blocks * self.page
    }

    fn bytes(&self) -> usize {
        (self.num_blocks * self.page_stride) as usize
    }

    /// As the library is told them.
    fn strides(&self) -> [i64; 4] {
        match self.layout {
            Layout::Plain => [self.page_stride / 2, self.row_stride / 2, 1, 0],
            _ => [self.page_stride, 1, 0, 0],
        }
    }

    /// Writes a token into an image of the cache.
    fn put(&self, image: &mut [u8], slot: i64, row: &[u16], exact: bool) {
        let (page, i) = (slot / self.page, slot % self.page);
        let page = &mut image[(page * self.page_stride) as usize..];
        match self.layout {
            Layout::Plain => {
                for (to, bits) in page[(i * self.row_stride) as usize..].chunks_exact_mut(2).zip(row) {
                    to.copy_from_slice(&bits.to_le_bytes());
                }
            }
            fp8 => crate::latent::put(fp8, page, self.page as usize, i as usize, row, exact),
        }
    }

    /// A token of an image, as BF16 bits: the product in FP32, then rounded.
    fn get(&self, image: &[u8], slot: i64) -> Vec<u16> {
        let (page, i) = (slot / self.page, slot % self.page);
        let page = &image[(page * self.page_stride) as usize..];
        match self.layout {
            Layout::Plain => {
                let row = &page[(i * self.row_stride) as usize..][..2 * self.d_qk as usize];
                row.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
            }
            fp8 => {
                let [_, _, rope] = crate::latent::offsets(fp8, self.page as usize, i as usize);
                let values = crate::latent::token(fp8, page, self.page as usize, i as usize);
                let latent = crate::latent::groups(fp8).0;
                // In double precision the products are exact, so that this rounds them to FP32.
                let round = |x: &f64| half::bf16::from_f32(*x as f32).to_bits();
                let rope = page[rope..rope + 128].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
                values[..latent].iter().map(round).chain(rope).collect()
            }
        }
    }
}

/// Equal, or both of them NaN: which NaN is nobody's business.
fn same_bits(a: &[u16], b: &[u16]) -> bool {
    let nan = |x: u16| half::bf16::from_bits(x).is_nan();
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (nan(*a) && nan(*b)))
}

/// Rows of all kinds of values, one kind a row.
fn rows(random: &mut Random, n: i64, d_qk: i64) -> Vec<u16> {
    let normal = NormalTable::new(1.0, |x| half::bf16::from_f32(x).to_bits());
    let mut rows = vec![0u16; (n * d_qk) as usize];
    for (i, row) in rows.chunks_exact_mut(d_qk as usize).enumerate() {
        normal.fill(random, row);
        let factor = match i % 8 {
            // On and beside the borders between powers of two.
            1 => [448.0, 224.0, 447.0, 450.0, 7.0, 1.75, 3.5][i / 8 % 7],
            2 => 1e-6,
            3 => 1e30,
            4 => 1e-39,
            5 => 0.0,
            _ => 1.0,
        };
        for (k, bits) in row.iter_mut().enumerate() {
            let x = half::bf16::from_bits(*bits).to_f32();
            let x = if i % 8 == 1 { x.clamp(-1.0, 1.0) } else { x };
            *bits = half::bf16::from_f32(x * factor).to_bits();
            match (i % 8, k) {
                (1, k) if k % 64 == 5 => *bits = half::bf16::from_f32(factor).to_bits(),
                (6, 70) => *bits = 0x7fc0,
                (6, 300) => *bits = 0x7f80,
                (6, 500) => *bits = 0xff80,
                (7, k) if k % 3 == 0 => *bits = random.next() as u16 & 0xbfff,
                _ => {}
            }
        }
    }
    rows
}

/// A run of one of the calls.
fn call(session: &Session, queue: &Queue, run: impl FnOnce(cudaStream_t) -> i32) -> Result<(), Refusal> {
    outcome(run(queue.raw()))?;
    queue.synchronize().unwrap_or_else(|e| panic!("{}: {e}", session.name));
    Ok(())
}

/// Lays elements of a tensor of one dimension `step` apart, garbage between them.
fn spread<T: Copy>(values: &[T], step: usize, garbage: T) -> Vec<T> {
    values.iter().flat_map(|v| std::iter::once(*v).chain(std::iter::repeat_n(garbage, step - 1))).collect()
}

fn region<T: crate::cuda::Plain>(session: &Session, data: &[T]) -> Region {
    Region::with(session.place(), Fence::Guarded, data, 0).expect("memory")
}

fn empty(session: &Session, bytes: usize) -> Region {
    Region::new(session.place(), Fence::Guarded, bytes, 0).expect("memory")
}

fn tensor(region: &Region, strides: [i64; 4]) -> flashmla_const_tensor_t {
    input(region.addr(), strides)
}

fn tensor_mut(region: &Region, strides: [i64; 4]) -> flashmla_tensor_t {
    output(region.addr(), strides)
}
