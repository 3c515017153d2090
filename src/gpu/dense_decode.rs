//! Dense decode on the GPU: the plan, then one kernel that computes the attention of every piece of work and combines
//! the requests that were split.

use super::call_number;
use super::driver::Handle;
use super::launch::{address, Launch};
use super::library::Loader;
use super::params::{DenseDecodeParams, Divisor, PlanParams};
use super::tensor_map::{grouped, TensorMap, Tiled, GROUP_TOKENS};
use super::GpuDevice;
use crate::problem::dense_decode::{DenseDecode, Dtype, Shape, D_V};
use crate::problem::layout::Layout;
use crate::problem::tensor::Tensor;
use crate::schedule::{ceil_div, Grid, Work, BLOCK_ROWS, TILE_TOKENS};
use crate::status::Result;
use crate::workspace::{PlanLayout, SplitLayout};
use std::ffi::CStr;

/// Fewer rows than this are combined by a block for each quarter of a row, else for each row.
const COMBINE_FEW_ROWS: i64 = 48;
/// Dynamic shared memory of the attention kernels: all that a block can have.
const SM90_SMEM_BYTES: u32 = 232448;
/// Column tiles that one copy takes of whole groups of tokens, and of a whole tile in the kernels for few rows.
const KV_BOX_TILES: u32 = 4;

/// A kernel for up to so many query rows in a piece, of so many threads a block; its names by `decode_index`, for default plans
/// and for batch-invariant ones.
struct Decode {
    rows: i64,
    threads: u32,
    names: [&'static CStr; 4],
    invariant: Option<[&'static CStr; 4]>,
}

/// By rows. The last one takes any number, 64 a thread block.
const DECODE: [Decode; 4] = [
    Decode {
        rows: 16,
        threads: FEW_THREADS,
        names: [
            c"flashmla_sm90_dense_decode_few_bf16_576_16",
            c"flashmla_sm90_dense_decode_few_bf16_512_16",
            c"flashmla_sm90_dense_decode_few_fp16_576_16",
            c"flashmla_sm90_dense_decode_few_fp16_512_16",
        ],
        invariant: Some([
            c"flashmla_sm90_dense_decode_few_bf16_576_16_invariant",
            c"flashmla_sm90_dense_decode_few_bf16_512_16_invariant",
            c"flashmla_sm90_dense_decode_few_fp16_576_16_invariant",
            c"flashmla_sm90_dense_decode_few_fp16_512_16_invariant",
        ]),
    },
    Decode {
        rows: 32,
        threads: FEW_THREADS,
        names: [
            c"flashmla_sm90_dense_decode_few_bf16_576_32",
            c"flashmla_sm90_dense_decode_few_bf16_512_32",
            c"flashmla_sm90_dense_decode_few_fp16_576_32",
            c"flashmla_sm90_dense_decode_few_fp16_512_32",
        ],
        invariant: Some([
            c"flashmla_sm90_dense_decode_few_bf16_576_32_invariant",
            c"flashmla_sm90_dense_decode_few_bf16_512_32_invariant",
            c"flashmla_sm90_dense_decode_few_fp16_576_32_invariant",
            c"flashmla_sm90_dense_decode_few_fp16_512_32_invariant",
        ]),
    },
    Decode {
        rows: 64,
        threads: FEW_THREADS_64,
        names: [
            c"flashmla_sm90_dense_decode_few_bf16_576_64",
            c"flashmla_sm90_dense_decode_few_bf16_512_64",
            c"flashmla_sm90_dense_decode_few_fp16_576_64",
            c"flashmla_sm90_dense_decode_few_fp16_512_64",
        ],
        invariant: None,
    },
    Decode {
        rows: i64::MAX,
        threads: DECODE_THREADS,
        names: [
            c"flashmla_sm90_dense_decode_bf16_576",
            c"flashmla_sm90_dense_decode_bf16_512",
            c"flashmla_sm90_dense_decode_fp16_576",
            c"flashmla_sm90_dense_decode_fp16_512",
        ],
        invariant: Some([
            c"flashmla_sm90_dense_decode_bf16_576_invariant",
            c"flashmla_sm90_dense_decode_bf16_512_invariant",
            c"flashmla_sm90_dense_decode_fp16_576_invariant",
            c"flashmla_sm90_dense_decode_fp16_512_invariant",
        ]),
    },
];

/// Threads of a block, as the kernels are compiled.
const DECODE_THREADS: u32 = 384;
const FEW_THREADS: u32 = 256;
const FEW_THREADS_64: u32 = 384;
/// Rows of a warpgroup that computes, at most, in the kernels for few rows.
const FEW_ROWS: i64 = 32;

/// So few tiles of a thread block are computed sooner by the kernel whose start and end take less time, of one row block
/// and of several (cuda/NOTES.md).
const FEW_TILES_OF_ONE: i64 = 32;
const FEW_TILES: i64 = 16;

/// The kernel for a shape: in which row of `DECODE`. With few rows of a KV head (heads of its group, times query tokens) a
/// product whose M they take is mostly padding; the kernels for these have the operands swapped. The largest of them, for 64
/// rows or several such row blocks, is taken where thread blocks have few tiles however long the requests are. In
/// batch-invariant plans rows alone decide, since the bits of the two kernels differ: what takes long counts.
fn decode_rows(shape: &Shape, grid: &Grid) -> usize {
    let last = DECODE.len() - 1;
    let rows = shape.rows();
    let by_rows = DECODE.iter().position(|decode| rows <= decode.rows).unwrap_or(last);
    if by_rows < last - 1 {
        return by_rows;
    }
    if shape.batch_invariant {
        return last;
    }
    let tiles = ceil_div(shape.max_tokens(), TILE_TOKENS) * shape.b;
    // What does not fit 63 bits is not few.
    let blocks = tiles.saturating_mul(grid.row_blocks).saturating_mul(shape.h_kv);
    let few = if by_rows == last { FEW_TILES } else { FEW_TILES_OF_ONE };
    match blocks <= few * grid.multiprocessors {
        true => last - 1,
        false => last,
    }
}

fn decode_index(shape: &Shape) -> usize {
    let fp16 = match shape.dtype {
        Dtype::Bf16 => 0,
        Dtype::Fp16 => 2,
    };
    fp16 + if shape.d_qk == 576 { 0 } else { 1 }
}

fn name(shape: &Shape, grid: &Grid) -> &'static CStr {
    let decode = &DECODE[decode_rows(shape, grid)];
    let names = decode.invariant.filter(|_| shape.batch_invariant).unwrap_or(decode.names);
    names[decode_index(shape)]
}

/// The kernels of this operation, by row of `DECODE` and `decode_index`.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    decode: [[Handle; 4]; DECODE.len()],
    invariant: [[Handle; 4]; DECODE.len()],
}

