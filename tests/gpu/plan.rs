//! The plan that the device makes is the plan of `src/schedule.rs`, integer by integer.

use crate::decode::{plan_size, zero_params};
use crate::memory::{Fence, Region};
use crate::random::Random;
use crate::session::{outcome, Session};
use flashmla::capi::dense_decode::flashmla_dense_decode_plan;
use flashmla::capi::types::*;
use flashmla::problem::dense_decode::{Dtype, Shape};
use flashmla::problem::layout::Layout;
use flashmla::schedule::{plan, tiles, Assignment, Grid};
use flashmla::workspace::PlanLayout;
use std::ffi::c_void;
use std::mem::size_of;

struct Batch {
    lens: Vec<i32>,
    /// Elements between two lengths.
    stride: i64,
    h_q: i64,
    h_kv: i64,
    s_q: i64,
    page: i64,
    columns: i64,
    invariant: bool,
}

impl Batch {
    fn shape(&self) -> Shape {
        Shape {
            dtype: Dtype::Bf16,
            causal: false,
            lse_empty_pos_inf: false,
            batch_invariant: self.invariant,
            layout: Layout::Plain,
            b: self.lens.len() as i64,
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: self.h_kv,
            d_qk: 576,
            num_blocks: 1,
            page_block_size: self.page,
            max_blocks_per_seq: self.columns,
        }
    }

    fn describe(&self) -> String {
        let Batch { stride, h_q, h_kv, s_q, page, columns, invariant, .. } = self;
        let n = self.lens.len();
        let sizes = format!("b={n} h_q={h_q} h_kv={h_kv} s_q={s_q} page={page} columns={columns} stride={stride}");
        format!("{sizes} invariant={invariant} lens begin {:?}", &self.lens[..n.min(16)])
    }
}

/// The plan as the device writes it: borders, the list of splits, pieces.
fn device_plan(session: &Session, batch: &Batch) -> Result<Vec<i32>, String> {
    let mut params = zero_params();
    params.flags = if batch.invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
    params.b = batch.lens.len() as i64;
    params.s_q = batch.s_q;
    params.h_q = batch.h_q;
    params.h_kv = batch.h_kv;
    params.d_qk = 576;
    params.num_blocks = 1;
    params.page_block_size = batch.page;
    params.max_blocks_per_seq = batch.columns;
    let stride = batch.stride as usize;
    let mut spread = vec![i32::MAX; batch.lens.len() * stride];
    for (i, len) in batch.lens.iter().enumerate() {
        spread[i * stride] = *len;
    }
    let lens = Region::with(session.place(), Fence::Guarded, &spread, 0)?;
    let size = plan_size(&session.backend.handle, &params)?;
    let memory = Region::new(session.place(), Fence::Guarded, size, 0)?;
    let mut record = flashmla_plan_t {
        struct_size: size_of::<flashmla_plan_t>(),
        data: memory.addr() as *mut c_void,
        size,
        fingerprint: 0,
    };
    params.cache_seqlens =
        flashmla_const_tensor_t { data: lens.addr() as *const c_void, strides: [batch.stride, 0, 0, 0] };
    params.plan = &mut record;
    let queue = session.queue()?;
    // SAFETY: the lengths and the plan have the sizes in the parameters.
    outcome(unsafe { flashmla_dense_decode_plan(session.backend.handle.0, &params, queue.raw()) })?;
    queue.synchronize()?;
    memory.check_guards("plan")?;
    memory.read()
}

