//! Append, gather and index mapping: one launch each, and every byte of its parameters.

use super::api::*;
use super::control::{Fake, Launch};
use super::process::{alone, Driver};
use flashmla::capi::kv_cache_append::*;
use flashmla::capi::kv_cache_gather::*;
use flashmla::capi::map_indices::*;
use flashmla::capi::types::*;
use flashmla::gpu::params::*;
use std::ffi::c_void;

const ROWS: u64 = 0x7f10_0000_0000;
const SLOTS: u64 = 0x7f30_0000_0008;

fn input(address: u64) -> flashmla_const_tensor_t {
    flashmla_const_tensor_t { data: address as *const c_void, strides: [0; 4] }
}

fn output(address: u64) -> flashmla_tensor_t {
    flashmla_tensor_t { data: address as *mut c_void, strides: [0; 4] }
}

/// The one launch of a call.
fn launch(fake: &Fake, call: impl FnOnce() -> i32) -> Launch {
    fake.forget();
    outcome(call()).unwrap();
    let [launch] = fake.launches()[..] else { panic!("not one launch") };
    assert_eq!((launch.block, launch.cluster, launch.shared_bytes, launch.overlaps), ([256, 1, 1], [1; 3], 0, 1));
    launch
}

#[test]
fn appends() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for (layout, d_qk, page_stride) in [
            (FLASHMLA_LAYOUT_PLAIN, 576, 576 * 61 * 2),
            (FLASHMLA_LAYOUT_V32, 576, 656 * 61),
            (FLASHMLA_LAYOUT_V4, 512, 35712),
        ] {
            // SAFETY: plain data, for which all 0 is a value.
            let mut p: flashmla_kv_cache_append_params_t = unsafe { std::mem::zeroed() };
            p.struct_size = size_of_val(&p);
            (p.layout, p.slot_type, p.n, p.d_qk) = (layout, FLASHMLA_INDEX_INT64, 17, d_qk);
            (p.num_blocks, p.page_block_size) = (1 << 30, 61);
            p.scale_rule = (layout == FLASHMLA_LAYOUT_V32) as i32;
            p.rows = input(ROWS);
            p.slot_mapping = flashmla_const_tensor_t { strides: [3, 0, 0, 0], ..input(SLOTS) };
            p.kv_cache = output(KV_CACHE);
            if layout == FLASHMLA_LAYOUT_V4 {
                p.kv_cache.strides = [page_stride, 1, 0, 0];
            }
            // SAFETY: a context and a struct of the size it says; the driver runs nothing.
            let one = launch(&fake, || unsafe { flashmla_kv_cache_append(context.raw(), &p, std::ptr::null_mut()) });
            assert_eq!(one.kernel(), format!("flashmla_kv_cache_append_{}", LAYOUTS[layout as usize]));
            assert_eq!(one.grid, [3, 1, 1]);
            let Divisor { magic, shift } = Divisor::new(61);
            assert_eq!(
                one.parameter::<KvCacheAppendParams>(0),
                KvCacheAppendParams {
                    rows: ROWS,
                    row_stride: d_qk,
                    slots: SLOTS,
                    slot_stride: 3,
                    kv_cache: KV_CACHE,
                    page_stride,
                    token_stride: if layout == FLASHMLA_LAYOUT_PLAIN { 1152 } else { 0 },
                    slot_limit: 61 << 30,
                    n: 17,
                    chunks: d_qk as i32 / 8,
                    page_block_size: 61,
                    page_magic: magic,
                    page_shift: shift,
                    wide_slots: 1,
                    exact_scales: (layout == FLASHMLA_LAYOUT_V32) as i32,
                }
            );
            // Nothing to store, or nowhere to: no launch.
            fake.forget();
            for (n, num_blocks) in [(0, 5), (5, 0)] {
                (p.n, p.num_blocks) = (n, num_blocks);
                // SAFETY: as above.
                outcome(unsafe { flashmla_kv_cache_append(context.raw(), &p, std::ptr::null_mut()) }).unwrap();
            }
            assert!(fake.calls().is_empty());
        }
    });
}

