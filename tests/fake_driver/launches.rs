//! What plan and run launch: kernels, geometry, tensor maps and every byte of the parameters.

use super::api::*;
use super::control::{Fake, Launch, TensorMap};
use super::process::{alone, Driver};
use flashmla::capi::types::*;
use flashmla::gpu::params::{DenseDecodeParams, PlanParams};
use flashmla::status::*;

type Params = flashmla::capi::dense_decode::flashmla_dense_decode_params_t;
type Change = fn(&mut Params);
type SetStride = fn(&mut Params, i64);

const FLOAT16: u32 = 6;
const BFLOAT16: u32 = 9;

/// Where the parameters of the attention kernels begin: maps of Q, of the cache's latent part, of its
/// RoPE part, and the struct.
const Q_MAP: usize = 0;
const KV_MAP: usize = 128;
const ROPE_MAP: usize = 256;
const PARAMS: usize = 384;

struct Expected {
    name: &'static str,
    problem: DenseDecode,
    kernel: &'static str,
    row_blocks: i32,
    partitions: i32,
    /// Further thread blocks, which combine, and accumulator slots; `None`: nothing can be split.
    combine: Option<(u32, u64)>,
    q_box_rows: u32,
    kv_box_tokens: u32,
}

/// The kernel of several row blocks whose thread blocks have few tiles.
const FEW_TILES: &str = "flashmla_sm90_dense_decode_few_bf16_576_64";

