//! Decode over FP8 pages on the GPU, sparse, and dense through a block table: the plan, then the attention of every piece
//! of work, then the combination of the query tokens that were split. Where pieces are short the attention kernel combines.

use super::call_number;
use super::dense_decode::{combine_blocks, Selection};
use super::driver::Handle;
use super::launch::{address, Launch};
use super::library::Loader;
use super::params::{CombineParams, Divisor, PlanParams, SparseDecodeParams};
use super::tensor_map::{TensorMap, Tiled, TILE_COLUMNS};
use super::GpuDevice;
use crate::problem::dense_decode::{self as dense, DenseDecode, Dtype};
use crate::problem::layout::Layout;
use crate::problem::sparse_decode::{Cache, Shape, SparseDecode};
use crate::problem::tensor::Tensor;
use crate::schedule::{ceil_div, Grid, Uniform, Work, BLOCK_ROWS, MIN_SPLIT_TILES};
use crate::status::Result;
use crate::workspace::{self, PlanLayout, SplitLayout, FRAGMENT_ROWS};
use std::ffi::CStr;

/// Threads of a block, as the kernels are compiled.
const DECODE_THREADS: u32 = 384;
const SHORT_THREADS: u32 = 256;
const COMBINE_THREADS: u32 = 256;
/// A thread block that gets so many tiles, or fewer, is done sooner by the kernel for short pieces.
const SHORT_TILES: i64 = 4;
/// Dynamic shared memory of the attention kernels: all that a block can have.
const SM90_SMEM_BYTES: u32 = 232448;

/// By `Kind::index`.
const DECODE: [&CStr; 17] = [
    c"flashmla_sm90_sparse_decode_v32",
    c"flashmla_sm90_sparse_decode_v4",
    c"flashmla_sm90_sparse_decode_v32_pair",
    c"flashmla_sm90_sparse_decode_v4_pair",
    c"flashmla_sm90_sparse_decode_v32_short",
    c"flashmla_sm90_sparse_decode_v4_short",
    c"flashmla_sm90_sparse_decode_v32_cluster",
    c"flashmla_sm90_sparse_decode_v4_cluster",
    c"flashmla_sm90_sparse_decode_v32_split",
    c"flashmla_sm90_sparse_decode_v32_whole",
    c"flashmla_sm90_sparse_decode_v4_whole",
    c"flashmla_sm90_sparse_decode_v32_pair_whole",
    c"flashmla_sm90_sparse_decode_v4_pair_whole",
    c"flashmla_sm90_sparse_decode_v32_dealt",
    c"flashmla_sm90_sparse_decode_v4_dealt",
    c"flashmla_sm90_sparse_decode_v32_pair_dealt",
    c"flashmla_sm90_sparse_decode_v4_pair_dealt",
];
/// The first of those for short pieces in clusters, that for units in two pieces, the first of those for whole units and the
/// first of those for batch-invariant plans.
const CLUSTER: usize = 6;
const SPLIT: usize = 8;
const WHOLE: usize = 9;
const DEALT: usize = 13;
/// Blocks that such a cluster can have, of which more than 8 must be allowed: powers of two up to `kMaxCluster` in
/// `cuda/sm90/sparse_decode/short_config.cuh`, and 9, of which there is room for 8 clusters, as there is none of 10.
const CLUSTERS: [u32; 5] = [2, 4, 8, 9, 16];

const COMBINE: &CStr = c"flashmla_combine";

/// The kernels of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A thread block works by itself.
    Single,
    /// Blocks of neighbouring heads share a query token's K; where their number is even they work in pairs (clusters), each of
    /// which converts a part of K for both.
    Pair,
    /// As `Single`, two blocks a query token (a cluster) that exchange halves of the output: V32 alone, where the host knows
    /// that there are no other pieces.
    Split,
    /// As `Single` and `Pair`, where the host knows that all query tokens have as many tiles and that none is split.
    Whole,
    WholePair,
    /// As `Single` and `Pair`, by a batch-invariant plan.
    Dealt,
    DealtPair,
    /// For short pieces.
    Short,
    /// For short pieces: a cluster of so many blocks shares out the tiles of a query token, and adds up. One more cluster may
    /// run ahead, so that the code comes to L2.
    Cluster {
        blocks: u32,
        forerunner: bool,
    },
}

