//! Sparse decode, and dense decode over FP8 pages: what plan and run launch, and every byte of the parameters.

use super::api::*;
use super::control::{Fake, Launch, TensorMap};
use super::process::{alone, Driver};
use flashmla::capi::sparse_decode::*;
use flashmla::capi::types::*;
use flashmla::gpu::params::*;
use std::ffi::c_void;

const INDICES: u64 = 0x7f90_0000_0004;
const TOPK_LENGTH: u64 = 0x7fa0_0000_0004;
const EXTRA_CACHE: u64 = 0x7fb0_0000_0000;
const EXTRA_INDICES: u64 = 0x7fc0_0000_0004;
const EXTRA_LENGTH: u64 = 0x7fd0_0000_0004;
const SINK: u64 = 0x7fe0_0000_0004;

struct Call {
    params: flashmla_sparse_decode_params_t,
    plan: flashmla_plan_t,
}

fn input(address: u64) -> flashmla_const_tensor_t {
    flashmla_const_tensor_t { data: address as *const c_void, strides: [0; 4] }
}

impl Call {
    /// V32, 2048 indices into 1000 pages of 64, without lengths, sinks and a second cache; contiguous.
    fn new(b: i64, s_q: i64, h_q: i64) -> Call {
        // SAFETY: plain data, for which all 0 is a value.
        let mut params: flashmla_sparse_decode_params_t = unsafe { std::mem::zeroed() };
        params.struct_size = size_of_val(&params);
        params.layout = FLASHMLA_LAYOUT_V32;
        (params.b, params.s_q, params.h_q, params.d_qk) = (b, s_q, h_q, 576);
        (params.num_blocks, params.page_block_size, params.topk) = (1000, 64, 2048);
        params.q = input(Q);
        params.kv_cache = input(KV_CACHE);
        params.indices = input(INDICES);
        params.out = flashmla_tensor_t { data: OUT as *mut c_void, strides: [0; 4] };
        params.lse = flashmla_tensor_t { data: LSE as *mut c_void, strides: [0; 4] };
        params.workspace = WORKSPACE as *mut c_void;
        params.workspace_size = 1 << 40;
        let plan = flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: PLAN as *mut c_void,
            size: 1 << 40,
            fingerprint: 0,
        };
        Call { params, plan }
    }

    fn run(&mut self, context: &Context) -> Outcome {
        self.params.plan = &mut self.plan;
        // SAFETY: a context and a struct of the size it says; the driver runs nothing.
        unsafe {
            outcome(flashmla_sparse_decode_plan(context.raw(), &self.params, std::ptr::null_mut()))?;
            outcome(flashmla_sparse_decode(context.raw(), &self.params, std::ptr::null_mut()))
        }
    }
}

fn launched(fake: &Fake, context: &Context, mut call: Call) -> Vec<Launch> {
    fake.forget();
    call.run(context).unwrap();
    fake.launches()
}

