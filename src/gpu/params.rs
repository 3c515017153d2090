//! Parameter structs of the kernels, passed by value. `build.rs` generates their C++ twins
//! (`flashmla_params.h`) from this file, with the sizes and offsets asserted there. Allowed here:
//! plain structs with public members of type u64 (a device address in C++: `uint64_t`),
//! i64, i32, u32, f32 and arrays of these, ordered so that no padding arises.

/// `cuda/any/plan.cu`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlanParams {
    /// i32 `[b, tokens]`, strides in elements, or 0: all are `max_tokens`.
    pub lens: u64,
    pub lens_strides: [i64; 2],
    /// The same of the second index list of sparse decode.
    pub extra_lens: u64,
    pub extra_lens_strides: [i64; 2],
    /// `Border [partitions + 1]`, or of a batch-invariant plan `Start [partitions]`.
    pub borders: u64,
    /// `DealtPiece [pieces]`, of a batch-invariant plan.
    pub pieces: u64,
    /// `SplitPlan`, one more than requests are split.
    pub splits: u64,
    /// (2^64 - 1) / partitions
    pub partitions_inverse: u64,
    /// Fixed work of a request, in tiles.
    pub request_cost: i64,
    /// See `InvariantCuts`.
    pub invariant_tiles: i32,
    pub invariant_most: i32,
    /// Requests of the plan, and of those a thread's.
    pub b: i32,
    pub run: i32,
    pub partitions: i32,
    /// partitions / b
    pub partitions_each: i32,
    /// Lengths are clamped to these.
    pub max_tokens: i32,
    pub extra_max_tokens: i32,
    /// Query tokens of a request that are requests of the plan; 1 where the request is.
    pub tokens: i32,
    /// The earlier of these tokens see less.
    pub causal: i32,
    /// Whether pieces of a batch-invariant plan may change hands.
    pub hands_over: i32,
}

/// `cuda/sm90/dense_decode/`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DenseDecodeParams {
    /// i32 `[b]` and i32 `[b, max_blocks_per_seq]`, strides in elements.
    pub cache_seqlens: u64,
    pub cache_seqlens_stride: i64,
    pub block_table: u64,
    pub block_table_strides: [i64; 2],
    /// The plan; `pieces` is 0 unless it is batch-invariant.
    pub borders: u64,
    pub pieces: u64,
    pub splits: u64,
    /// Of a batch-invariant plan, or 0: a record for each thread block of all partitions but the last, of as many bytes as
    /// stated below (`cuda/sm90/dense_decode/handover.cuh`).
    pub handovers: u64,
    /// BF16 or FP16; strides of request, token, head.
    pub out: u64,
    pub out_strides: [i64; 3],
    /// FP32 or 0; strides of request, head, token.
    pub lse: u64,
    pub lse_strides: [i64; 3],
    /// FP32 `[slots, h_kv * rows, 512]` and `[slots, h_kv * rows]` (base-2 logarithms).
    pub split_out: u64,
    pub split_lse: u64,
    /// u64 `[1 + blocks of the grid]` and the number of this call: `cuda/common/rendezvous.cuh`.
    pub rendezvous: u64,
    pub call: u64,
    pub b: i32,
    pub s_q: i32,
    pub h_kv: i32,
    /// Query heads of a KV head.
    pub group: i32,
    /// s_q * group
    pub rows: i32,
    /// Thread blocks that cover the rows.
    pub row_blocks: i32,
    pub partitions: i32,
    pub page_block_size: i32,
    /// Divisions by `group` and `page_block_size`, see `Divisor`.
    pub group_magic: u32,
    pub group_shift: u32,
    pub page_magic: u32,
    pub page_shift: u32,
    /// Lengths are clamped to this.
    pub max_tokens: i32,
    /// Rows of one copy of Q: divides 64 and `group`.
    pub q_box_rows: i32,
    /// Tokens of one copy of the cache: divides 64 and `page_block_size`. In the kernel for many rows a cache that comes by
    /// groups has eight at least, another less.
    pub kv_box_tokens: i32,
    pub causal: i32,
    pub lse_empty_pos_inf: i32,
    /// softmax_scale * log2(e)
    pub scale_log2: f32,
    /// Accumulators that the workspace holds: a plan for other lengths must not lead past them.
    pub slots: i32,
    pub handover_bytes: i32,
    /// The last piece for which a batch-invariant plan has room.
    pub last_piece: i32,
}