/// Worked out by hand for 132 multiprocessors.
fn table() -> Vec<Expected> {
    let base = Expected {
        name: "",
        problem: DenseDecode::new(128, 1, 128),
        kernel: "flashmla_sm90_dense_decode_bf16_576",
        row_blocks: 2,
        partitions: 66,
        // 65 cuts times 128 rows are more than the multiprocessors; one more block ends the rendezvous. 65 slots behind
        // cuts and 65 first pieces.
        combine: Some((133, 130)),
        q_box_rows: 64,
        kv_box_tokens: 64,
    };
    vec![
        Expected { name: "128 heads", ..base },
        Expected {
            name: "two tokens",
            problem: DenseDecode::new(128, 2, 128),
            row_blocks: 4,
            partitions: 33,
            combine: Some((133, 64)),
            ..base
        },
        Expected {
            name: "16 heads, few requests",
            problem: DenseDecode::new(5, 1, 16),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_16",
            row_blocks: 1,
            partitions: 132,
            combine: Some((133, 131 + 5)),
            q_box_rows: 16,
            ..base
        },
        Expected {
            name: "8 heads, one request",
            problem: DenseDecode::new(1, 1, 8),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_16",
            row_blocks: 1,
            partitions: 132,
            // A quarter of a row each.
            combine: Some((8 * 4 + 1, 131 + 1)),
            q_box_rows: 8,
            ..base
        },
        Expected {
            name: "48 heads, one request",
            problem: DenseDecode::new(1, 1, 48),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_64",
            row_blocks: 1,
            partitions: 132,
            // A row each.
            combine: Some((48 + 1, 131 + 1)),
            q_box_rows: 16,
            ..base
        },
        Expected {
            name: "12 heads on 3",
            problem: DenseDecode::new(128, 1, 12).with(|p| p.h_kv = 3),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_16",
            row_blocks: 1,
            partitions: 44,
            combine: Some((133, 86)),
            q_box_rows: 4,
            ..base
        },
        // The borders of the rows that decide about the kernel.
        Expected {
            name: "8 heads, two tokens",
            problem: DenseDecode::new(1, 2, 8),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_16",
            row_blocks: 1,
            partitions: 132,
            combine: Some((16 * 4 + 1, 131 + 1)),
            q_box_rows: 8,
            ..base
        },
        Expected {
            name: "17 heads",
            problem: DenseDecode::new(1, 1, 17).with(|p| p.dtype = FLASHMLA_DTYPE_FP16),
            kernel: "flashmla_sm90_dense_decode_few_fp16_576_32",
            row_blocks: 1,
            partitions: 132,
            combine: Some((17 * 4 + 1, 131 + 1)),
            q_box_rows: 1,
            ..base
        },
        Expected {
            name: "32 heads",
            problem: DenseDecode::new(1, 1, 32).with(|p| p.d_qk = 512),
            kernel: "flashmla_sm90_dense_decode_few_bf16_512_32",
            row_blocks: 1,
            partitions: 132,
            combine: Some((32 * 4 + 1, 131 + 1)),
            q_box_rows: 32,
            ..base
        },
        Expected {
            name: "33 rows",
            problem: DenseDecode::new(1, 3, 11),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_64",
            row_blocks: 1,
            partitions: 132,
            // 33 rows in quarters are as many as the multiprocessors.
            combine: Some((132 + 1, 131 + 1)),
            q_box_rows: 1,
            ..base
        },
        Expected {
            name: "65 heads",
            problem: DenseDecode::new(1, 1, 65),
            kernel: FEW_TILES,
            row_blocks: 2,
            partitions: 66,
            combine: Some((65 + 1, 65 + 1)),
            q_box_rows: 1,
            ..base
        },
        Expected {
            name: "rows that fill no block",
            problem: DenseDecode::new(7, 3, 50),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_64",
            row_blocks: 3,
            partitions: 44,
            combine: Some((133, 43 + 7)),
            q_box_rows: 2,
            ..base
        },
        Expected {
            name: "32768 tokens",
            problem: DenseDecode::new(1, 32768, 128),
            row_blocks: 65536,
            partitions: 1,
            combine: None,
            ..base
        },
        Expected {
            name: "s_q past 16 bits",
            problem: DenseDecode::new(2, 70000, 1),
            row_blocks: 1094,
            partitions: 1,
            combine: None,
            q_box_rows: 1,
            ..base
        },
        Expected { name: "batch past 16 bits", problem: DenseDecode::new(70000, 1, 128), ..base },
        Expected {
            name: "FP16",
            problem: DenseDecode::new(128, 1, 128).with(|p| p.dtype = FLASHMLA_DTYPE_FP16),
            kernel: "flashmla_sm90_dense_decode_fp16_576",
            ..base
        },
        Expected {
            name: "no RoPE",
            problem: DenseDecode::new(128, 1, 128).with(|p| p.d_qk = 512),
            kernel: "flashmla_sm90_dense_decode_bf16_512",
            ..base
        },
        Expected {
            name: "FP16, no RoPE, one row block",
            problem: DenseDecode::new(3, 1, 64).with(|p| (p.dtype, p.d_qk) = (FLASHMLA_DTYPE_FP16, 512)),
            kernel: "flashmla_sm90_dense_decode_few_fp16_512_64",
            row_blocks: 1,
            partitions: 132,
            combine: Some((133, 131 + 3)),
            // A warpgroup's rows.
            q_box_rows: 32,
            ..base
        },
        Expected { name: "page of 1", kv_box_tokens: 1, ..paged(&base, 1, 1000) },
        Expected { name: "page of 2", kv_box_tokens: 2, kernel: FEW_TILES, q_box_rows: 32, ..paged(&base, 2, 100) },
        Expected { name: "page of 16", kv_box_tokens: 16, ..paged(&base, 16, 100) },
        Expected { name: "page of 48", kv_box_tokens: 16, ..paged(&base, 48, 100) },
        Expected { name: "page of 81", kv_box_tokens: 1, ..paged(&base, 81, 100) },
        Expected { name: "page of 192", ..paged(&base, 192, 100) },
        // The most and the fewest tiles a thread block that decide about the kernel: 16 for each of 132.
        Expected {
            name: "16 tiles a block",
            kernel: FEW_TILES,
            q_box_rows: 32,
            problem: DenseDecode::new(1, 1, 128).with(|p| p.max_blocks_per_seq = 1056),
            combine: Some((128 + 1, 65 + 1)),
            ..base
        },
        Expected {
            name: "more than 16 tiles a block",
            problem: DenseDecode::new(1, 1, 128).with(|p| p.max_blocks_per_seq = 1057),
            combine: Some((128 + 1, 65 + 1)),
            ..base
        },
        // The same of one row block: 32 for each.
        Expected {
            name: "32 tiles a block",
            kernel: FEW_TILES,
            row_blocks: 1,
            partitions: 132,
            q_box_rows: 32,
            problem: DenseDecode::new(1, 1, 64).with(|p| p.max_blocks_per_seq = 4224),
            combine: Some((64 + 1, 131 + 1)),
            ..base
        },
        Expected {
            name: "more than 32 tiles a block",
            row_blocks: 1,
            partitions: 132,
            problem: DenseDecode::new(1, 1, 64).with(|p| p.max_blocks_per_seq = 4225),
            combine: Some((64 + 1, 131 + 1)),
            ..base
        },
        Expected {
            name: "more than 32 tiles a block, but 32 rows",
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_32",
            row_blocks: 1,
            partitions: 132,
            q_box_rows: 32,
            problem: DenseDecode::new(1, 1, 32).with(|p| p.max_blocks_per_seq = 4225),
            combine: Some((32 * 4 + 1, 131 + 1)),
            ..base
        },
        Expected {
            name: "few tiles a block, but batch-invariant",
            row_blocks: 1,
            partitions: 132,
            problem: DenseDecode::new(1, 1, 64)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 1024)),
            combine: Some((64 + 1, 16)),
            kernel: "flashmla_sm90_dense_decode_bf16_576_invariant",
            ..base
        },
        // Three tiles are too few to cut.
        Expected { name: "three tiles", combine: None, kernel: FEW_TILES, q_box_rows: 32, ..paged(&base, 64, 3) },
        Expected { name: "four tiles", kernel: FEW_TILES, q_box_rows: 32, ..paged(&base, 64, 4) },
        Expected {
            name: "batch-invariant",
            problem: DenseDecode::new(3, 1, 128)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 100)),
            // 64 tiles and 36: 2 pieces for each of 3 requests.
            combine: Some((133, 6)),
            kernel: "flashmla_sm90_dense_decode_bf16_576_invariant",
            ..base
        },
        Expected {
            name: "batch-invariant and short",
            problem: DenseDecode::new(3, 1, 128)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 32)),
            combine: None,
            kernel: "flashmla_sm90_dense_decode_bf16_576_invariant",
            ..base
        },
        Expected {
            name: "batch-invariant, and too short for pieces to change hands",
            problem: DenseDecode::new(3, 1, 128)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 3)),
            combine: None,
            kernel: "flashmla_sm90_dense_decode_bf16_576_invariant",
            ..base
        },
        Expected {
            name: "batch-invariant, 16 rows",
            row_blocks: 1,
            partitions: 132,
            problem: DenseDecode::new(3, 1, 16)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 100)),
            // Pieces of 32 tiles, and one of 4 and half of the one before.
            combine: Some((133, 3 * 4)),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_16_invariant",
            q_box_rows: 16,
            ..base
        },
        Expected {
            name: "batch-invariant, 32 rows",
            row_blocks: 1,
            partitions: 132,
            problem: DenseDecode::new(1, 2, 16)
                .with(|p| (p.flags, p.max_blocks_per_seq) = (FLASHMLA_FLAG_BATCH_INVARIANT, 40)),
            combine: Some((32 * 4 + 1, 2)),
            kernel: "flashmla_sm90_dense_decode_few_bf16_576_32_invariant",
            q_box_rows: 16,
            ..base
        },
    ]
}