#[test]
fn gathers() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        // SAFETY: plain data, for which all 0 is a value.
        let mut p: flashmla_kv_cache_gather_params_t = unsafe { std::mem::zeroed() };
        p.struct_size = size_of_val(&p);
        (p.layout, p.n, p.d_qk, p.num_blocks, p.page_block_size) = (FLASHMLA_LAYOUT_V32, 8, 576, 100, 64);
        p.kv_cache = input(KV_CACHE);
        p.indices = input(BLOCK_TABLE);
        p.rows = flashmla_tensor_t { strides: [1000, 1, 0, 0], ..output(OUT) };
        // SAFETY: a context and a struct of the size it says; the driver runs nothing.
        let one = launch(&fake, || unsafe { flashmla_kv_cache_gather(context.raw(), &p, std::ptr::null_mut()) });
        assert_eq!((one.kernel(), one.grid), ("flashmla_kv_cache_gather_v32", [1, 1, 1]));
        let Divisor { magic, shift } = Divisor::new(64);
        let by_indices = KvCacheGatherParams {
            kv_cache: KV_CACHE,
            page_stride: 64 * 656,
            indices: BLOCK_TABLE,
            indices_stride: 1,
            index_limit: 6400,
            rows: OUT,
            row_stride: 1000,
            n: 8,
            chunks: 72,
            num_blocks: 100,
            page_block_size: 64,
            page_magic: magic,
            page_shift: shift,
            ..Default::default()
        };
        assert_eq!(one.parameter::<KvCacheGatherParams>(0), by_indices);
        p.indices = input(0);
        (p.n, p.b, p.max_blocks_per_seq) = (9, 5, 7);
        p.block_table = input(BLOCK_TABLE);
        p.cu_seqlens = input(CACHE_SEQLENS);
        p.seq_starts = flashmla_const_tensor_t { strides: [2, 0, 0, 0], ..input(LSE) };
        // SAFETY: as above.
        let one = launch(&fake, || unsafe { flashmla_kv_cache_gather(context.raw(), &p, std::ptr::null_mut()) });
        assert_eq!(one.grid, [2, 1, 1]);
        assert_eq!(
            one.parameter::<KvCacheGatherParams>(0),
            KvCacheGatherParams {
                indices: 0,
                indices_stride: 0,
                n: 9,
                b: 5,
                max_tokens: 7 * 64,
                block_table: BLOCK_TABLE,
                block_table_strides: [7, 1],
                cu_seqlens: CACHE_SEQLENS,
                cu_seqlens_stride: 1,
                seq_starts: LSE,
                seq_starts_stride: 2,
                ..by_indices
            }
        );
        fake.forget();
        p.n = 0;
        // SAFETY: as above.
        outcome(unsafe { flashmla_kv_cache_gather(context.raw(), &p, std::ptr::null_mut()) }).unwrap();
        assert!(fake.calls().is_empty());
    });
}

#[test]
fn mappings() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        // SAFETY: plain data, for which all 0 is a value.
        let mut p: flashmla_map_indices_params_t = unsafe { std::mem::zeroed() };
        p.struct_size = size_of_val(&p);
        (p.b, p.s_q, p.topk) = (3, 2, 2049);
        (p.num_blocks, p.page_block_size, p.max_blocks_per_seq) = (100, 64, 50);
        p.positions = input(Q + 4);
        p.block_table = input(BLOCK_TABLE);
        p.indices = output(OUT + 4);
        // SAFETY: a context and a struct of the size it says; the driver runs nothing.
        let one = launch(&fake, || unsafe { flashmla_map_indices(context.raw(), &p, std::ptr::null_mut()) });
        let Divisor { magic, shift } = Divisor::new(64);
        let expected = MapIndicesParams {
            positions: Q + 4,
            positions_strides: [4098, 2049],
            block_table: BLOCK_TABLE,
            block_table_strides: [50, 1],
            cache_seqlens: 0,
            cache_seqlens_stride: 0,
            out: OUT + 4,
            out_strides: [4098, 2049],
            blocks: 18,
            row_blocks: 3,
            s_q: 2,
            topk: 2049,
            max_tokens: 3200,
            num_blocks: 100,
            page_block_size: 64,
            page_magic: magic,
            page_shift: shift,
        };
        assert_eq!((one.kernel(), one.grid), ("flashmla_map_indices", [18, 1, 1]));
        assert_eq!(one.parameter::<MapIndicesParams>(0), expected);
        // More blocks of work than thread blocks.
        p.b = 1 << 20;
        p.cache_seqlens = input(CACHE_SEQLENS);
        // SAFETY: as above.
        let one = launch(&fake, || unsafe { flashmla_map_indices(context.raw(), &p, std::ptr::null_mut()) });
        let m: MapIndicesParams = one.parameter(0);
        assert_eq!(
            (one.grid, m.blocks, m.cache_seqlens, m.cache_seqlens_stride),
            ([1 << 20, 1, 1], 6 << 20, CACHE_SEQLENS, 1)
        );
    });
}