/// `cuda/sm90/sparse_decode/`. A unit, which is a request of the plan, is a query token of a request.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SparseDecodeParams {
    /// BF16; strides of request, token, head, in elements.
    pub q: u64,
    pub q_strides: [i64; 3],
    /// Bytes; the stride between pages in bytes.
    pub kv_cache: u64,
    pub page_stride: i64,
    /// i32 `[b, s_q, topk]`, strides of request and token.
    pub indices: u64,
    pub indices_strides: [i64; 2],
    /// How many of them count: as in `PlanParams`.
    pub lens: u64,
    pub lens_strides: [i64; 2],
    /// The second cache; nothing of it is read where `extra_max_tokens` is 0.
    pub extra_kv_cache: u64,
    pub extra_page_stride: i64,
    pub extra_indices: u64,
    pub extra_indices_strides: [i64; 2],
    pub extra_lens: u64,
    pub extra_lens_strides: [i64; 2],
    /// Instead of indices, if not 0: i32 `[b, entries]`, and entry e of a unit is token e of the request. A page
    /// outside `[0, num_blocks)` reads as zeros.
    pub block_table: u64,
    pub block_table_strides: [i64; 2],
    /// FP32 `[h_q]`, or 0.
    pub attn_sink: u64,
    pub attn_sink_stride: i64,
    /// The plan; `pieces` is 0 unless it is batch-invariant.
    pub borders: u64,
    pub pieces: u64,
    pub splits: u64,
    /// BF16; strides of request, token, head.
    pub out: u64,
    pub out_strides: [i64; 3],
    /// FP32 or 0; strides of request, head, token.
    pub lse: u64,
    pub lse_strides: [i64; 3],
    /// FP32 `[slots, h_q, 512]` and `[slots, h_q]` (base-2 logarithms, which no sink has gone into). Of short pieces
    /// what `cuda/sm90/sparse_decode/short_combine.cuh` says: `[slots, rows, 512]` and `[slots, rows, 2]`, the rows being
    /// the heads rounded up to multiples of 16.
    pub split_out: u64,
    pub split_lse: u64,
    /// Of short pieces: u64 `[1 + blocks of the grid]` and the number of this call: `cuda/common/rendezvous.cuh`.
    pub rendezvous: u64,
    pub call: u64,
    /// b * s_q
    pub units: i32,
    /// s_q
    pub tokens: i32,
    pub h_q: i32,
    /// Thread blocks that cover the heads.
    pub row_blocks: i32,
    pub partitions: i32,
    /// Of short pieces: thread blocks of partitions, of which the last are missing where their partitions get nothing.
    pub blocks: i32,
    /// topk, and extra_topk: lengths are clamped to these.
    pub max_tokens: i32,
    pub extra_max_tokens: i32,
    pub causal: i32,
    pub num_blocks: i32,
    pub page_block_size: i32,
    pub extra_page_block_size: i32,
    /// An index i names a token if, as u32, it is less than this.
    pub index_limit: u32,
    pub extra_index_limit: u32,
    /// Divisions by `tokens` and the page sizes, see `Divisor`.
    pub tokens_magic: u32,
    pub tokens_shift: u32,
    pub page_magic: u32,
    pub page_shift: u32,
    pub extra_page_magic: u32,
    pub extra_page_shift: u32,
    pub lse_empty_pos_inf: i32,
    /// softmax_scale * log2(e)
    pub scale_log2: f32,
    /// Accumulators that the workspace holds: a plan for other lengths must not lead past them. 0: nothing is split.
    pub slots: i32,
    /// Units of a partition, where the host knows that none is split. (At the end: where two of the others no longer lie in
    /// eight aligned bytes, kernels spill registers.)
    pub whole_units: i32,
}

/// `cuda/any/combine.cu`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CombineParams {
    /// The plan's list of split requests.
    pub splits: u64,
    pub out: u64,
    pub out_strides: [i64; 3],
    pub lse: u64,
    pub lse_strides: [i64; 3],
    pub split_out: u64,
    pub split_lse: u64,
    /// FP32 `[h_kv * group]`, stride in elements, or 0.
    pub attn_sink: u64,
    pub attn_sink_stride: i64,
    /// Requests of the plan.
    pub b: i32,
    pub h_kv: i32,
    pub group: i32,
    /// Rows of a request of the plan and a KV head.
    pub rows: i32,
    /// Requests that the list has room for.
    pub most_splits: i32,
    pub tokens: i32,
    pub lse_empty_pos_inf: i32,
    /// As in the kernel that wrote them.
    pub slots: i32,
}

