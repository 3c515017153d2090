//! Caches that 32 bits cannot count.

use super::append::{self, Case};
use super::*;
use flashmla::capi::kv_cache_append::*;
use flashmla::capi::kv_cache_gather::*;

/// The pages in use lie past 2^32 bytes. (On the host, memory that nobody touches costs nothing.)
#[test]
fn pages_past_32_bits() {
    let session = session_or_skip!(Alone);
    for layout in LAYOUTS {
        let mut shape = Shape::new(layout, crate::latent::d_qk(layout), 3, 64, 0);
        shape.page_stride = 1 << 31;
        let bytes = (2 * shape.page_stride) as usize + (1 << 20);
        if session.backend.gpu.is_some() && !session.has_memory(bytes * 5 / 4) {
            return;
        }
        let cache = Region::new(session.place(), Fence::Exact, bytes, 0).unwrap();
        let (n, d) = (70i64, shape.d_qk as usize);
        let mut random = Random::new(1);
        let bits = rows(&mut random, n, shape.d_qk);
        let slots: Vec<i64> = (0..n).map(|i| 64 * 3 - 1 - i).collect();
        let indices: Vec<i32> = slots.iter().map(|slot| *slot as i32).collect();
        let mut small = shape;
        small.page_stride = Shape::new(layout, shape.d_qk, 3, 64, 0).page_stride;
        let mut image = vec![0u8; small.bytes()];
        bits.chunks_exact(d).zip(&slots).for_each(|(row, slot)| small.put(&mut image, *slot, row, false));
        let (rows, slots_region) = (region(&session, &bits), region(&session, &slots));
        let (indices, back) = (region(&session, &indices), empty(&session, n as usize * d * 2));
        let mut append = append::params(&Case { shape, n, exact: false, wide: true, pad: 0, seed: 0 });
        append.rows = tensor(&rows, [0; 4]);
        append.slot_mapping = tensor(&slots_region, [0; 4]);
        append.kv_cache = tensor_mut(&cache, shape.strides());
        let mut gather = super::gather::params(&shape, n);
        gather.kv_cache = tensor(&cache, shape.strides());
        gather.indices = tensor(&indices, [0; 4]);
        gather.rows = tensor_mut(&back, [0; 4]);
        let queue = session.queue().unwrap();
        let handle = session.backend.handle.0;
        // SAFETY: all memory is owned, of the sizes in the parameters.
        call(&session, &queue, |stream| unsafe { flashmla_kv_cache_append(handle, &append, stream) }).unwrap();
        // SAFETY: as above.
        call(&session, &queue, |stream| unsafe { flashmla_kv_cache_gather(handle, &gather, stream) }).unwrap();
        let got: Vec<u16> = back.read().unwrap();
        for (row, slot) in got.chunks_exact(d).zip(&slots) {
            assert!(same_bits(row, &small.get(&image, *slot)), "{shape:?} slot {slot}");
        }
    }
}
