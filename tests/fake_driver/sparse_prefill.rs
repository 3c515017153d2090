//! What sparse prefill launches: the kernel, its geometry, the map of Q and every byte of the parameters.

use super::api::*;
use super::control::{Fake, Launch, TensorMap};
use super::process::{alone, Driver};
use flashmla::capi::sparse_prefill::*;
use flashmla::capi::types::*;
use flashmla::gpu::params::SparsePrefillParams;
use flashmla::gpu::GpuDevice;
use flashmla::problem::sparse_prefill::{Raw, SparsePrefill};
use flashmla::problem::tensor::RawTensor;
use flashmla::status::{
    FLASHMLA_ERROR_CUDA, FLASHMLA_ERROR_INVALID_SHAPE, FLASHMLA_ERROR_MISALIGNED, FLASHMLA_ERROR_NULL_POINTER,
};

type Params = flashmla_sparse_prefill_params_t;

const INDICES: u64 = BLOCK_TABLE;
const LENGTHS: u64 = CACHE_SEQLENS;
const SINKS: u64 = 0x7f90_0000_0004;
const MAX_LOGITS: u64 = 0x7fa0_0000_0004;
/// Where the parameters begin: maps of Q and of the output, and the struct.
const Q_MAP: usize = 0;
const OUT_MAP: usize = 128;
const PARAMS: usize = 256;

fn input(data: u64) -> flashmla_const_tensor_t {
    flashmla_const_tensor_t { data: data as *const _, strides: [0; 4] }
}

fn output(data: u64) -> flashmla_tensor_t {
    flashmla_tensor_t { data: data as *mut _, strides: [0; 4] }
}

/// 300 rows of 576 elements, 64 indices, every output; contiguous.
fn problem(s_q: i64, h_q: i64) -> Params {
    // SAFETY: plain data, for which all 0 is a value.
    let mut p: Params = unsafe { std::mem::zeroed() };
    p.struct_size = size_of_val(&p);
    (p.s_q, p.h_q, p.s_kv, p.d_qk, p.topk) = (s_q, h_q, 300, 576, 64);
    p.q = input(Q);
    p.kv = input(KV_CACHE);
    p.indices = input(INDICES);
    p.out = output(OUT);
    p.max_logits = output(MAX_LOGITS);
    p.lse = output(LSE);
    p
}

fn run(context: &Context, params: &Params, stream: usize) -> Outcome {
    // SAFETY: a live context and parameters; device addresses are not followed.
    outcome(unsafe { flashmla_sparse_prefill(context.raw(), params, stream as *mut _) })
}

fn query(context: &Context, params: &Params) -> Result<flashmla_kernel_info_t, Failure> {
    // SAFETY: plain data, for which all 0 is a value.
    let mut info: flashmla_kernel_info_t = unsafe { std::mem::zeroed() };
    info.struct_size = size_of_val(&info);
    // SAFETY: a live context, parameters, and room for the answer.
    outcome(unsafe { flashmla_sparse_prefill_query(context.raw(), params, &mut info) }).map(|()| info)
}

fn workspace_size(context: &Context, params: &Params) -> Result<usize, Failure> {
    let mut size = 77;
    // SAFETY: a live context, parameters, and room for the answer.
    outcome(unsafe { flashmla_sparse_prefill_workspace_size(context.raw(), params, &mut size) }).map(|()| size)
}

/// s_q, h_q, and for 132 multiprocessors: thread blocks, and the way to a block's next query.
const GRIDS: [(i64, i64, u32, i32, i32); 12] = [
    (4096, 128, 132, 66, 0),
    (4096, 64, 132, 132, 0),
    (4096, 1, 132, 132, 0),
    (4096, 65, 132, 66, 0),
    (4096, 192, 132, 44, 0),
    (4096, 320, 132, 26, 2),
    (128, 128, 132, 66, 0),
    (3, 128, 6, 3, 0),
    (1, 16, 1, 1, 0),
    (1, 1 << 20, 132, 0, 132),
    (i32::MAX as i64, 128, 132, 66, 0),
    (i32::MAX as i64, i32::MAX as i64, 132, 0, 132),
];