#[test]
fn launches_of_sparse_decode() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();

        let [plan, decode] = launched(&fake, &context, Call::new(1, 2, 128))[..] else { panic!("not two") };
        // 132 multiprocessors, two row blocks.
        let (splits, pieces) = (PLAN + 1280, PLAN + 1536);
        assert_eq!((plan.kernel(), plan.grid, plan.block), ("flashmla_plan", [1, 1, 1], [96, 1, 1]));
        assert_eq!(
            plan.parameter::<PlanParams>(0),
            PlanParams {
                borders: PLAN,
                pieces,
                splits,
                partitions_inverse: u64::MAX / 66,
                b: 2,
                run: 1,
                partitions: 66,
                partitions_each: 33,
                request_cost: 4,
                invariant_tiles: 32,
                invariant_most: 16,
                max_tokens: 2048,
                tokens: 2,
                ..Default::default()
            }
        );
        // A cluster for each query token and block of heads, and one that runs ahead.
        assert_eq!((decode.kernel(), decode.grid, decode.cluster), (SPARSE_KERNELS[6], [80, 1, 1], [16, 1, 1]));
        assert_eq!((decode.block, decode.shared_bytes, decode.overlaps), ([256, 1, 1], 232448, 1));
        let q: TensorMap = decode.parameter(0);
        assert_eq!((q.address, q.sizes), (Q, [64, 128, 9, 2, 1]));
        let p: SparseDecodeParams = decode.parameter(128);
        assert_eq!(decode.parameter_bytes(), 128 + size_of::<SparseDecodeParams>());
        assert_eq!((p.q, p.q_strides), (Q, [2 * 128 * 576, 128 * 576, 576]));
        assert_eq!((p.kv_cache, p.page_stride), (KV_CACHE, 64 * 656));
        assert_eq!((p.indices, p.indices_strides), (INDICES, [4096, 2048]));
        assert_eq!((p.lens, p.extra_lens, p.attn_sink, p.block_table, p.pieces), (0, 0, 0, 0, 0));
        assert_eq!((p.max_tokens, p.extra_max_tokens, p.index_limit, p.extra_index_limit), (2048, 0, 64_000, 0));
        assert_eq!((p.units, p.tokens, p.h_q, p.row_blocks, p.partitions), (2, 2, 128, 2, 66));
        assert_eq!((p.out_strides, p.lse_strides), ([2 * 128 * 512, 128 * 512, 512], [256, 2, 1]));
        assert_eq!((p.num_blocks, p.page_block_size, p.causal, p.lse_empty_pos_inf), (1000, 64, 0, 0));
        // 65 slots behind cuts and two first pieces.
        assert_eq!((p.slots, p.split_out), (67, WORKSPACE));
        assert_eq!((p.blocks, p.split_lse), (80, WORKSPACE + 67 * 128 * 512 * 4));
        assert_eq!((p.borders, p.scale_log2), (PLAN, (1.0 / 24.0 * std::f64::consts::LOG2_E) as f32));
        // 67 x 128 x 2 numbers are 268 times 256 bytes.
        assert_eq!((p.splits, p.rendezvous), (splits, p.split_lse + 67 * 128 * 8));
        let [_, again] = launched(&fake, &context, Call::new(1, 2, 128))[..] else { panic!("not two") };
        assert_ne!(again.parameter::<SparseDecodeParams>(128).call, p.call);

        // Everything that may be left out, and V4.
        let mut call = Call::new(3, 2, 5);
        let s = &mut call.params;
        (s.layout, s.d_qk, s.flags) = (FLASHMLA_LAYOUT_V4, 512, FLASHMLA_FLAG_BATCH_INVARIANT | 2);
        (s.extra_num_blocks, s.extra_page_block_size, s.extra_topk) = (7, 2, 600);
        s.topk_length = flashmla_const_tensor_t { strides: [1, 0, 0, 0], ..input(TOPK_LENGTH) };
        s.extra_kv_cache = flashmla_const_tensor_t { strides: [1728, 1, 0, 0], ..input(EXTRA_CACHE) };
        s.extra_indices = input(EXTRA_INDICES);
        s.extra_topk_length = input(EXTRA_LENGTH);
        s.attn_sink = flashmla_const_tensor_t { strides: [3, 0, 0, 0], ..input(SINK) };
        s.lse.data = std::ptr::null_mut();
        let [plan, decode, combine] = launched(&fake, &context, call)[..] else { panic!("not three") };
        let p: PlanParams = plan.parameter(0);
        assert_eq!((p.lens, p.lens_strides, p.max_tokens), (TOPK_LENGTH, [1, 0], 2048));
        assert_eq!((p.extra_lens, p.extra_lens_strides, p.extra_max_tokens), (EXTRA_LENGTH, [2, 1], 600));
        assert_eq!((p.b, p.tokens, plan.kernel(), p.partitions), (6, 2, PLAN_KERNELS[1], 132));
        assert_eq!((decode.kernel(), decode.block), (SPARSE_KERNELS[14], [384, 1, 1]));
        let d: SparseDecodeParams = decode.parameter(128);
        assert_eq!((d.extra_kv_cache, d.extra_page_stride), (EXTRA_CACHE, 1728));
        assert_eq!((d.extra_indices, d.extra_indices_strides, d.extra_index_limit), (EXTRA_INDICES, [1200, 600], 14));
        assert_eq!((d.attn_sink, d.attn_sink_stride, d.lse, d.lse_empty_pos_inf), (SINK, 3, 0, 1));
        assert_eq!((d.lens, d.extra_lens, d.extra_page_block_size), (TOPK_LENGTH, EXTRA_LENGTH, 2));
        // 42 tiles: pieces of 32 and 10.
        assert_eq!((d.pieces, d.splits, d.slots), (p.pieces, p.splits, 12));
        // The 5 heads have the room of 16.
        assert_eq!((decode.grid, d.split_lse), ([132, 1, 1], WORKSPACE + 12 * 16 * 2048));
        let c: CombineParams = combine.parameter(0);
        // Quarters of 5 rows of 6 query tokens.
        assert_eq!((combine.kernel(), combine.grid, combine.block), ("flashmla_combine", [120, 1, 1], [256, 1, 1]));
        assert_eq!((c.b, c.h_kv, c.group, c.rows, c.tokens, c.most_splits, c.slots), (6, 1, 5, 5, 2, 6, 12));
        assert_eq!((c.splits, c.split_lse, c.attn_sink, c.attn_sink_stride), (p.splits, d.split_lse, SINK, 3));
    });
}