fn paged(base: &Expected, page: i64, pages: i64) -> Expected {
    let problem = base.problem.with(|p| (p.page_block_size, p.max_blocks_per_seq) = (page, pages));
    Expected { problem, ..*base }
}

#[test]
fn table_of_shapes() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for expected in table() {
            fake.forget();
            let mut problem = expected.problem;
            problem.plan(&context, 1).unwrap();
            problem.run(&context, 1).unwrap();
            check(&fake.launches(), &expected);
            let info = problem.kernel_info(&context);
            assert_eq!(text(&info.name), expected.kernel, "{}", expected.name);
            let p = &expected.problem.params;
            let combining = expected.combine.map_or(0, |(blocks, _)| blocks as i64);
            let blocks = expected.row_blocks as i64 * p.h_kv * expected.partitions as i64 + combining;
            assert_eq!(
                (info.thread_blocks, info.cluster_size, info.partitions),
                (blocks, 1, expected.partitions),
                "{}",
                expected.name
            );
        }
    });
}

fn check(launches: &[Launch], e: &Expected) {
    let p = &e.problem.params;
    assert_eq!(launches.len(), 2, "{}", e.name);
    let [b, s_q, h_q, h_kv] = [p.b, p.s_q, p.h_q, p.h_kv].map(|n| n as i32);
    let group = h_q / h_kv;
    let rows = s_q * group;
    let max_tokens = (p.max_blocks_per_seq * p.page_block_size) as i32;
    let invariant = p.flags & FLASHMLA_FLAG_BATCH_INVARIANT != 0;
    let splits = PLAN + round_up((e.partitions as u64 + 1) * 16);
    let most_splits = if invariant { b } else { b.min(e.partitions - 1) };
    let pieces = round_up(splits + (1 + most_splits as u64) * 16);
    let (invariant_tiles, invariant_most) = if rows <= 32 { (32, 32) } else { (32 * e.row_blocks.max(2), 16) };
    let max_tiles = (max_tokens + 63) / 64;
    let most_pieces = (max_tiles as u32)
        .div_ceil((invariant_tiles as u32).max((max_tiles as u32).div_ceil(invariant_most as u32)))
        as i32;

    let plan = &launches[0];
    assert_eq!(plan.kernel(), PLAN_KERNELS[invariant as usize]);
    // A thread for each partition at least, and for two requests, or one; those that sort are not so few.
    let (run, least) = if invariant { (1, 512) } else { (2, 32) };
    let threads = (b as u32).div_ceil(run).min(1024).max(e.partitions as u32).max(least).next_multiple_of(32);
    geometry(plan, 1, threads, 0, false, e.name);
    assert_eq!(
        plan.parameter::<PlanParams>(0),
        PlanParams {
            lens: CACHE_SEQLENS,
            lens_strides: [1, 0],
            borders: PLAN,
            pieces,
            splits,
            partitions_inverse: u64::MAX / e.partitions as u64,
            b,
            run: (b as u32).div_ceil(threads) as i32,
            partitions: e.partitions,
            partitions_each: e.partitions / b,
            request_cost: if rows <= 16 {
                1
            } else if rows <= 32 {
                2
            } else {
                4
            },
            invariant_tiles,
            invariant_most,
            max_tokens,
            tokens: 1,
            hands_over: (max_tiles >= 4) as i32,
            ..Default::default()
        },
        "{}",
        e.name
    );

    let decode = &launches[1];
    assert_eq!(decode.kernel(), e.kernel, "{}", e.name);
    let (combining, slots) = e.combine.unwrap_or((0, 0));
    let grid = (e.row_blocks * h_kv * e.partitions) as u32 + combining;
    let threads = if e.kernel.contains("_few_") && !e.kernel.ends_with("_64") { 256 } else { 384 };
    geometry(decode, grid, threads, 232448, true, e.name);
    assert_eq!(decode.parameter_bytes(), PARAMS + size_of::<DenseDecodeParams>());
    let q = TensorMap {
        strides: [p.d_qk * 2, 128, p.d_qk * p.h_q * 2, p.d_qk * p.h_q * p.s_q * 2].map(|s| s as u64),
        sizes: [64, p.h_q, p.d_qk / 64, p.s_q, p.b].map(|n| n as u32),
        tile: [64, e.q_box_rows, 1, 1, 1],
        ..blank_map(Q, if p.dtype == FLASHMLA_DTYPE_BF16 { BFLOAT16 } else { FLOAT16 })
    };
    same_map(decode.parameter(Q_MAP), q, e.name);
    let token = p.d_qk * p.h_kv * 2;
    let by_box = TensorMap {
        address: KV_CACHE,
        strides: [token, 128, p.d_qk * 2, token * p.page_block_size].map(|s| s as u64),
        sizes: [64, p.page_block_size, 8, p.h_kv, p.num_blocks].map(|n| n as u32),
        // Several column tiles at once, where a copy takes all tokens of a tile.
        tile: [64, e.kv_box_tokens, if e.kv_box_tokens == 64 { 4 } else { 1 }, 1, 1],
        ..q
    };
    let latent = match !e.kernel.contains("_few_") && e.kv_box_tokens >= 8 {
        false => by_box,
        // The latent columns of all heads, by groups of eight tokens.
        true => TensorMap {
            strides: [token, 128, token * 8, token * p.page_block_size].map(|s| s as u64),
            sizes: [64, 8, ((p.h_kv - 1) * p.d_qk + 512) / 64, p.page_block_size / 8, p.num_blocks].map(|n| n as u32),
            tile: [64, 8, 4, e.kv_box_tokens / 8, 1],
            ..by_box
        },
    };
    same_map(decode.parameter(KV_MAP), latent, e.name);
    if p.d_qk == 576 {
        let mut rope = TensorMap { address: KV_CACHE + 512 * 2, ..by_box };
        (rope.sizes[2], rope.tile[2]) = (1, 1);
        same_map(decode.parameter(ROPE_MAP), rope, e.name);
    }

    let split_lse = WORKSPACE + round_up(slots * (s_q * h_q) as u64 * 512 * 4);
    let out_strides = [s_q as i64 * h_q as i64 * 512, h_q as i64 * 512, 512];
    let lse_strides = [h_q as i64 * s_q as i64, s_q as i64, 1];
    let rendezvous = round_up(split_lse + slots * (s_q * h_q) as u64 * 4);
    // Words of all blocks and a counter, where requests can be split; then a record for each block.
    let words = (e.row_blocks * h_kv).max(132) as u64 + 132 + 1;
    let handovers = if slots > 0 { round_up(rendezvous + (1 + words) * 8) } else { rendezvous };
    let hands_over = invariant && e.partitions > 1 && max_tiles >= 4;
    let handover_rows = [16, 32, 64][(rows > 16) as usize + (rows > 32) as usize];
    let params: DenseDecodeParams = decode.parameter(PARAMS);
    let scale_log2 = (p.d_qk as f64).powf(-0.5) * std::f64::consts::LOG2_E;
    assert!((params.scale_log2 as f64 / scale_log2 - 1.0).abs() < 1e-7, "{}: {}", e.name, params.scale_log2);
    assert_ne!(params.call, 0);
    assert_eq!(
        params,
        DenseDecodeParams {
            cache_seqlens: CACHE_SEQLENS,
            cache_seqlens_stride: 1,
            block_table: BLOCK_TABLE,
            block_table_strides: [p.max_blocks_per_seq, 1],
            borders: PLAN,
            pieces: if invariant { pieces } else { 0 },
            splits,
            handovers: if hands_over { handovers } else { 0 },
            out: OUT,
            out_strides,
            lse: LSE,
            lse_strides,
            split_out: WORKSPACE,
            split_lse,
            rendezvous,
            call: params.call,
            b,
            s_q,
            h_kv,
            group,
            rows,
            row_blocks: e.row_blocks,
            partitions: e.partitions,
            page_block_size: p.page_block_size as i32,
            group_magic: magic(group),
            group_shift: shift(group),
            page_magic: magic(p.page_block_size as i32),
            page_shift: shift(p.page_block_size as i32),
            max_tokens,
            q_box_rows: e.q_box_rows as i32,
            kv_box_tokens: e.kv_box_tokens as i32,
            causal: 0,
            lse_empty_pos_inf: 0,
            scale_log2: params.scale_log2,
            slots: slots as i32,
            handover_bytes: if hands_over { handover_rows * (512 + 64) * 4 + 256 } else { 0 },
            last_piece: if invariant { b * most_pieces - 1 } else { 0 },
        },
        "{}",
        e.name
    );
}