/// `cuda/any/kv_cache_append.cu`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KvCacheAppendParams {
    /// BF16 `[n, 8 * chunks]`, the stride of rows in elements.
    pub rows: u64,
    pub row_stride: i64,
    /// i32 or i64 `[n]`, the stride in elements.
    pub slots: u64,
    pub slot_stride: i64,
    /// Strides of pages, and of tokens in a page of plain rows, in bytes.
    pub kv_cache: u64,
    pub page_stride: i64,
    pub token_stride: i64,
    /// Slots of the cache.
    pub slot_limit: i64,
    pub n: i32,
    /// 16-byte pieces of a row.
    pub chunks: i32,
    pub page_block_size: i32,
    pub page_magic: u32,
    pub page_shift: u32,
    /// Slots are i64.
    pub wide_slots: i32,
    /// Scales are not rounded to powers of two.
    pub exact_scales: i32,
}

/// `cuda/any/kv_cache_gather.cu`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KvCacheGatherParams {
    /// As in `KvCacheAppendParams`.
    pub kv_cache: u64,
    pub page_stride: i64,
    pub token_stride: i64,
    /// i32 `[n]`, or 0: by ranges.
    pub indices: u64,
    pub indices_stride: i64,
    /// Tokens of the cache.
    pub index_limit: i64,
    /// i32 `[b, max_tokens / page_block_size]`, `[b + 1]`, and `[b]` or 0.
    pub block_table: u64,
    pub block_table_strides: [i64; 2],
    pub cu_seqlens: u64,
    pub cu_seqlens_stride: i64,
    pub seq_starts: u64,
    pub seq_starts_stride: i64,
    /// BF16 `[n, 8 * chunks]`, the stride of rows in elements.
    pub rows: u64,
    pub row_stride: i64,
    pub n: i32,
    pub chunks: i32,
    pub b: i32,
    /// What a block table has room for.
    pub max_tokens: i32,
    pub num_blocks: i32,
    pub page_block_size: i32,
    pub page_magic: u32,
    pub page_shift: u32,
}

/// `cuda/any/map_indices.cu`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MapIndicesParams {
    /// i32 `[b, s_q, topk]`, strides of request and token.
    pub positions: u64,
    pub positions_strides: [i64; 2],
    /// i32 `[b, max_tokens / page_block_size]`.
    pub block_table: u64,
    pub block_table_strides: [i64; 2],
    /// i32 `[b]`, or 0.
    pub cache_seqlens: u64,
    pub cache_seqlens_stride: i64,
    /// As `positions`.
    pub out: u64,
    pub out_strides: [i64; 2],
    /// Blocks of work: `row_blocks` for each of b * s_q rows.
    pub blocks: i64,
    pub row_blocks: i32,
    pub s_q: i32,
    pub topk: i32,
    pub max_tokens: i32,
    pub num_blocks: i32,
    pub page_block_size: i32,
    pub page_magic: u32,
    pub page_shift: u32,
}

/// `cuda/sm90/sparse_prefill/`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SparsePrefillParams {
    /// BF16 rows.
    pub kv: u64,
    pub kv_row_bytes: i64,
    /// i32 `[s_q, topk]`, stride of the query token in elements; the innermost is 1.
    pub indices: u64,
    pub indices_stride: i64,
    /// i32 `[s_q]` or 0.
    pub topk_length: u64,
    pub topk_length_stride: i64,
    /// FP32 `[h_q]` or 0.
    pub attn_sink: u64,
    pub attn_sink_stride: i64,
    /// FP32 or 0; strides of token and head.
    pub max_logits: u64,
    pub max_logits_strides: [i64; 2],
    pub lse: u64,
    pub lse_strides: [i64; 2],
    pub s_q: i32,
    pub h_q: i32,
    pub s_kv: i32,
    pub topk: i32,
    /// Blocks of 64 heads.
    pub head_blocks: i32,
    /// From a thread block's query token and block of heads to its next: the grid, divided by `head_blocks`.
    pub step_tokens: i32,
    pub step_blocks: i32,
    pub lse_empty_pos_inf: i32,
    pub scale: f32,
    /// scale * log2(e)
    pub scale_log2: f32,
}

/// What a kernel needs to divide by a number that the host knows (`cuda/common/divide.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divisor {
    pub magic: u32,
    pub shift: u32,
}

impl Divisor {
    /// `divisor` is at least 1 and below 2^31.
    pub fn new(divisor: u32) -> Divisor {
        let shift = 31 + (u32::BITS - (divisor - 1).leading_zeros());
        // 2^shift / divisor lies in [2^31, 2^32), rounded up it may reach neither end.
        let magic = (1u64 << shift).div_ceil(divisor as u64);
        Divisor { magic: magic as u32, shift }
    }
}

// Sizes and offsets of the C++ twins.
include!(concat!(env!("OUT_DIR"), "/params_check.rs"));