#[test]
fn grids() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        for (s_q, h_q, grid, step_tokens, step_blocks) in GRIDS {
            // Such sizes have no contiguous strides in 63 bits.
            let huge = s_q == h_q;
            let mut p = problem(s_q, h_q);
            if huge {
                (p.max_logits.data, p.lse.data) = (std::ptr::null_mut(), std::ptr::null_mut());
                (p.s_kv, p.topk) = (0, 0);
            }
            let info = query(&context, &p).unwrap();
            let name = format!("s_q {s_q}, h_q {h_q}");
            assert_eq!(text(&info.name), PREFILL_KERNELS[0], "{name}");
            assert_eq!((info.thread_blocks, info.cluster_size, info.partitions), (grid as i64, 1, 0), "{name}");
            assert_eq!(workspace_size(&context, &p).unwrap(), 0, "{name}");
            if huge {
                continue;
            }
            fake.forget();
            run(&context, &p, 1).unwrap();
            let [launch] = fake.launches()[..] else { panic!("{name}: not one launch") };
            assert_eq!(launch.kernel(), PREFILL_KERNELS[0], "{name}");
            assert_eq!((launch.grid, launch.block, launch.cluster), ([grid, 1, 1], [512, 1, 1], [1, 1, 1]), "{name}");
            assert_eq!((launch.shared_bytes, launch.overlaps, launch.attributes), (232448, 1, 1), "{name}");
            let p: SparsePrefillParams = launch.parameter(PARAMS);
            assert_eq!((p.step_tokens, p.step_blocks), (step_tokens, step_blocks), "{name}");
            assert_eq!((p.s_q as i64, p.h_q as i64), (s_q, h_q), "{name}");
            assert_eq!(p.head_blocks as i64, (h_q + 63) / 64, "{name}");
        }
    });
}

#[test]
fn every_parameter() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.forget();
        let contiguous = problem(7, 128);
        run(&context, &contiguous, 0).unwrap();
        let mut strided =
            Params { flags: FLASHMLA_FLAG_LSE_EMPTY_POS_INF, softmax_scale: 0.5, d_qk: 512, ..contiguous };
        strided.q.strides = [80_000, 600, 1, 0];
        // Rows past 2^32 bytes.
        strided.kv.strides = [1 << 33, 512, 1, 0];
        strided.indices.strides = [100, 64, 1, 0];
        strided.topk_length = flashmla_const_tensor_t { strides: [3, 0, 0, 0], ..input(LENGTHS) };
        strided.attn_sink = flashmla_const_tensor_t { strides: [5, 0, 0, 0], ..input(SINKS) };
        strided.out.strides = [512, 512 * 7, 1, 0];
        strided.max_logits.strides = [1, 7, 0, 0];
        strided.lse.strides = [300, 2, 0, 0];
        run(&context, &strided, 0).unwrap();
        run(&context, &Params { lse: output(0), max_logits: output(0), ..contiguous }, 0).unwrap();

        let [first, second, third] = fake.launches()[..] else { panic!("not three launches") };
        assert_eq!((first.kernel(), second.kernel()), (PREFILL_KERNELS[0], PREFILL_KERNELS[1]));
        for (launch, q_tiles) in [(&first, 3), (&second, 2)] {
            assert_eq!(launch.parameter_bytes(), PARAMS + size_of::<SparsePrefillParams>());
            for (at, address, heads, tiles) in [(Q_MAP, Q, 64, q_tiles), (OUT_MAP, OUT, 16, 4)] {
                let map: TensorMap = launch.parameter(at);
                assert_eq!((map.address, map.data_type, map.rank), (address, 9, 5));
                assert_eq!(map.tile, [64, heads, tiles, 1, 1]);
                // 128-byte swizzle, 256 bytes to L2, zeros outside.
                assert_eq!((map.interleave, map.swizzle, map.promotion, map.fill), (0, 3, 3, 0));
            }
        }
        let layout = |launch: &Launch, at| {
            let map: TensorMap = launch.parameter(at);
            (map.sizes, [map.strides[0], map.strides[1], map.strides[2]])
        };
        assert_eq!(layout(&first, Q_MAP), ([64, 128, 9, 7, 1], [1152, 128, 128 * 1152]));
        assert_eq!(layout(&first, OUT_MAP), ([64, 128, 8, 7, 1], [1024, 128, 128 * 1024]));
        assert_eq!(layout(&second, Q_MAP), ([64, 128, 8, 7, 1], [1200, 128, 160_000]));
        assert_eq!(layout(&second, OUT_MAP), ([64, 128, 8, 7, 1], [1024 * 7, 128, 1024]));

        let p: SparsePrefillParams = first.parameter(PARAMS);
        let expected = SparsePrefillParams {
            kv: KV_CACHE,
            kv_row_bytes: 1152,
            indices: INDICES,
            indices_stride: 64,
            max_logits: MAX_LOGITS,
            max_logits_strides: [128, 1],
            lse: LSE,
            lse_strides: [128, 1],
            s_q: 7,
            h_q: 128,
            s_kv: 300,
            topk: 64,
            head_blocks: 2,
            step_tokens: 7,
            scale: p.scale,
            scale_log2: p.scale_log2,
            ..Default::default()
        };
        assert_eq!(p, expected);
        assert!((p.scale * 24.0 - 1.0).abs() < 1e-6, "{}", p.scale);
        assert!((p.scale_log2 / p.scale / std::f32::consts::LOG2_E - 1.0).abs() < 1e-6, "{}", p.scale_log2);
        let p: SparsePrefillParams = second.parameter(PARAMS);
        let expected = SparsePrefillParams {
            kv_row_bytes: 1 << 34,
            indices_stride: 100,
            topk_length: LENGTHS,
            topk_length_stride: 3,
            attn_sink: SINKS,
            attn_sink_stride: 5,
            max_logits_strides: [1, 7],
            lse_strides: [300, 2],
            lse_empty_pos_inf: 1,
            scale: 0.5,
            scale_log2: 0.5 * std::f32::consts::LOG2_E,
            ..expected
        };
        assert_eq!(p, expected);
        let p: SparsePrefillParams = third.parameter(PARAMS);
        assert_eq!((p.lse, p.max_logits), (0, 0));
    });
}