fn geometry(launch: &Launch, grid: u32, block: u32, shared_bytes: u32, overlaps: bool, name: &str) {
    assert_eq!(launch.grid, [grid, 1, 1], "{name}");
    assert_eq!(launch.block, [block, 1, 1], "{name}");
    assert_eq!(launch.cluster, [1, 1, 1], "{name}");
    assert_eq!(launch.shared_bytes, shared_bytes, "{name}");
    assert_eq!(launch.overlaps, overlaps as u32, "{name}");
    assert_eq!(launch.attributes, overlaps as u32, "{name}");
}

/// What all maps have in common: rank 5, not interleaved, a 128-byte swizzle, 256 bytes to L2, zeros
/// outside.
fn blank_map(address: u64, data_type: u32) -> TensorMap {
    // SAFETY: integers.
    let zero: TensorMap = unsafe { std::mem::zeroed() };
    TensorMap { address, data_type, rank: 5, interleave: 0, swizzle: 3, promotion: 3, fill: 0, ..zero }
}

/// Equal maps; a stride counts only where there is a second element.
fn same_map(mut map: TensorMap, expected: TensorMap, name: &str) {
    for i in 0..map.strides.len() {
        if map.sizes[i + 1] == 1 {
            map.strides[i] = expected.strides[i];
        }
    }
    assert_eq!(map, expected, "{name}");
}