impl Kind {
    fn cluster(self) -> u32 {
        match self {
            Kind::Pair | Kind::WholePair | Kind::DealtPair | Kind::Split => 2,
            Kind::Cluster { blocks, .. } => blocks,
            _ => 1,
        }
    }

    /// Of the kernel, in `DECODE`.
    fn index(self, layout: Layout) -> usize {
        let kind = match self {
            Kind::Single => 0,
            Kind::Pair => 2,
            Kind::Short => 4,
            Kind::Cluster { .. } => CLUSTER,
            Kind::Whole => WHOLE,
            Kind::WholePair => WHOLE + 2,
            Kind::Dealt => DEALT,
            Kind::DealtPair => DEALT + 2,
            Kind::Split => return SPLIT,
        };
        kind + (layout == Layout::V4) as usize
    }
}

/// Whether the pieces of a plan are short, whatever the lengths are that it is made for. Never those of a batch-invariant
/// plan: which kernel computes a query token would depend on what else is in the batch, and the bits of the kernels differ.
fn is_short(work: Work, grid: &Grid) -> bool {
    !work.batch_invariant && work.requests.saturating_mul(work.max_tiles) <= SHORT_TILES * grid.partitions
}

/// The kernels of this operation.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    decode: [Handle; DECODE.len()],
    combine: Handle,
    /// How many clusters of each size run at a time.
    clusters: [i64; CLUSTERS.len()],
}

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        let combine = loader.kernel(COMBINE, 0)?;
        let mut kernels = Kernels { decode: Default::default(), combine, clusters: [i64::MAX; CLUSTERS.len()] };
        for (kernel, name) in kernels.decode.iter_mut().zip(DECODE) {
            *kernel = loader.kernel(name, SM90_SMEM_BYTES)?;
        }
        for kernel in &kernels.decode[CLUSTER..SPLIT] {
            let clusters = loader.clusters(*kernel, CLUSTERS, SHORT_THREADS, SM90_SMEM_BYTES)?;
            for (most, clusters) in kernels.clusters.iter_mut().zip(clusters) {
                *most = clusters.min(*most);
            }
        }
        Ok(kernels)
    }

    /// `cut`: what the host knows of the plan.
    fn kind(&self, layout: Layout, work: Work, grid: &Grid, cut: Option<Uniform>) -> Kind {
        if is_short(work, grid) {
            return self.short_cluster(work, grid).unwrap_or(Kind::Short);
        }
        let whole = whole_units(cut, grid).is_some();
        if grid.row_blocks % 2 == 0 {
            return match whole {
                true => Kind::WholePair,
                false if work.batch_invariant => Kind::DealtPair,
                false => Kind::Pair,
            };
        }
        let fits = work.requests * grid.row_blocks <= self.clusters[0];
        match cut {
            Some(Uniform::Pieces(2)) if fits && layout == Layout::V32 => Kind::Split,
            _ if whole => Kind::Whole,
            _ if work.batch_invariant => Kind::Dealt,
            _ => Kind::Single,
        }
    }

    /// The largest clusters, one for each query token and block of heads, that can all run at once.
    fn short_cluster(&self, work: Work, grid: &Grid) -> Option<Kind> {
        let (clusters, tiles) = (work.requests * grid.row_blocks, work.max_tiles);
        let (blocks, most) = CLUSTERS.into_iter().zip(self.clusters).rev().find(|(blocks, most)| {
            // None without a tile, if that can be.
            clusters <= *most && i64::from(*blocks) < 2 * tiles && saves_tiles(*blocks, tiles)
        })?;
        // None with more than two turns.
        let fits = tiles >= MIN_SPLIT_TILES && tiles <= SHORT_TILES * i64::from(blocks);
        fits.then_some(Kind::Cluster { blocks, forerunner: clusters < most })
    }

    /// `equal_lengths`: the host knows the plan.
    pub(super) fn select(
        &self,
        layout: Layout,
        work: Work,
        grid: Grid,
        split: &SplitLayout,
        equal_lengths: bool,
    ) -> Selection {
        let cut = equal_lengths.then(|| known_cut(work, &grid)).flatten();
        let kind = self.kind(layout, work, &grid, cut);
        Selection {
            name: DECODE[kind.index(layout)].to_str().unwrap_or_default(),
            thread_blocks: Blocks::new(kind, work, &grid, split, cut).all(),
            cluster: kind.cluster(),
            grid,
        }
    }
}