/// Blocks of 64 heads work in pairs where their number is even.
#[test]
fn pairs_of_sparse_decode() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for (h_q, row_blocks, cluster) in [
            (1, 1, 1),
            (64, 1, 1),
            (65, 2, 2),
            (128, 2, 2),
            (129, 3, 1),
            (192, 3, 1),
            (193, 4, 2),
            (64 * 131, 131, 1),
            (64 * 132, 132, 2),
            (64 * 134, 134, 2),
        ] {
            // With lengths, and where the host knows that all query tokens are as long, 132 of them.
            for (layout, d_qk, first, lengths) in [
                (FLASHMLA_LAYOUT_V32, 576, 0, true),
                (FLASHMLA_LAYOUT_V4, 512, 1, true),
                (FLASHMLA_LAYOUT_V32, 576, 9, false),
                (FLASHMLA_LAYOUT_V4, 512, 10, false),
            ] {
                let mut call = Call::new(66, 2, h_q);
                (call.params.layout, call.params.d_qk) = (layout, d_qk);
                if lengths {
                    call.params.topk_length = input(TOPK_LENGTH);
                }
                // SAFETY: plain data, for which all 0 is a value.
                let mut info: flashmla_kernel_info_t = unsafe { std::mem::zeroed() };
                info.struct_size = size_of_val(&info);
                // SAFETY: a context and structs of the sizes that they say.
                outcome(unsafe { flashmla_sparse_decode_query(context.raw(), &call.params, &mut info) }).unwrap();
                let decode = &launched(&fake, &context, call)[1];
                let kernel = SPARSE_KERNELS[first + 2 * (cluster == 2) as usize];
                let blocks = row_blocks * (132 / row_blocks).max(1);
                assert_eq!((decode.kernel(), decode.cluster), (kernel, [cluster, 1, 1]), "{h_q}");
                assert_eq!((decode.grid, decode.block), ([blocks, 1, 1], [384, 1, 1]), "{h_q}");
                assert_eq!(text(&info.name), kernel, "{h_q}");
                assert_eq!((info.thread_blocks, info.cluster_size), (blocks as i64, cluster as i32), "{h_q}");
            }
        }
    });
}

/// No blocks that combine where nothing is split, and no kernels where there is nothing to do.
#[test]
fn no_more_blocks_than_needed() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut call = Call::new(64, 1, 64);
        call.params.topk = 192;
        call.params.workspace = std::ptr::null_mut();
        call.params.workspace_size = 0;
        let grids = |call| launched(&fake, &context, call).iter().map(|launch| launch.grid[0]).collect::<Vec<_>>();
        assert_eq!(grids(call), [1, 64], "three tiles are not split");
        // Equal query tokens that fill the device are not split either, as long as they are known to be equal.
        assert_eq!(grids(Call::new(64, 2, 128)), [1, 128]);
        let mut call = Call::new(64, 2, 128);
        call.params.topk_length = input(TOPK_LENGTH);
        assert_eq!(grids(call), [1, 132, 132]);
        // Halves, where they are known to be that.
        assert_eq!(grids(Call::new(64, 1, 64)), [1, 128]);
        let mut call = Call::new(64, 1, 64);
        call.params.topk_length = input(TOPK_LENGTH);
        assert_eq!(grids(call), [1, 132, 132]);
        for (b, s_q) in [(0, 2), (2, 0)] {
            assert!(launched(&fake, &context, Call::new(b, s_q, 64)).is_empty());
        }
        // One call of the driver for the map and one for each launch, beside those for the context.
        let mut call = Call::new(4, 1, 64);
        call.run(&context).unwrap();
        fake.forget();
        call.run(&context).unwrap();
        assert_eq!((fake.count("cuLaunchKernelEx"), fake.count("cuTensorMapEncodeTiled")), (2, 1));
        assert!(fake.calls().iter().all(|name| !name.contains("Alloc") && !name.contains("Synchronize")));
    });
}