/// ceil(log2(divisor)) + 31, and 2^shift / divisor rounded up.
fn shift(divisor: i32) -> u32 {
    31 + (divisor as f64).log2().ceil() as u32
}

fn magic(divisor: i32) -> u32 {
    ((1u128 << shift(divisor)) as f64 / divisor as f64).ceil() as u32
}

fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(256) * 256
}

#[test]
fn options_and_strides() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(3, 2, 16).with(|p| {
            p.h_kv = 2;
            p.flags = FLASHMLA_FLAG_CAUSAL | FLASHMLA_FLAG_LSE_EMPTY_POS_INF | FLASHMLA_FLAG_BATCH_INVARIANT;
            p.softmax_scale = 0.5;
            p.q.strides = [100_000, 40_000, 1000, 1];
            // Past 2^32 bytes a page, heads outside tokens.
            p.kv_cache.strides = [1 << 33, 600, 80_000, 1];
            p.block_table.strides = [2, 300, 0, 0];
            p.cache_seqlens.strides = [7, 0, 0, 0];
            p.out.strides = [512, 1536, 8192, 1];
            p.lse.strides = [1, 3, 500, 0];
        });
        problem.plan(&context, 0).unwrap();
        problem.run(&context, 0).unwrap();
        let [plan, decode] = fake.launches()[..] else { panic!("not two launches") };
        assert_eq!(plan.parameter::<PlanParams>(0).lens_strides, [7, 0]);
        assert_eq!(decode.parameter::<TensorMap>(Q_MAP).strides, [2000, 128, 80_000, 200_000]);
        assert_eq!(decode.parameter::<TensorMap>(ROPE_MAP).strides[0], 1200);
        assert_eq!(decode.parameter::<TensorMap>(KV_MAP).strides, [1200, 128, 160_000, 1 << 34]);
        let p: DenseDecodeParams = decode.parameter(PARAMS);
        assert_eq!(p.cache_seqlens_stride, 7);
        assert_eq!(p.block_table_strides, [2, 300]);
        assert_eq!(p.out_strides, [512, 1536, 8192]);
        assert_eq!(p.lse_strides, [1, 3, 500]);
        assert_eq!((p.causal, p.lse_empty_pos_inf), (1, 1));
        assert_eq!(p.scale_log2, 0.5 * std::f32::consts::LOG2_E);
    });
}

