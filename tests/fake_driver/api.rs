//! The C API as the tests call it, and problems to call it with.

use flashmla::capi::context::*;
use flashmla::capi::dense_decode::*;
use flashmla::capi::types::*;
use flashmla::capi::version::flashmla_last_error;
use flashmla::gpu::kernels;
use flashmla::gpu::params::*;
use std::ffi::{c_char, c_void};
use std::ptr;

/// A status other than success, and the message.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub status: i32,
    pub message: String,
}

pub type Outcome = Result<(), Failure>;

pub fn outcome(status: i32) -> Outcome {
    if status == 0 {
        return Ok(());
    }
    let mut text = [0u8; 1024];
    // SAFETY: writable bytes, as many as told.
    let needed = unsafe { flashmla_last_error(text.as_mut_ptr().cast::<c_char>(), text.len()) };
    Err(Failure { status, message: String::from_utf8_lossy(&text[..needed - 1]).into_owned() })
}

/// By whether the plan is batch-invariant.
pub const PLAN_KERNELS: [&str; 2] = ["flashmla_plan", "flashmla_plan_batch_invariant"];
/// Names of all kernels that a context of a GPU needs.
pub const DECODE_KERNELS: [&str; 28] = [
    "flashmla_sm90_dense_decode_bf16_576",
    "flashmla_sm90_dense_decode_bf16_512",
    "flashmla_sm90_dense_decode_fp16_576",
    "flashmla_sm90_dense_decode_fp16_512",
    "flashmla_sm90_dense_decode_few_bf16_576_16",
    "flashmla_sm90_dense_decode_few_bf16_512_16",
    "flashmla_sm90_dense_decode_few_fp16_576_16",
    "flashmla_sm90_dense_decode_few_fp16_512_16",
    "flashmla_sm90_dense_decode_few_bf16_576_32",
    "flashmla_sm90_dense_decode_few_bf16_512_32",
    "flashmla_sm90_dense_decode_few_fp16_576_32",
    "flashmla_sm90_dense_decode_few_fp16_512_32",
    "flashmla_sm90_dense_decode_few_bf16_576_64",
    "flashmla_sm90_dense_decode_few_bf16_512_64",
    "flashmla_sm90_dense_decode_few_fp16_576_64",
    "flashmla_sm90_dense_decode_few_fp16_512_64",
    "flashmla_sm90_dense_decode_bf16_576_invariant",
    "flashmla_sm90_dense_decode_bf16_512_invariant",
    "flashmla_sm90_dense_decode_fp16_576_invariant",
    "flashmla_sm90_dense_decode_fp16_512_invariant",
    "flashmla_sm90_dense_decode_few_bf16_576_16_invariant",
    "flashmla_sm90_dense_decode_few_bf16_512_16_invariant",
    "flashmla_sm90_dense_decode_few_fp16_576_16_invariant",
    "flashmla_sm90_dense_decode_few_fp16_512_16_invariant",
    "flashmla_sm90_dense_decode_few_bf16_576_32_invariant",
    "flashmla_sm90_dense_decode_few_bf16_512_32_invariant",
    "flashmla_sm90_dense_decode_few_fp16_576_32_invariant",
    "flashmla_sm90_dense_decode_few_fp16_512_32_invariant",
];
pub const PREFILL_KERNELS: [&str; 2] =
    ["flashmla_sm90_sparse_prefill_rows_576", "flashmla_sm90_sparse_prefill_rows_512"];