/// Short pieces by way of memory: as many blocks as there are of those, if known, and others that combine: on the other
/// multiprocessors, where these are most.
#[test]
fn short_pieces_without_clusters() {
    alone(Driver::Without("cuOccupancyMaxActiveClusters"), &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let grids = |call| launched(&fake, &context, call).iter().map(|launch| launch.grid[0]).collect::<Vec<_>>();
        assert_eq!(grids(Call::new(1, 1, 64)), [1, 32 + 99 + 1]);
        assert_eq!(grids(Call::new(4, 1, 64)), [1, 64 + 132 + 1]);
        let mut call = Call::new(1, 1, 64);
        call.params.topk_length = input(TOPK_LENGTH);
        assert_eq!(grids(call), [1, 132 + 133]);
        let decode = &launched(&fake, &context, Call::new(64, 1, 64))[1];
        assert_eq!((decode.kernel(), decode.grid), (SPARSE_KERNELS[0], [132, 1, 1]));
    });
}

/// The largest clusters that all run at once, without blocks that have no tile, nor more than four; of 9 where that saves a
/// tile. Another one runs ahead, if it fits.
#[test]
fn clusters_for_short_pieces() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for (b, h_q, tiles, blocks) in [
            (1, 64, 33, 16),
            (1, 64, 64, 16),
            (1, 64, 65, 1),
            (2, 64, 32, 16),
            (7, 64, 32, 16),
            (8, 64, 32, 8),
            (8, 64, 16, 8),
            (8, 64, 17, 9),
            (4, 128, 18, 9),
            (9, 64, 18, 9),
            (10, 64, 18, 8),
            (8, 64, 19, 8),
            (8, 64, 25, 9),
            (7, 64, 18, 16),
            (15, 1, 32, 8),
            (16, 64, 32, 1),
            (3, 128, 32, 16),
            (4, 128, 32, 8),
            (20, 64, 16, 4),
            (60, 64, 8, 2),
            (66, 64, 8, 2),
            (2, 64, 10, 16),
            (1, 64, 5, 8),
            (1, 64, 4, 4),
            (1, 64, 3, 1),
        ] {
            for (layout, d_qk, i) in [(FLASHMLA_LAYOUT_V32, 576, 0), (FLASHMLA_LAYOUT_V4, 512, 1)] {
                let mut call = Call::new(b, 1, h_q);
                (call.params.layout, call.params.d_qk, call.params.topk) = (layout, d_qk, tiles * 64);
                let decode = &launched(&fake, &context, call)[1];
                let kernel = SPARSE_KERNELS[if blocks > 1 { 6 } else { 4 } + i];
                assert_eq!((decode.kernel(), decode.cluster[0]), (kernel, blocks), "{b} {h_q} {tiles}");
                if blocks > 1 {
                    let clusters = b as u32 * (h_q as u32).div_ceil(64);
                    let most = [(2, 66), (4, 30), (8, 15), (9, 9), (16, 7)].into_iter().find(|(of, _)| *of == blocks);
                    let ahead = (clusters < most.unwrap().1) as u32;
                    let grid = (clusters + ahead) * blocks;
                    assert_eq!((decode.grid[0], decode.block[0]), (grid, 256), "{b} {h_q} {tiles}");
                }
            }
        }
    });
}