/// The kernel for many rows sees a cache by groups of eight tokens where pages have whole groups and heads lie side by side;
/// others box by box, of less than a group.
#[test]
fn caches_without_groups() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let tiles = |page, h_kv, strides: [i64; 4]| {
            let mut problem = DenseDecode::new(64, 1, 128 * h_kv).with(|p| {
                (p.h_kv, p.page_block_size, p.max_blocks_per_seq) = (h_kv, page, 1000);
                p.kv_cache.strides = strides;
            });
            problem.plan(&context, 0).unwrap();
            fake.forget();
            problem.run(&context, 0).unwrap();
            let decode = &fake.launches()[0];
            assert_eq!(decode.kernel(), "flashmla_sm90_dense_decode_bf16_576");
            let tokens = decode.parameter::<DenseDecodeParams>(PARAMS).kv_box_tokens;
            (tokens, decode.parameter::<TensorMap>(KV_MAP).tile)
        };
        for (page, groups) in [(64, 8), (128, 8), (32, 4), (24, 1), (8, 1)] {
            assert_eq!(tiles(page, 1, [page * 576, 576, 8, 1]), (8 * groups as i32, [64, 8, 4, groups, 1]), "{page}");
            assert_eq!(tiles(page, 2, [page * 1152, 1152, 576, 1]).1, [64, 8, 4, groups, 1], "{page}");
        }
        // Odd pages; heads apart, and outside tokens; a token so far from the next that eight of them are too far.
        assert_eq!(tiles(20, 1, [20 * 576, 576, 576, 1]), (4, [64, 4, 1, 1, 1]));
        assert_eq!(tiles(64, 2, [64 * 1280, 1280, 640, 1]), (4, [64, 4, 1, 1, 1]));
        assert_eq!(tiles(64, 2, [64 * 1152, 576, 64 * 576, 1]), (4, [64, 4, 1, 1, 1]));
        assert_eq!(tiles(64, 1, [576, 1 << 36, 576, 1]), (4, [64, 4, 1, 1, 1]));
        assert_eq!(tiles(64, 1, [576, (1 << 36) - 8, 576, 1]), (64, [64, 8, 4, 8, 1]));
    });
}