impl Kernels {
    pub(super) fn load(loader: &Loader) -> Result<Kernels> {
        let mut kernels = Kernels { decode: Default::default(), invariant: Default::default() };
        for (row, decode) in DECODE.iter().enumerate() {
            for (kernel, name) in kernels.decode[row].iter_mut().zip(decode.names) {
                *kernel = loader.kernel(name, SM90_SMEM_BYTES)?;
            }
            for (kernel, name) in kernels.invariant[row].iter_mut().zip(decode.invariant.into_iter().flatten()) {
                *kernel = loader.kernel(name, SM90_SMEM_BYTES)?;
            }
        }
        Ok(kernels)
    }
}

/// The kernel that a problem gets, and its launch.
pub struct Selection {
    pub name: &'static str,
    pub grid: Grid,
    pub thread_blocks: i64,
    /// Thread blocks of a cluster.
    pub cluster: u32,
}

impl GpuDevice {
    pub fn dense_decode_kernel(&self, shape: &Shape) -> Result<Selection> {
        let grid = Grid::new(shape, self.multiprocessors());
        let split = SplitLayout::new(shape, &grid);
        let mut selection = match shape.layout {
            Layout::Plain => Selection {
                name: name(shape, &grid).to_str().unwrap_or_default(),
                thread_blocks: thread_blocks(shape, &grid) + combining_blocks(shape, &grid, &split),
                cluster: 1,
                grid,
            },
            // Its lengths are on the device.
            layout => self.sparse_decode.select(layout, shape.into(), grid, &split, false),
        };
        if shape.is_empty() {
            selection.thread_blocks = 0;
        }
        Ok(selection)
    }