/// Query tokens in halves: two blocks each, by a kernel of V32, where the host knows that there are no other pieces.
#[test]
fn halves() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for (b, h_q, topk, layout, flags, kernel) in [
            (64, 64, 2048, FLASHMLA_LAYOUT_V32, 0, 8),
            (66, 1, 576, FLASHMLA_LAYOUT_V32, 0, 8),
            (67, 64, 2048, FLASHMLA_LAYOUT_V32, 0, 0),
            (32, 64, 2048, FLASHMLA_LAYOUT_V32, 0, 0),
            (64, 64, 2048, FLASHMLA_LAYOUT_V4, 0, 1),
            (64, 64, 2048, FLASHMLA_LAYOUT_V32, FLASHMLA_FLAG_BATCH_INVARIANT, 9),
            (64, 64, 4096, FLASHMLA_LAYOUT_V32, FLASHMLA_FLAG_BATCH_INVARIANT, 13),
            (64, 128, 2048, FLASHMLA_LAYOUT_V32, 0, 11),
        ] {
            let mut call = Call::new(b, 1, h_q);
            (call.params.layout, call.params.topk, call.params.flags) = (layout, topk, flags);
            call.params.d_qk = if layout == FLASHMLA_LAYOUT_V4 { 512 } else { 576 };
            // SAFETY: plain data, for which all 0 is a value.
            let mut info: flashmla_kernel_info_t = unsafe { std::mem::zeroed() };
            info.struct_size = size_of_val(&info);
            // SAFETY: a context and structs of the sizes that they say.
            outcome(unsafe { flashmla_sparse_decode_query(context.raw(), &call.params, &mut info) }).unwrap();
            let decode = &launched(&fake, &context, call)[1];
            assert_eq!(decode.kernel(), SPARSE_KERNELS[kernel], "{b} {h_q} {topk} {flags}");
            assert_eq!((text(&info.name), info.cluster_size), (decode.kernel().into(), decode.cluster[0] as i32));
            assert_eq!(info.thread_blocks, decode.grid[0] as i64, "{b} {h_q} {topk} {flags}");
            if kernel == 8 {
                let geometry = (decode.grid, decode.block, decode.cluster);
                assert_eq!(geometry, ([2 * b as u32, 1, 1], [384, 1, 1], [2, 1, 1]), "{b} {h_q} {topk}");
            }
        }
    });
}

/// Whole query tokens, as many for each partition, where the host knows that.
#[test]
fn whole_query_tokens() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        const INVARIANT: u32 = FLASHMLA_FLAG_BATCH_INVARIANT;
        for (b, h_q, topk, flags, kernel, units, blocks) in [
            // 132 partitions, and 66 of two blocks of heads, 44 of three.
            (128, 64, 2048, 0, 9, 1, 128),
            (132, 16, 320, 0, 9, 1, 132),
            (132, 16, 256, 0, 4, 1, 132),
            (256, 64, 2048, 0, 9, 2, 128),
            (264, 64, 16384, 0, 9, 2, 132),
            // Where longer stretches would leave more of the device idle than a cut costs.
            (200, 64, 2048, 0, 0, 0, 132),
            (64, 128, 2048, 0, 11, 1, 128),
            (128, 128, 2048, 0, 11, 2, 128),
            (132, 192, 2048, 0, 9, 3, 132),
            // The most whose partitions end in 32 bits, and one more: 132 of 16268815.
            (2147483580, 1, 320, 0, 9, 16268815, 132),
            (2147483581, 1, 320, 0, 0, 0, 132),
            // By a batch-invariant plan, too, where their length does not cut them.
            (128, 64, 2048, INVARIANT, 9, 1, 128),
            (128, 128, 2048, INVARIANT, 11, 2, 128),
            (1, 128, 64, INVARIANT, 11, 1, 2),
            (200, 64, 2048, INVARIANT, 9, 2, 100),
            (128, 64, 2049, INVARIANT, 13, 0, 132),
            (128, 128, 2049, INVARIANT, 15, 0, 132),
        ] {
            for (layout, d_qk, i) in [(FLASHMLA_LAYOUT_V32, 576, 0), (FLASHMLA_LAYOUT_V4, 512, 1)] {
                let mut call = Call::new(b, 1, h_q);
                (call.params.topk, call.params.flags) = (topk, flags);
                (call.params.layout, call.params.d_qk) = (layout, d_qk);
                let launches = launched(&fake, &context, call);
                let decode = &launches[1];
                let p: SparseDecodeParams = decode.parameter(128);
                let seen = (decode.kernel(), p.whole_units, decode.grid[0]);
                assert_eq!(seen, (SPARSE_KERNELS[kernel + i], units, blocks), "{b} {h_q} {topk} {flags}");
                // Nothing to combine.
                assert!(units == 0 || (launches.len(), p.slots) == (2, 0), "{b} {h_q} {topk} {flags}");
            }
        }
    });
}