#[test]
fn no_lse() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(3, 1, 128).with(|p| p.lse.data = std::ptr::null_mut());
        problem.plan(&context, 0).unwrap();
        problem.run(&context, 0).unwrap();
        let launches = fake.launches();
        assert_eq!(launches[1].parameter::<DenseDecodeParams>(PARAMS).lse, 0);
    });
}

/// A stride that is never used may be anything that the checks let through.
#[test]
fn strides_of_single_elements() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let context = Context::create(0).unwrap();
        for stride in [0, 8, 1 << 39, 1 << 60] {
            let mut problem = DenseDecode::new(1, 1, 1).with(|p| {
                (p.num_blocks, p.page_block_size) = (1, 1);
                p.q.strides = [stride, stride, stride, 1];
                p.kv_cache.strides = [stride, stride, stride, 1];
            });
            problem.plan(&context, 0).unwrap();
            problem.run(&context, 0).unwrap();
        }
    });
}

#[test]
fn strides_past_the_copy_engine() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let longest = (1i64 << 39) - 8;
        let cases: [(&str, SetStride); 2] = [
            ("kv_cache.strides[0]", |p, s| (p.num_blocks, p.kv_cache.strides) = (2, [s, 576, 576, 1])),
            ("q.strides[1]", |p, s| p.q.strides = [8, s, 576, 1]),
        ];
        for (name, set) in cases {
            let mut problem = DenseDecode::new(1, 2, 16).with(|p| set(p, longest));
            problem.plan(&context, 0).unwrap();
            problem.run(&context, 0).unwrap();
            fake.forget();
            set(&mut problem.params, longest + 8);
            let failure = problem.run(&context, 0).unwrap_err();
            assert_eq!(failure.status, FLASHMLA_ERROR_INVALID_STRIDE);
            assert!(failure.message.contains(&format!("{name} = {}", longest + 8)), "{}", failure.message);
            assert!(failure.message.contains(&(1u64 << 39).to_string()), "{}", failure.message);
            assert!(fake.launches().is_empty());
            assert_eq!(fake.depth(), 0);
        }
    });
}