    /// Writes the plan for the lengths that `lens` holds when the stream gets there.
    pub fn dense_decode_plan(&self, shape: &Shape, lens: &Tensor<1>, plan: u64, stream: u64) -> Result<()> {
        if shape.is_empty() {
            return Ok(());
        }
        let grid = Grid::new(shape, self.multiprocessors());
        let lens = PlanParams {
            lens: lens.addr,
            lens_strides: [lens.strides[0], 0],
            max_tokens: shape.max_tokens() as i32,
            tokens: 1,
            ..Default::default()
        };
        self.write_plan(shape.into(), &grid, lens, plan, stream)
    }

    /// Computes a problem by a plan made for it, of whose buffer the caller has checked the size.
    /// `grid` is that of its shape.
    pub fn dense_decode(&self, problem: &DenseDecode, grid: &Grid, plan: u64, stream: u64) -> Result<()> {
        let shape = &problem.shape;
        if shape.is_empty() {
            return Ok(());
        }
        let split = SplitLayout::new(shape, grid);
        problem.check_workspace(split.size)?;
        let stream = Handle(stream as usize);
        self.with_context(|| self.attend(problem, grid, &split, plan, stream))
    }

    fn attend(&self, problem: &DenseDecode, grid: &Grid, split: &SplitLayout, plan: u64, stream: Handle) -> Result<()> {
        let shape = &problem.shape;
        let layout = PlanLayout::new(shape, grid.partitions);
        // A copy of Q takes rows of one token, and of one warpgroup.
        let kernel = decode_rows(shape, grid);
        let few = DECODE[kernel].rows != i64::MAX;
        let q_box_rows = common_part(shape.group(), if few { FEW_ROWS } else { BLOCK_ROWS }) as u32;
        let groups = !few && grouped(&problem.kv_cache);
        // Of many rows without groups less than one.
        let box_tokens = if few || groups { TILE_TOKENS } else { GROUP_TOKENS / 2 };
        let kv_box_tokens = common_part(shape.page_block_size, box_tokens) as u32;
        let q = Tiled { name: "q", tensor: &problem.q, dtype: shape.dtype, axes: [2, 1, 0], columns: (0, shape.d_qk) };
        // Written where they stay: the launch takes their addresses.
        let (mut q_map, mut kv_map, mut rope_map) = (TensorMap::default(), TensorMap::default(), TensorMap::default());
        q_map.encode_into(self.driver, q, q_box_rows, 1)?;
        let (kv, kv_rope) = match problem.kv_cache.is_empty() {
            // No request has a token, so that nothing is copied; any map will do.
            true => (&q_map, &q_map),
            false => {
                let latent = Tiled {
                    name: "kv_cache",
                    tensor: &problem.kv_cache,
                    dtype: shape.dtype,
                    axes: [1, 2, 0],
                    columns: (0, D_V),
                };
                if groups {
                    let groups = kv_box_tokens / GROUP_TOKENS as u32;
                    kv_map.encode_groups(self.driver, &problem.kv_cache, shape.dtype, D_V, groups, KV_BOX_TILES)?;
                } else {
                    let box_tiles = if kv_box_tokens as i64 == TILE_TOKENS { KV_BOX_TILES } else { 1 };
                    kv_map.encode_into(self.driver, latent, kv_box_tokens, box_tiles)?;
                }
                let kv_rope = match shape.d_qk - D_V {
                    0 => &kv_map,
                    columns => {
                        let rope = Tiled { columns: (D_V, columns), ..latent };
                        rope_map.encode_into(self.driver, rope, kv_box_tokens, 1)?;
                        &rope_map
                    }
                };
                (&kv_map, kv_rope)
            }
        };
        let group = Divisor::new(shape.group() as u32);
        let page = Divisor::new(shape.page_block_size as u32);
        let (lse, lse_strides) = lse(problem);
        let params = DenseDecodeParams {
            cache_seqlens: problem.cache_seqlens.addr,
            cache_seqlens_stride: problem.cache_seqlens.strides[0],
            block_table: problem.block_table.addr,
            block_table_strides: problem.block_table.strides,
            borders: plan + layout.borders,
            // The borders say it all in a default plan, which saves each block a read.
            pieces: if shape.batch_invariant { plan + layout.pieces } else { 0 },
            splits: plan + layout.splits,
            handovers: if split.handover_bytes > 0 { problem.workspace + split.handovers } else { 0 },
            out: problem.out.addr,
            out_strides: outer_strides(&problem.out),
            lse,
            lse_strides,
            split_out: problem.workspace + split.out,
            split_lse: problem.workspace + split.lse,
            rendezvous: problem.workspace + split.rendezvous,
            call: call_number::next(),
            b: shape.b as i32,
            s_q: shape.s_q as i32,
            h_kv: shape.h_kv as i32,
            group: shape.group() as i32,
            rows: shape.rows() as i32,
            row_blocks: grid.row_blocks as i32,
            partitions: grid.partitions as i32,
            page_block_size: shape.page_block_size as i32,
            group_magic: group.magic,
            group_shift: group.shift,
            page_magic: page.magic,
            page_shift: page.shift,
            max_tokens: shape.max_tokens() as i32,
            q_box_rows: q_box_rows as i32,
            kv_box_tokens: kv_box_tokens as i32,
            causal: shape.causal as i32,
            lse_empty_pos_inf: shape.lse_empty_pos_inf as i32,
            scale_log2: (problem.softmax_scale as f64 * std::f64::consts::LOG2_E) as f32,
            slots: split.slots as i32,
            handover_bytes: split.handover_bytes as i32,
            last_piece: match shape.batch_invariant {
                true => (Work::from(shape).most_pieces() - 1).min(i32::MAX as i64) as i32,
                false => 0,
            },
        };
        let Kernels { decode, invariant } = &self.dense_decode;
        let kernels = if shape.batch_invariant { invariant } else { decode };
        let launch = Launch {
            kernel: kernels[kernel][decode_index(shape)],
            // Fits: a test counts.
            grid: (thread_blocks(shape, grid) + combining_blocks(shape, grid, split)) as u32,
            block: DECODE[kernel].threads,
            cluster: 1,
            shared_bytes: SM90_SMEM_BYTES,
            overlaps: true,
        };
        // SAFETY: what the attention kernels take.
        unsafe { self.launch(&launch, stream, [address(&q_map), address(kv), address(kv_rope), address(&params)]) }
    }
}