pub const SPARSE_KERNELS: [&str; 17] = [
    "flashmla_sm90_sparse_decode_v32",
    "flashmla_sm90_sparse_decode_v4",
    "flashmla_sm90_sparse_decode_v32_pair",
    "flashmla_sm90_sparse_decode_v4_pair",
    "flashmla_sm90_sparse_decode_v32_short",
    "flashmla_sm90_sparse_decode_v4_short",
    "flashmla_sm90_sparse_decode_v32_cluster",
    "flashmla_sm90_sparse_decode_v4_cluster",
    "flashmla_sm90_sparse_decode_v32_split",
    "flashmla_sm90_sparse_decode_v32_whole",
    "flashmla_sm90_sparse_decode_v4_whole",
    "flashmla_sm90_sparse_decode_v32_pair_whole",
    "flashmla_sm90_sparse_decode_v4_pair_whole",
    "flashmla_sm90_sparse_decode_v32_dealt",
    "flashmla_sm90_sparse_decode_v4_dealt",
    "flashmla_sm90_sparse_decode_v32_pair_dealt",
    "flashmla_sm90_sparse_decode_v4_pair_dealt",
];
/// Kernels whose clusters are counted, and by how many sizes.
pub const CLUSTER_KERNELS: usize = 2;
pub const CLUSTER_SIZES: usize = 5;
/// Those that are allowed more shared memory than a kernel has unasked.
pub const LARGE_KERNELS: usize = DECODE_KERNELS.len() + PREFILL_KERNELS.len() + SPARSE_KERNELS.len();
pub const LAYOUTS: [&str; 3] = ["plain", "v32", "v4"];
pub const KERNELS: usize = PLAN_KERNELS.len() + LARGE_KERNELS + 1 + 2 * LAYOUTS.len() + 1;
/// Fatbins of `use_fake_kernels`.
pub const FATBINS: usize = 8;

/// Gives the library kernels as the fake driver reads them. Call it before the first context.
pub fn use_fake_kernels() {
    let image = |lines: String| -> &'static [u8] { (lines + "\0").into_bytes().leak() };
    let decode = |name: &&str| format!("{name} 128 128 128 {}\n", size_of::<DenseDecodeParams>());
    let prefill = |name: &&str| format!("{name} 128 128 {}\n", size_of::<SparsePrefillParams>());
    let sparse_decode = |name: &&str| format!("{name} 128 {}\n", size_of::<SparseDecodeParams>());
    let layouts = |operation: &str, bytes: usize| -> String {
        LAYOUTS.iter().map(|layout| format!("flashmla_{operation}_{layout} {bytes}\n")).collect()
    };
    let table = [
        ("any/plan", image(PLAN_KERNELS.map(|name| format!("{name} {}\n", size_of::<PlanParams>())).concat())),
        ("sm90/dense_decode", image(DECODE_KERNELS.iter().map(decode).collect())),
        ("sm90/sparse_prefill", image(PREFILL_KERNELS.iter().map(prefill).collect())),
        ("sm90/sparse_decode", image(SPARSE_KERNELS.iter().map(sparse_decode).collect())),
        ("any/combine", image(format!("flashmla_combine {}\n", size_of::<CombineParams>()))),
        ("any/kv_cache_append", image(layouts("kv_cache_append", size_of::<KvCacheAppendParams>()))),
        ("any/kv_cache_gather", image(layouts("kv_cache_gather", size_of::<KvCacheGatherParams>()))),
        ("any/map_indices", image(format!("flashmla_map_indices {}\n", size_of::<MapIndicesParams>()))),
    ];
    assert_eq!(table.len(), FATBINS);
    kernels::substitute(Vec::from(table).leak());
}

pub struct Context(*mut flashmla_context_t);

// SAFETY: the library says that any number of threads may use a context at once.
unsafe impl Sync for Context {}
unsafe impl Send for Context {}

impl Context {
    pub fn create(device: i32) -> Result<Context, Failure> {
        let mut context = ptr::null_mut();
        // SAFETY: no options, and room for one pointer.
        outcome(unsafe { flashmla_create(device, ptr::null(), &mut context) })?;
        assert!(!context.is_null());
        Ok(Context(context))
    }

    pub fn raw(&self) -> *const flashmla_context_t {
        self.0
    }

    pub fn info(&self) -> flashmla_device_info_t {
        // SAFETY: integers.
        let mut info: flashmla_device_info_t = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info);
        // SAFETY: a context and a struct of the size it says.
        outcome(unsafe { flashmla_get_device_info(self.0, &mut info) }).unwrap();
        info
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `flashmla_create`, and destroyed once.
        unsafe { flashmla_destroy(self.0) };
    }
}