/// Numbers of entries, on the device: `[b, tokens]` where there is a tensor.
#[derive(Clone, Copy)]
pub struct Lengths {
    pub first: Option<Tensor<2>>,
    pub extra: Option<Tensor<2>>,
}

impl GpuDevice {
    /// `lengths`: there are lengths on the device.
    pub fn sparse_decode_kernel(&self, shape: &Shape, lengths: bool) -> Selection {
        let grid = Grid::of_heads(shape.h_q, self.multiprocessors());
        let split = workspace::sparse_decode::split_layout(shape, &grid);
        let selection = self.sparse_decode.select(shape.layout, shape.into(), grid, &split, !lengths);
        Selection { thread_blocks: if shape.is_empty() { 0 } else { selection.thread_blocks }, ..selection }
    }

    /// Writes the plan for the lengths that are there when the stream gets there.
    pub fn sparse_decode_plan(&self, shape: &Shape, lens: Lengths, plan: u64, stream: u64) -> Result<()> {
        if shape.is_empty() {
            return Ok(());
        }
        let (lens_addr, lens_strides) = optional(&lens.first);
        let (extra_addr, extra_strides) = optional(&lens.extra);
        let params = PlanParams {
            lens: lens_addr,
            lens_strides,
            extra_lens: extra_addr,
            extra_lens_strides: extra_strides,
            max_tokens: shape.topk as i32,
            extra_max_tokens: shape.extra_topk() as i32,
            tokens: shape.s_q as i32,
            ..Default::default()
        };
        self.write_plan(shape.into(), &Grid::of_heads(shape.h_q, self.multiprocessors()), params, plan, stream)
    }

    /// The plan of dense decode over FP8 pages.
    pub fn dense_fp8_decode_plan(&self, shape: &dense::Shape, lens: &Tensor<1>, plan: u64, stream: u64) -> Result<()> {
        if shape.is_empty() {
            return Ok(());
        }
        let params = PlanParams {
            lens: lens.addr,
            lens_strides: [lens.strides[0], 0],
            max_tokens: shape.max_tokens() as i32,
            tokens: shape.s_q as i32,
            causal: shape.causal as i32,
            ..Default::default()
        };
        self.write_plan(shape.into(), &Grid::new(shape, self.multiprocessors()), params, plan, stream)
    }

    /// Computes a problem by a plan made for it, of whose buffer the caller has checked the size.
    pub fn sparse_decode(&self, problem: &SparseDecode, plan: u64, stream: u64) -> Result<()> {
        let shape = &problem.shape;
        if shape.is_empty() {
            return Ok(());
        }
        let grid = Grid::of_heads(shape.h_q, self.multiprocessors());
        let split = workspace::sparse_decode::split_layout(shape, &grid);
        problem.check_workspace(split.size)?;
        let mut params = common(shape.into(), &grid, &split, plan, problem.workspace);
        sparse_params(problem, &mut params);
        self.attend_pages(shape.layout, shape.into(), &grid, &split, &problem.q, params, plan, stream)
    }

    /// Dense decode over FP8 pages: every query token attends to the tokens that the block table names.
    pub fn dense_fp8_decode(&self, problem: &DenseDecode, plan: u64, stream: u64) -> Result<()> {
        let shape = &problem.shape;
        if shape.is_empty() {
            return Ok(());
        }
        let grid = Grid::new(shape, self.multiprocessors());
        let split = SplitLayout::new(shape, &grid);
        problem.check_workspace(split.size)?;
        let mut params = common(shape.into(), &grid, &split, plan, problem.workspace);
        dense_params(problem, &mut params);
        self.attend_pages(shape.layout, shape.into(), &grid, &split, &problem.q, params, plan, stream)
    }