/// Without a cache or without a block table every request is empty; its outputs are still written.
#[test]
fn no_cache() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let cases: [Change; 2] = [
            |p| (p.num_blocks, p.kv_cache.data) = (0, std::ptr::null()),
            |p| (p.max_blocks_per_seq, p.kv_cache.data, p.block_table.data) = (0, std::ptr::null(), std::ptr::null()),
        ];
        for without in cases {
            fake.forget();
            let mut problem = DenseDecode::new(3, 1, 128).with(without);
            assert_eq!(problem.workspace_size(&context), 0);
            problem.plan(&context, 0).unwrap();
            problem.run(&context, 0).unwrap();
            let [plan, decode] = fake.launches()[..] else { panic!("not two launches") };
            assert_eq!(plan.parameter::<PlanParams>(0).max_tokens, 0);
            assert_eq!(decode.parameter::<DenseDecodeParams>(PARAMS).max_tokens, 0);
            assert_eq!(decode.parameter::<TensorMap>(KV_MAP).address, Q);
        }
    });
}

#[test]
fn nothing_to_do() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.forget();
        for (b, s_q) in [(0, 1), (3, 0), (0, 0)] {
            let mut problem = DenseDecode::new(b, s_q, 128);
            assert_eq!(problem.workspace_size(&context), 0);
            problem.plan(&context, 0).unwrap();
            problem.run(&context, 0).unwrap();
            assert_eq!(problem.kernel_info(&context).thread_blocks, 0);
        }
        assert!(fake.calls().is_empty());
    });
}

/// Nothing reaches the driver where the arguments are wrong.
#[test]
fn refused_arguments() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(128, 1, 128);
        problem.plan(&context, 0).unwrap();
        fake.forget();
        // 130 slots of 128 rows: 512 columns and an lse, FP32. A counter and the words of 132 + 133 blocks.
        let needed = round_up(130 * 128 * 512 * 4 + 130 * 128 * 4 + (1 + 132 + 133) * 8) as usize;
        assert!(problem.workspace_size(&context) >= needed);
        let cases: [(i32, &str, Change); 6] = [
            (FLASHMLA_ERROR_BUFFER_TOO_SMALL, "workspace_size = 0", |p| p.workspace_size = 0),
            (FLASHMLA_ERROR_NULL_POINTER, "workspace", |p| p.workspace = std::ptr::null_mut()),
            (FLASHMLA_ERROR_MISALIGNED, "workspace", |p| p.workspace = (WORKSPACE + 128) as *mut _),
            (FLASHMLA_ERROR_NULL_POINTER, "q.data", |p| p.q.data = std::ptr::null()),
            (FLASHMLA_ERROR_MISALIGNED, "kv_cache.data", |p| p.kv_cache.data = (KV_CACHE + 8) as *const _),
            (FLASHMLA_ERROR_PLAN_MISMATCH, "fingerprint", |p| p.b = 127),
        ];
        for (status, part, change) in cases {
            let failure = problem.with(change).run(&context, 0).unwrap_err();
            assert_eq!(failure.status, status, "{}", failure.message);
            assert!(failure.message.contains(part), "{:?} does not say {part:?}", failure.message);
        }
        let failure = problem.with(|p| p.workspace_size = needed - 1).run(&context, 0).unwrap_err();
        assert!(failure.message.contains(&needed.to_string()), "{}", failure.message);
        assert!(fake.calls().is_empty());
        problem.with(|p| p.workspace_size = needed).run(&context, 0).unwrap();
    });
}

/// The device's own number of multiprocessors decides.
#[test]
fn fewer_multiprocessors() {
    alone(Driver::Whole, &[("FAKE_CUDA_MULTIPROCESSORS", "78")], || {
        use_fake_kernels();
        let context = Context::create(0).unwrap();
        let info = DenseDecode::new(128, 1, 128).kernel_info(&context);
        assert_eq!((info.thread_blocks, info.partitions), (78 + 79, 39));
    });
}