#[test]
fn nothing_to_do_and_nothing_right() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.forget();
        let nothing = problem(0, 128);
        run(&context, &nothing, 0).unwrap();
        assert_eq!(query(&context, &nothing).unwrap().thread_blocks, 0);
        for (wrong, status) in [
            (Params { topk: -1, ..problem(2, 128) }, FLASHMLA_ERROR_INVALID_SHAPE),
            (Params { q: input(Q + 2), ..problem(2, 128) }, FLASHMLA_ERROR_MISALIGNED),
            (Params { out: output(0), ..problem(2, 128) }, FLASHMLA_ERROR_NULL_POINTER),
        ] {
            assert_eq!(run(&context, &wrong, 0).unwrap_err().status, status);
        }
        assert!(fake.calls().is_empty());
        // Indices without rows of KV, and rows without indices, are work: outputs must be written.
        for p in [Params { s_kv: 0, kv: input(0), ..problem(2, 128) }, Params { topk: 0, ..problem(2, 128) }] {
            fake.forget();
            run(&context, &p, 0).unwrap();
            assert_eq!(fake.launches().len(), 1);
        }
    });
}

/// From a thread without a current context: all that a run calls, and what is told where one of these fails.
#[test]
fn each_call_of_a_run() {
    // Which of the calls of that name, and the launches that went out before it.
    const CALLS: [(&str, i32, usize); 6] = [
        ("cuCtxGetCurrent", 1, 0),
        ("cuCtxPushCurrent_v2", 1, 0),
        ("cuTensorMapEncodeTiled", 1, 0),
        ("cuTensorMapEncodeTiled", 2, 0),
        ("cuLaunchKernelEx", 1, 0),
        ("cuCtxPopCurrent_v2", 1, 1),
    ];
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let p = problem(3, 16);
        fake.forget();
        run(&context, &p, 0).unwrap();
        assert_eq!(fake.calls(), CALLS.map(|(call, ..)| call));
        for (call, nth, launched) in CALLS {
            fake.forget();
            fake.fail(call, nth, 2);
            let failure = run(&context, &p, 0).unwrap_err();
            assert_eq!(failure.status, FLASHMLA_ERROR_CUDA + 2, "{call}");
            assert!(failure.message.starts_with(call), "{}", failure.message);
            assert_eq!(fake.launches().len(), launched, "{call}");
            fake.fail_no_more();
            // A context that could not be popped is still there.
            fake.make_current(0);
        }
    });
}

#[test]
fn no_host_allocation() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let device = GpuDevice::new(0).unwrap();
        let tensor = |addr| RawTensor { addr, strides: [0; 4] };
        let raw = Raw {
            s_q: 4096,
            h_q: 128,
            s_kv: 1000,
            d_qk: 576,
            topk: 2048,
            q: tensor(Q),
            kv: tensor(KV_CACHE),
            indices: tensor(INDICES),
            out: tensor(OUT),
            lse: tensor(LSE),
            ..Default::default()
        };
        let problem = SparsePrefill::check(&raw).unwrap();
        assert_eq!(super::host_allocations::allocations(|| device.sparse_prefill(&problem, 0).unwrap()), 0);
    });
}