    fn attend_pages(
        &self,
        layout: Layout,
        work: Work,
        grid: &Grid,
        split: &SplitLayout,
        q: &Tensor<4>,
        mut params: SparseDecodeParams,
        plan: u64,
        stream: u64,
    ) -> Result<()> {
        let cut = equal_lengths(&params).then(|| known_cut(work, grid)).flatten();
        let nothing_split = params.slots == 0 || matches!(cut, Some(Uniform::Whole { .. }));
        if nothing_split {
            params.slots = 0;
        }
        params.whole_units = whole_units(cut, grid).unwrap_or(0);
        let kind = self.sparse_decode.kind(layout, work, grid, cut);
        let combines = !matches!(kind, Kind::Single | Kind::Pair | Kind::Dealt | Kind::DealtPair);
        let blocks = Blocks::new(kind, work, grid, split, cut);
        params.blocks = blocks.attending as i32;
        let launch = Launch {
            kernel: self.sparse_decode.decode[kind.index(layout)],
            // At most the multiprocessors, or with one partition a 64th of the heads, and those that combine.
            grid: blocks.all() as u32,
            block: if matches!(kind, Kind::Short | Kind::Cluster { .. }) { SHORT_THREADS } else { DECODE_THREADS },
            cluster: kind.cluster(),
            shared_bytes: SM90_SMEM_BYTES,
            overlaps: true,
        };
        let stream = Handle(stream as usize);
        self.with_context(|| {
            let columns = q.shape[3];
            let q = Tiled { name: "q", tensor: q, dtype: Dtype::Bf16, axes: [2, 1, 0], columns: (0, columns) };
            // A block's heads at once; those past the last one arrive as zeros.
            let q = TensorMap::encode(self.driver, q, BLOCK_ROWS as u32, (columns / TILE_COLUMNS) as u32)?;
            // SAFETY: what the attention kernels take.
            unsafe { self.launch(&launch, stream, [address(&q), address(&params)]) }?;
            if combines || nothing_split {
                return Ok(());
            }
            let (partitions, rows) = (params.partitions as i64, params.h_q as i64);
            let launch = Launch {
                kernel: self.sparse_decode.combine,
                grid: combine_blocks(work, partitions, self.multiprocessors(), rows) as u32,
                block: COMBINE_THREADS,
                cluster: 1,
                shared_bytes: 0,
                overlaps: true,
            };
            let params = combine_params(work, &params, plan);
            // SAFETY: what the combine kernels take.
            unsafe { self.launch(&launch, stream, [address(&params)]) }
        })
    }
}

/// Blocks beyond a power of two add up nothing (`cuda/sm90/sparse_decode/short_records.cuh`): they are good for fewer tiles
/// a block alone.
fn saves_tiles(blocks: u32, tiles: i64) -> bool {
    let power = 1 << blocks.ilog2();
    power == blocks || ceil_div(tiles, blocks.into()) < ceil_div(tiles, power.into())
}

/// Query tokens of a partition, where the host knows that none is split. The kernels for that count in 32 bits to the end of
/// the last partition, which may lie behind the last query token.
fn whole_units(cut: Option<Uniform>, grid: &Grid) -> Option<i32> {
    match cut {
        Some(Uniform::Whole { each }) if each * grid.partitions <= i64::from(i32::MAX) => Some(each as i32),
        _ => None,
    }
}

/// How the plan cuts the query tokens, all of which have as many tiles. Of a batch-invariant one the host knows whether they
/// are whole (which follows from their length alone, as does the kernel then).
fn known_cut(work: Work, grid: &Grid) -> Option<Uniform> {
    match work.batch_invariant {
        true if work.max_tiles == 0 || work.invariant.count(work.max_tiles) > 1 => None,
        true => Some(Uniform::Whole { each: ceil_div(work.requests, grid.partitions) }),
        false => Some(Uniform::new(work.requests, grid.partitions, work.max_tiles, work.request_cost)),
    }
}

/// Whether all query tokens have as many tiles, as far as the host knows: where no lengths are on the device.
fn equal_lengths(p: &SparseDecodeParams) -> bool {
    p.lens == 0 && (p.extra_max_tokens == 0 || p.extra_lens == 0) && p.causal == 0
}

/// The thread blocks of a launch of the attention kernel.
struct Blocks {
    /// Blocks of heads and partitions, the former running fastest.
    attending: i64,
    /// Those that follow where pieces are short and units can be split: the ones that combine, and one that ends the
    /// rendezvous.
    combining: i64,
}