/// Row blocks, KV heads and partitions, the row block running fastest.
///
/// At most the multiprocessors, or with one partition no more than the query rows of a request, of
/// which a checked shape with a request has less than 2^31.
fn thread_blocks(shape: &Shape, grid: &Grid) -> i64 {
    grid.row_blocks * shape.h_kv * grid.partitions
}

/// The blocks that follow where requests can be split: those that combine, and one that ends the rendezvous.
fn combining_blocks(shape: &Shape, grid: &Grid, split: &SplitLayout) -> i64 {
    match split.slots {
        0 => 0,
        _ => combine_blocks(shape.into(), grid.partitions, grid.multiprocessors, shape.h_kv * shape.rows()) + 1,
    }
}

/// Blocks that combine the rows of split requests: no more than items that there can be (any/combine.cuh).
pub(super) fn combine_blocks(work: Work, partitions: i64, multiprocessors: i64, rows: i64) -> i64 {
    let items = rows * if rows < COMBINE_FEW_ROWS { 4 } else { 1 };
    multiprocessors.min(work.most_splits(partitions) * items)
}

/// Strides of request, token and head.
fn outer_strides(out: &Tensor<4>) -> [i64; 3] {
    [out.strides[0], out.strides[1], out.strides[2]]
}

fn lse(problem: &DenseDecode) -> (u64, [i64; 3]) {
    problem.lse.map_or((0, [0; 3]), |lse| (lse.addr, lse.strides))
}