/// Device addresses, none of which is ever followed.
pub const Q: u64 = 0x7f10_0000_0000;
pub const KV_CACHE: u64 = 0x7f20_0000_0000;
pub const BLOCK_TABLE: u64 = 0x7f30_0000_0004;
pub const CACHE_SEQLENS: u64 = 0x7f40_0000_0004;
pub const OUT: u64 = 0x7f50_0000_0000;
pub const LSE: u64 = 0x7f60_0000_0004;
pub const WORKSPACE: u64 = 0x7f70_0000_0000;
pub const PLAN: u64 = 0x7f80_0000_0000;

/// A dense decode: the C struct, and the plan's.
#[derive(Clone, Copy)]
pub struct DenseDecode {
    pub params: flashmla_dense_decode_params_t,
    pub plan: flashmla_plan_t,
}

impl DenseDecode {
    /// BF16, d_qk 576, one KV head, pages of 64 tokens, 64 of them a request, with an lse; contiguous.
    pub fn new(b: i64, s_q: i64, h_q: i64) -> DenseDecode {
        let input = |address: u64| flashmla_const_tensor_t { data: address as *const c_void, strides: [0; 4] };
        let output = |address: u64| flashmla_tensor_t { data: address as *mut c_void, strides: [0; 4] };
        let params = flashmla_dense_decode_params_t {
            struct_size: size_of::<flashmla_dense_decode_params_t>(),
            dtype: FLASHMLA_DTYPE_BF16,
            flags: 0,
            b,
            s_q,
            h_q,
            h_kv: 1,
            d_qk: 576,
            d_v: 512,
            num_blocks: 1000,
            page_block_size: 64,
            max_blocks_per_seq: 64,
            softmax_scale: 0.0,
            reserved: 0,
            q: input(Q),
            kv_cache: input(KV_CACHE),
            block_table: input(BLOCK_TABLE),
            cache_seqlens: input(CACHE_SEQLENS),
            out: output(OUT),
            lse: output(LSE),
            workspace: WORKSPACE as *mut c_void,
            workspace_size: 1 << 40,
            plan: ptr::null_mut(),
            kv_layout: FLASHMLA_LAYOUT_PLAIN,
            reserved2: 0,
        };
        let plan = flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: PLAN as *mut c_void,
            size: 1 << 40,
            fingerprint: 0,
        };
        DenseDecode { params, plan }
    }

    /// With some members changed.
    pub fn with(mut self, change: impl FnOnce(&mut flashmla_dense_decode_params_t)) -> DenseDecode {
        change(&mut self.params);
        self
    }

    pub fn workspace_size(&mut self, context: &Context) -> usize {
        let mut size = usize::MAX;
        // SAFETY: a context, a struct of the size it says, and room for one integer.
        outcome(unsafe { flashmla_dense_decode_workspace_size(context.0, &self.params, &mut size) }).unwrap();
        size
    }

    pub fn kernel_info(&mut self, context: &Context) -> flashmla_kernel_info_t {
        // SAFETY: integers.
        let mut info: flashmla_kernel_info_t = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info);
        // SAFETY: a context, and structs of the sizes they say.
        outcome(unsafe { flashmla_dense_decode_query(context.0, &self.params, &mut info) }).unwrap();
        info
    }

    pub fn plan(&mut self, context: &Context, stream: usize) -> Outcome {
        self.params.plan = &mut self.plan;
        // SAFETY: a context and a struct of the size it says; the driver runs nothing.
        outcome(unsafe { flashmla_dense_decode_plan(context.0, &self.params, stream as cudaStream_t) })
    }

    pub fn run(&mut self, context: &Context, stream: usize) -> Outcome {
        self.params.plan = &mut self.plan;
        // SAFETY: as above.
        outcome(unsafe { flashmla_dense_decode(context.0, &self.params, stream as cudaStream_t) })
    }
}

/// The text of a NUL-terminated array.
pub fn text(chars: &[c_char]) -> String {
    chars.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect()
}