impl Blocks {
    /// `cut`: what is known of the plan.
    fn new(kind: Kind, work: Work, grid: &Grid, split: &SplitLayout, cut: Option<Uniform>) -> Blocks {
        match kind {
            Kind::Single | Kind::Pair | Kind::Dealt | Kind::DealtPair => {
                return Blocks { attending: grid.row_blocks * grid.partitions, combining: 0 };
            }
            Kind::Cluster { blocks, forerunner } => {
                let clusters = work.requests * grid.row_blocks + i64::from(forerunner);
                return Blocks { attending: clusters * i64::from(blocks), combining: 0 };
            }
            Kind::Split => return Blocks { attending: work.requests * grid.row_blocks * 2, combining: 0 },
            Kind::Whole | Kind::WholePair | Kind::Short => {}
        }
        // Blocks that get nothing cost time all the same.
        let partitions = match cut {
            Some(Uniform::Whole { each }) => ceil_div(work.requests, each),
            Some(Uniform::Pieces(pieces)) => work.requests * pieces,
            _ => grid.partitions,
        };
        let attending = grid.row_blocks * partitions;
        if split.slots == 0 || matches!(cut, Some(Uniform::Whole { .. })) {
            return Blocks { attending, combining: 0 };
        }
        // A multiprocessor that has nothing else to do can wait for the others, where most of them have not; else a
        // block gets one late.
        let idle = grid.multiprocessors - attending;
        let most = if 3 * idle >= 2 * grid.multiprocessors { idle - 1 } else { grid.multiprocessors };
        // No more than there are items for a warp, 64 a block of rows (short_combine.cuh).
        let items = work.most_splits(grid.partitions) * (split.rows / FRAGMENT_ROWS) * 64;
        Blocks { attending, combining: most.min(items) + 1 }
    }

    fn all(&self) -> i64 {
        self.attending + self.combining
    }
}

/// What follows from the plan and the workspace.
fn common(work: Work, grid: &Grid, split: &SplitLayout, plan: u64, workspace: u64) -> SparseDecodeParams {
    let layout = PlanLayout::new(work, grid.partitions);
    SparseDecodeParams {
        borders: plan + layout.borders,
        // The borders say it all in a default plan, which saves each block a read.
        pieces: if work.batch_invariant { plan + layout.pieces } else { 0 },
        splits: plan + layout.splits,
        split_out: workspace + split.out,
        split_lse: workspace + split.lse,
        rendezvous: workspace + split.rendezvous,
        call: call_number::next(),
        units: work.requests as i32,
        row_blocks: grid.row_blocks as i32,
        partitions: grid.partitions as i32,
        slots: split.slots as i32,
        ..Default::default()
    }
}

fn sparse_params(problem: &SparseDecode, params: &mut SparseDecodeParams) {
    let shape = &problem.shape;
    let Cache { kv_cache, indices, topk_length, index_limit, .. } = &problem.cache;
    params.kv_cache = kv_cache.addr;
    params.page_stride = kv_cache.strides[0];
    params.indices = indices.addr;
    params.indices_strides = [indices.strides[0], indices.strides[1]];
    (params.lens, params.lens_strides) = optional(topk_length);
    params.max_tokens = shape.topk as i32;
    params.index_limit = *index_limit as u32;
    params.extra_page_block_size = 1;
    if let Some(Cache { kv_cache, indices, topk_length, index_limit, page_block_size, topk }) = &problem.extra {
        params.extra_kv_cache = kv_cache.addr;
        params.extra_page_stride = kv_cache.strides[0];
        params.extra_indices = indices.addr;
        params.extra_indices_strides = [indices.strides[0], indices.strides[1]];
        (params.extra_lens, params.extra_lens_strides) = optional(topk_length);
        params.extra_max_tokens = *topk as i32;
        params.extra_index_limit = *index_limit as u32;
        params.extra_page_block_size = *page_block_size as i32;
    }
    if let Some(sink) = &problem.attn_sink {
        (params.attn_sink, params.attn_sink_stride) = (sink.addr, sink.strides[0]);
    }
    params.num_blocks = shape.num_blocks as i32;
    params.page_block_size = shape.page_block_size as i32;
    params.lse_empty_pos_inf = shape.lse_empty_pos_inf as i32;
    queries(params, shape.s_q, shape.h_q, problem.softmax_scale, &problem.q, &problem.out, &problem.lse);
}

fn dense_params(problem: &DenseDecode, params: &mut SparseDecodeParams) {
    let shape = &problem.shape;
    params.kv_cache = problem.fp8_cache.addr;
    params.page_stride = problem.fp8_cache.strides[0];
    params.lens = problem.cache_seqlens.addr;
    params.lens_strides = [problem.cache_seqlens.strides[0], 0];
    params.block_table = problem.block_table.addr;
    params.block_table_strides = problem.block_table.strides;
    params.max_tokens = shape.max_tokens() as i32;
    params.causal = shape.causal as i32;
    params.num_blocks = shape.num_blocks as i32;
    params.page_block_size = shape.page_block_size as i32;
    params.extra_page_block_size = 1;
    params.lse_empty_pos_inf = shape.lse_empty_pos_inf as i32;
    queries(params, shape.s_q, shape.h_q, problem.softmax_scale, &problem.q, &problem.out, &problem.lse);
}