/// The greatest common divisor of a size and a power of two.
fn common_part(size: i64, power: i64) -> i64 {
    1 << size.trailing_zeros().min(power.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tensor_map::TILE_COLUMNS;
    use crate::problem::dense_decode::{Raw, MAX_SIZE};
    use crate::workspace::{HANDOVER_NUMBERS, HANDOVER_WORDS};

    /// The value of `constexpr int NAME = VALUE;` in a kernel's source.
    fn constant(source: &str, name: &str) -> i64 {
        let (_, rest) = source.split_once(&format!("constexpr int {name} = ")).expect(name);
        rest.split(';').next().unwrap().parse().expect(name)
    }

    #[test]
    fn boxes_divide_rows_and_tiles() {
        for size in 1..=1000 {
            let divisor = (1..=64).rev().find(|d| size % d == 0 && 64 % d == 0).unwrap();
            assert_eq!(common_part(size, 64), divisor);
        }
    }

    #[test]
    fn launches_fit_the_kernels() {
        let config = include_str!("../../cuda/sm90/dense_decode/config.cuh");
        assert_eq!(constant(config, "kThreads"), DECODE_THREADS as i64);
        let few = include_str!("../../cuda/sm90/dense_decode_few/config.cuh");
        let group_threads = constant(few, "kGroupThreads");
        assert_eq!([2 * group_threads, 3 * group_threads], [FEW_THREADS as i64, FEW_THREADS_64 as i64]);
        assert_eq!(constant(few, "kSharedLimit"), SM90_SMEM_BYTES as i64);
        assert_eq!(constant(config, "kRows"), BLOCK_ROWS);
        assert_eq!(constant(config, "kTokens"), TILE_TOKENS);
        assert_eq!(constant(config, "kColumnTile"), TILE_COLUMNS);
        assert_eq!(constant(config, "kGroupTokens"), GROUP_TOKENS);
        let handover = include_str!("../../cuda/sm90/dense_decode/handover.cuh");
        assert_eq!(constant(handover, "kHandoverNumbers"), HANDOVER_NUMBERS as i64);
        assert_eq!(constant(handover, "kHandoverWords"), HANDOVER_WORDS as i64);
        let groups = constant(config, "kBarriersPerStage");
        assert_eq!(groups * KV_BOX_TILES as i64 * TILE_COLUMNS, D_V);
        assert_eq!(constant(include_str!("../../cuda/any/combine.cuh"), "kCombineFewRows"), COMBINE_FEW_ROWS);
        // The kernel asserts its need against the same number.
        let work = include_str!("../../cuda/sm90/dense_decode/work.cuh");
        assert!(work.contains(&format!("static_assert(kSharedBytes <= {SM90_SMEM_BYTES}")));
    }

    /// The largest sizes that pass the checks give grids that the driver takes.
    #[test]
    fn grids_fit_31_bits() {
        let sizes = [1, 2, 3, 63, 64, 65, 128, 1000, 46340, 65536, 1 << 20, 1 << 30, MAX_SIZE];
        let mut checked = 0;
        for b in sizes {
            for s_q in sizes {
                for h_kv in sizes {
                    for group in sizes {
                        for flags in [0, crate::problem::dense_decode::FLAG_BATCH_INVARIANT] {
                            let raw = Raw {
                                flags,
                                b,
                                s_q,
                                h_q: h_kv * group,
                                h_kv,
                                d_qk: 576,
                                num_blocks: 1,
                                page_block_size: 64,
                                max_blocks_per_seq: 1 << 20,
                                ..Default::default()
                            };
                            let Ok(shape) = Shape::check(&raw) else { continue };
                            let grid = Grid::new(&shape, 132);
                            let split = SplitLayout::new(&shape, &grid);
                            let blocks = thread_blocks(&shape, &grid) + combining_blocks(&shape, &grid, &split);
                            assert!((1..=MAX_SIZE).contains(&blocks), "{shape:?}");
                            // Each has a word to meet by, after the counter.
                            let words = (split.size - split.rendezvous) / 8;
                            assert!(split.slots == 0 || blocks < words as i64, "{shape:?}");
                            checked += 1;
                        }
                    }
                }
            }
        }
        assert!(checked > 500, "{checked} shapes were accepted");
    }
}