/// Where the device's plan differs from the scheduler's.
fn compare(session: &Session, batch: &Batch) -> Result<(), String> {
    let shape = batch.shape();
    let grid = Grid::new(&shape, session.gpu().multiprocessors);
    let layout = PlanLayout::new(&shape, grid.partitions);
    let got = device_plan(session, batch)?;
    let want = plan(&shape, grid.partitions, &batch.lens);
    let borders = layout.borders as usize / 4;
    let plan_tiles = batch.lens.iter().map(|len| tiles(&shape, *len)).sum::<i64>().min(i32::MAX as i64);
    let tokens =
        |request: i32| batch.lens.get(request as usize).map_or(0, |len| (*len as i64).clamp(0, shape.max_tokens()));
    let heads: Vec<[i32; 4]> = match &want.work {
        Assignment::Stretches(borders) => {
            borders.iter().map(|at| [at.request, at.tile, tokens(at.request) as i32, plan_tiles as i32]).collect()
        }
        Assignment::Pieces(starts, _) => starts.iter().map(|at| [at.piece, at.tile, 0, plan_tiles as i32]).collect(),
    };
    for (i, head) in heads.iter().enumerate() {
        let record = &got[borders + 4 * i..][..4];
        if record != head {
            let partitions = grid.partitions;
            return Err(format!("border {i} of {partitions}: {record:?}, not {head:?}\n    {}", batch.describe()));
        }
    }
    let splits = layout.splits as usize / 4;
    if got[splits] != want.splits.len() as i32 {
        return Err(format!("{} splits, not {}\n    {}", got[splits], want.splits.len(), batch.describe()));
    }
    for (i, s) in want.splits.iter().enumerate() {
        let record = &got[splits + 4 * (i + 1)..][..4];
        let fields = [s.request, s.pieces, s.first_slot, s.rest_slot];
        if record != fields {
            return Err(format!("split {i}: {record:?}, not {s:?}\n    {}", batch.describe()));
        }
    }
    if let Assignment::Pieces(_, pieces) = &want.work {
        for (i, p) in pieces.iter().enumerate() {
            let record = &got[layout.pieces as usize / 4 + 6 * i..][..6];
            if record != [p.request, p.tiles.0, p.tiles.1, p.slot, p.next, tokens(p.request) as i32] {
                return Err(format!("piece {i}: {record:?}, not {p:?}\n    {}", batch.describe()));
            }
        }
    }
    Ok(())
}

fn check(session: &Session, batches: impl Iterator<Item = Batch>) {
    let failures: Vec<String> = batches.filter_map(|batch| compare(session, &batch).err()).collect();
    assert!(failures.is_empty(), "{} plans differ:\n{}", failures.len(), failures.join("\n"));
}

fn random_batch(random: &mut Random, b: usize) -> Batch {
    let page = random.pick(&[1, 16, 64, 61]);
    let columns = random.range(1, 4096 * 64 / page);
    let most = columns * page;
    let zeros = random.below(3) == 0;
    let power = random.pick(&[0, 1, 3, 8]);
    let mut length = || match random.below(16) {
        0 if zeros => 0,
        // Wrong lengths are clamped alike.
        1 => random.pick(&[-1, i32::MIN, i32::MAX, most.min(i32::MAX as i64) as i32]),
        _ => (most as f64 * random.unit().powi(power)) as i32,
    };
    let lens = (0..b).map(|_| length()).collect();
    let h_kv = random.pick(&[1, 1, 2, 5, 200]);
    let (group, s_q) = (random.pick(&[1, 16, 64, 100, 128]), random.pick(&[1, 2, 7]));
    // The library counts rows of queries in 31 bits.
    let (group, s_q) = if b as i64 * s_q * h_kv * group > i32::MAX as i64 { (1, 1) } else { (group, s_q) };
    Batch {
        lens,
        stride: random.pick(&[1, 3]),
        h_q: h_kv * group,
        h_kv,
        s_q,
        page,
        columns,
        invariant: random.below(2) == 0,
    }
}

#[test]
fn random_batches() {
    let session = gpu_or_skip!();
    let mut random = Random::new(1);
    check(
        &session,
        (0..600).map(|_| {
            let b = random.pick(&[1, 2, 3, 5, 17, 64, 131, 132, 133, 500, 1023, 1024, 1025, 2049]);
            random_batch(&mut random, b)
        }),
    );
}

#[test]
fn large_batches() {
    let session = gpu_or_skip!();
    let mut random = Random::new(2);
    let sizes = [11_599, 11_600, 11_601, 20_000, 65_535, 65_536, 65_537, 200_000];
    check(&session, sizes.into_iter().flat_map(|b| [b; 2]).map(|b| random_batch(&mut random, b)));
}

#[test]
fn equal_and_empty_requests() {
    let session = gpu_or_skip!();
    let batch = |lens: Vec<i32>, invariant| Batch {
        lens,
        stride: 1,
        h_q: 128,
        h_kv: 1,
        s_q: 1,
        page: 64,
        columns: 2048,
        invariant,
    };
    let lens =
        [vec![0], vec![0; 1000], vec![1; 132], vec![4096; 128], vec![131_072], vec![131_072, 0, 0], vec![0, 0, 64]];
    check(&session, lens.into_iter().flat_map(|lens| [batch(lens.clone(), false), batch(lens, true)]));
}