/// The kernel for short pieces where no thread block gets more than four tiles; in batch-invariant plans, where the size of
/// the batch must not decide about the bits, never.
#[test]
fn short_pieces() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let kernel = |b, h_q, topk, flags, layout| {
            let mut call = Call::new(b, 1, h_q);
            (call.params.topk, call.params.flags) = (topk, flags);
            (call.params.layout, call.params.d_qk) = layout;
            launched(&fake, &context, call)[1].kernel().to_string()
        };
        let (v32, v4) = ((FLASHMLA_LAYOUT_V32, 576), (FLASHMLA_LAYOUT_V4, 512));
        // 132 partitions: 528 tiles; 66 of two blocks of heads each.
        for (b, h_q, topk, flags, expected) in [
            (16, 64, 33 * 64, 0, 0),
            (17, 64, 33 * 64, 0, 1),
            (8, 128, 33 * 64, 0, 0),
            (8, 65, 33 * 64 + 1, 0, 1),
            (1, 1, 528 * 64, 0, 0),
            (132, 16, 4 * 64, 0, 0),
            (133, 16, 4 * 64, 0, 1),
            (1, 16, 64, FLASHMLA_FLAG_BATCH_INVARIANT, 1),
            (133, 16, 64, FLASHMLA_FLAG_BATCH_INVARIANT, 1),
            (1, 128, 2048, FLASHMLA_FLAG_BATCH_INVARIANT, 1),
        ] {
            let both = [(v32, 0), (v4, 1)].map(|(layout, i)| (kernel(b, h_q, topk, flags, layout), i));
            for (kernel, i) in both {
                // Of the others, that of pairs where there are two blocks of heads; those of batch-invariant plans here for
                // whole query tokens.
                let first = if expected == 0 { 4 } else { 2 * (h_q > 64) as usize + if flags == 0 { 0 } else { 9 } };
                assert_eq!(kernel, SPARSE_KERNELS[first + i], "{b} {h_q} {topk} {flags}");
            }
        }
    });
}

/// Dense decode over FP8 pages takes the same way, through the block table.
#[test]
fn launches_of_dense_decode_over_fp8_pages() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(5, 3, 16).with(|p| {
            p.kv_layout = FLASHMLA_LAYOUT_V32;
            p.flags = FLASHMLA_FLAG_CAUSAL;
            p.kv_cache.strides = [50_000, 1, 0, 0];
        });
        let info = problem.kernel_info(&context);
        assert_eq!((text(&info.name), info.thread_blocks), (SPARSE_KERNELS[0].into(), 132));
        problem.plan(&context, 0).unwrap();
        problem.run(&context, 0).unwrap();
        let [plan, decode, combine] = fake.launches()[..] else { panic!("not three launches") };
        let p: PlanParams = plan.parameter(0);
        assert_eq!((p.lens, p.lens_strides, p.max_tokens, p.causal), (CACHE_SEQLENS, [1, 0], 4096, 1));
        assert_eq!((p.b, p.tokens, p.extra_max_tokens, p.partitions), (15, 3, 0, 132));
        let d: SparseDecodeParams = decode.parameter(128);
        assert_eq!(decode.kernel(), SPARSE_KERNELS[0]);
        assert_eq!((d.block_table, d.block_table_strides, d.indices), (BLOCK_TABLE, [64, 1], 0));
        assert_eq!((d.kv_cache, d.page_stride, d.num_blocks, d.causal), (KV_CACHE, 50_000, 1000, 1));
        assert_eq!((d.lens, d.units, d.tokens, d.slots), (CACHE_SEQLENS, 15, 3, 131 + 15));
        let c: CombineParams = combine.parameter(0);
        assert_eq!((c.b, c.rows, c.tokens, c.splits), (15, 16, 3, p.splits));
    });
}
