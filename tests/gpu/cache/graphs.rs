//! Captured, and replayed after rows, slots, positions and contents changed in place.

use super::append::{self, Case};
use super::*;
use crate::cuda::CaptureMode;
use flashmla::capi::kv_cache_append::*;
use flashmla::capi::kv_cache_gather::*;
use flashmla::capi::map_indices::*;

#[test]
fn a_captured_step_is_replayed() {
    let session = gpu_alone_or_skip!();
    let handle = session.backend.handle.0;
    for layout in LAYOUTS {
        let shape = Shape::new(layout, crate::latent::d_qk(layout), 4, 64, 0);
        let (n, d) = (33i64, shape.d_qk as usize);
        let rows_region = empty(&session, n as usize * d * 2);
        let positions = empty(&session, n as usize * 4);
        let slots = empty(&session, n as usize * 4);
        let back = empty(&session, n as usize * d * 2);
        let cache = empty(&session, shape.bytes());
        let table = region(&session, &[2i32, 0, 3, 1]);
        let mut append = append::params(&Case { shape, n, exact: false, wide: false, pad: 0, seed: 0 });
        append.rows = tensor(&rows_region, [0; 4]);
        append.slot_mapping = tensor(&slots, [0; 4]);
        append.kv_cache = tensor_mut(&cache, [0; 4]);
        let mut gather = super::gather::params(&shape, n);
        gather.kv_cache = tensor(&cache, [0; 4]);
        gather.indices = tensor(&slots, [0; 4]);
        gather.rows = tensor_mut(&back, [0; 4]);
        // SAFETY: plain data, for which all 0 is a value.
        let mut map: flashmla_map_indices_params_t = unsafe { std::mem::zeroed() };
        map.struct_size = size_of_val(&map);
        (map.b, map.s_q, map.topk) = (1, 1, n);
        (map.num_blocks, map.page_block_size, map.max_blocks_per_seq) = (4, 64, 4);
        map.positions = tensor(&positions, [0; 4]);
        map.block_table = tensor(&table, [0; 4]);
        map.indices = tensor_mut(&slots, [0; 4]);
        let stream = session.gpu().context.stream().unwrap();
        let graph = stream
            .capture_in(CaptureMode::Global, |stream| {
                let stream = stream.as_ptr().cast();
                // SAFETY: all memory is owned, of the sizes in the parameters.
                outcome(unsafe { flashmla_map_indices(handle, &map, stream) })?;
                outcome(unsafe { flashmla_kv_cache_append(handle, &append, stream) })?;
                outcome(unsafe { flashmla_kv_cache_gather(handle, &gather, stream) })?;
                Ok(())
            })
            .unwrap();
        for seed in 0..3 {
            let mut random = Random::new(seed);
            let bits = rows(&mut random, n, shape.d_qk);
            let mut all: Vec<i32> = (0..256).collect();
            random.shuffle(&mut all);
            rows_region.write(0, &bits).unwrap();
            positions.write(0, &all[..n as usize]).unwrap();
            stream.launch_graph(&graph).unwrap();
            stream.synchronize().unwrap();
            let mut image = vec![0u8; shape.bytes()];
            for (row, position) in bits.chunks_exact(d).zip(&all) {
                let slot = [2, 0, 3, 1][*position as usize / 64] * 64 + *position as i64 % 64;
                shape.put(&mut image, slot, row, false);
            }
            let got: Vec<u16> = back.read().unwrap();
            for (row, position) in got.chunks_exact(d).zip(&all) {
                let slot = [2, 0, 3, 1][*position as usize / 64] * 64 + *position as i64 % 64;
                assert!(same_bits(row, &shape.get(&image, slot)), "{shape:?} position {position}");
            }
        }
    }
}