/// What both operations say alike, and the divisors of what was set before.
fn queries(
    params: &mut SparseDecodeParams,
    s_q: i64,
    h_q: i64,
    softmax_scale: f32,
    q: &Tensor<4>,
    out: &Tensor<4>,
    lse: &Option<Tensor<3>>,
) {
    let outer = |t: &Tensor<4>| [t.strides[0], t.strides[1], t.strides[2]];
    (params.q, params.q_strides) = (q.addr, outer(q));
    (params.out, params.out_strides) = (out.addr, outer(out));
    (params.lse, params.lse_strides) = lse.map_or((0, [0; 3]), |lse| (lse.addr, lse.strides));
    (params.tokens, params.h_q) = (s_q as i32, h_q as i32);
    params.scale_log2 = (softmax_scale as f64 * std::f64::consts::LOG2_E) as f32;
    let divisor = |x: i32| {
        let Divisor { magic, shift } = Divisor::new(x as u32);
        (magic, shift)
    };
    (params.tokens_magic, params.tokens_shift) = divisor(params.tokens);
    (params.page_magic, params.page_shift) = divisor(params.page_block_size);
    (params.extra_page_magic, params.extra_page_shift) = divisor(params.extra_page_block_size);
}

fn combine_params(work: Work, p: &SparseDecodeParams, plan: u64) -> CombineParams {
    let layout = PlanLayout::new(work, p.partitions as i64);
    CombineParams {
        splits: plan + layout.splits,
        out: p.out,
        out_strides: p.out_strides,
        lse: p.lse,
        lse_strides: p.lse_strides,
        split_out: p.split_out,
        split_lse: p.split_lse,
        attn_sink: p.attn_sink,
        attn_sink_stride: p.attn_sink_stride,
        b: p.units,
        h_kv: 1,
        // The rows of a request of the plan are the heads of one token.
        group: p.h_q,
        rows: p.h_q,
        most_splits: layout.most_splits as i32,
        tokens: p.tokens,
        lse_empty_pos_inf: p.lse_empty_pos_inf,
        slots: p.slots,
    }
}

fn optional(lens: &Option<Tensor<2>>) -> (u64, [i64; 2]) {
    lens.map_or((0, [0; 2]), |lens| (lens.addr, lens.strides))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::TILE_TOKENS;

    /// The value of `constexpr int NAME = VALUE;` in a kernel's source.
    fn constant(source: &str, name: &str) -> i64 {
        let (_, rest) = source.split_once(&format!("constexpr int {name} = ")).expect(name);
        rest.split(';').next().unwrap().parse().expect(name)
    }

    #[test]
    fn launches_fit_the_kernels() {
        let config = include_str!("../../cuda/sm90/sparse_decode/config.cuh");
        assert_eq!(constant(config, "kThreads"), DECODE_THREADS as i64);
        assert_eq!(constant(config, "kHeads"), BLOCK_ROWS);
        assert_eq!(constant(config, "kTokens"), TILE_TOKENS);
        assert_eq!(constant(config, "kColumnTile"), TILE_COLUMNS);
        let combine = include_str!("../../cuda/sm90/sparse_decode/short_combine.cuh");
        assert_eq!(constant(combine, "kFragmentRows"), FRAGMENT_ROWS);
        let short = include_str!("../../cuda/sm90/sparse_decode/short_config.cuh");
        assert_eq!(constant(short, "kShortThreads"), SHORT_THREADS as i64);
        assert_eq!(constant(short, "kMaxCluster"), CLUSTERS[CLUSTERS.len() - 1] as i64);
        assert!(short.contains(&format!("sizeof(ShortShared<V32>) <= {SM90_SMEM_BYTES}")));
        // The kernel asserts its need against the same number.
        let work = include_str!("../../cuda/sm90/sparse_decode/work.cuh");
        assert!(work.contains(&format!("sizeof(Shared<V32>) <= {SM90_SMEM_BYTES}")));
    }
}
