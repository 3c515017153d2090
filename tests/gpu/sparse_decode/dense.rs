//! Dense decode over FP8 pages: what the block table and the lengths say is the same as indices that name those
//! tokens, and these are what the reference computes with.

use super::call::Results;
use super::check::compare;
use super::data::Data;
use super::oracle::expected;
use super::spec::{Scales, Spec};
use crate::check::{on_all_cores, Margin};
use crate::decode::{gather, input, output, plan_size, workspace_size, zero_params};
use crate::latent;
use crate::memory::{Fence, Region};
use crate::random::Random;
use crate::session::{outcome, Queue, Session};
use crate::spec::Layout as Strides;
use flashmla::capi::dense_decode::*;
use flashmla::capi::types::*;
use flashmla::problem::layout::Layout;
use std::ffi::c_void;
use std::fmt;

#[derive(Debug, Clone)]
struct Case {
    spec: Spec,
    lens: Vec<i32>,
    /// What the library is told, where that is something else.
    told: Option<Vec<i32>>,
    causal: bool,
    /// Of a hundred entries of the block table that are used, so many are no page.
    lost_pages: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let lens = self.told.as_ref().unwrap_or(&self.lens);
        write!(f, "dense causal={} lost_pages={} lens={lens:?}: {}", self.causal, self.lost_pages, self.spec)
    }
}

/// The sizes of a request's part of the cache, the block table, and the same as indices.
struct Problem {
    data: Data,
    columns: i64,
    table: Vec<i32>,
}

impl Problem {
    fn new(case: &Case) -> Problem {
        let Spec { b, s_q, page, .. } = case.spec;
        let longest = case.lens.iter().copied().max().unwrap_or(0).max(1) as i64;
        let columns = (longest + page - 1) / page;
        // One page more than requests need: of zeros, for entries that are no page.
        let pages = b * columns + 1;
        let spec = Spec { s_k: pages * page, topk: columns * page, masked: 0, ..case.spec.clone() };
        let mut data = Data::new(&spec);
        let mut random = Random::new(spec.seed + 7);
        let mut order: Vec<i32> = (0..pages as i32 - 1).collect();
        random.shuffle(&mut order);
        let wild = [-1, pages as i32, i32::MAX, i32::MIN];
        let mut table = vec![2147480000; (b * columns) as usize];
        data.cache.indices.fill(-1);
        for i in 0..b {
            let len = (case.lens[i as usize] as i64).clamp(0, columns * page);
            let mut of_entry = Vec::new();
            for k in 0..(len + page - 1) / page {
                let lost = random.below(100) < case.lost_pages;
                let at = (i * columns + k) as usize;
                table[at] = if lost { random.pick(&wild) } else { order[at] };
                of_entry.push(if lost { pages - 1 } else { order[at] as i64 });
            }
            for t in 0..s_q {
                let seen = if case.causal { (len - s_q + 1 + t).clamp(0, len) } else { len };
                for j in 0..seen {
                    let index = of_entry[(j / page) as usize] * page + j % page;
                    data.cache.indices[data.cache.indices_place.at([i, t, j])] = index as i32;
                }
            }
        }
        data.cache.refill(&spec);
        // Zeros, under scales of 1.
        let stride = data.cache.page_stride as usize;
        let zeros = &mut data.cache.bytes[(pages as usize - 1) * stride..];
        for token in 0..page as usize {
            let [codes, scales, rope] = latent::offsets(spec.layout, page as usize, token);
            zeros[codes..][..latent::groups(spec.layout).0].fill(0);
            zeros[rope..][..128].fill(0);
            match spec.layout {
                Layout::V4 => zeros[scales..][..7].fill(127),
                _ => zeros[scales..][..16].copy_from_slice(&1f32.to_le_bytes().repeat(4)),
            }
        }
        Problem { data, columns, table }
    }
}

fn run(session: &Session, queue: &Queue, case: &Case) -> Result<Margin, String> {
    let Problem { data, columns, table } = Problem::new(case);
    let (spec, place) = (&data.spec, session.place());
    let mut params = zero_params();
    params.flags = if case.causal { FLASHMLA_FLAG_CAUSAL } else { 0 };
    params.flags |= if spec.lse_pos_inf { FLASHMLA_FLAG_LSE_EMPTY_POS_INF } else { 0 };
    params.flags |= if spec.invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
    (params.b, params.s_q, params.h_q, params.h_kv, params.d_qk) = (spec.b, spec.s_q, spec.h_q, 1, spec.d_qk());
    params.kv_layout = if spec.layout == Layout::V4 { FLASHMLA_LAYOUT_V4 } else { FLASHMLA_LAYOUT_V32 };
    // The page of zeros is not a part of the cache.
    params.num_blocks = data.cache.num_blocks - 1;
    (params.page_block_size, params.max_blocks_per_seq) = (spec.page, columns);
    params.softmax_scale = spec.scale;
    let q = Region::with(place, Fence::Guarded, &data.q, data.q_place.shift)?;
    let cache_bytes = &data.cache.bytes[..(params.num_blocks * data.cache.page_stride) as usize];
    let cache = Region::with(place, Fence::Guarded, cache_bytes, 0)?;
    let table = Region::with(place, Fence::Guarded, &table, 0)?;
    let lens = Region::with(place, Fence::Guarded, case.told.as_ref().unwrap_or(&case.lens), 0)?;
    let out = Region::new(place, Fence::Guarded, data.out_place.extent() * 2, data.out_place.shift)?;
    let lse = Region::new(place, Fence::Guarded, data.lse_place.extent() * 4, data.lse_place.shift)?;
    let plan = Region::new(place, Fence::Guarded, plan_size(&session.backend.handle, &params)?, 0)?;
    let workspace = Region::new(place, Fence::Guarded, workspace_size(&session.backend.handle, &params)?, 0)?;
    let mut record = flashmla_plan_t {
        struct_size: size_of::<flashmla_plan_t>(),
        data: plan.addr() as *mut c_void,
        size: plan.bytes(),
        fingerprint: 0,
    };
    params.q = input(q.addr(), data.q_place.given);
    params.kv_cache = input(cache.addr(), data.cache.strides());
    params.block_table = input(table.addr(), [0; 4]);
    params.cache_seqlens = input(lens.addr(), [0; 4]);
    params.out = output(out.addr(), data.out_place.given);
    params.lse = output(lse.addr(), data.lse_place.given);
    params.workspace = workspace.addr() as *mut c_void;
    params.workspace_size = workspace.bytes();
    params.plan = &mut record;
    // SAFETY: all memory is owned, of the sizes in the parameters.
    unsafe {
        outcome(flashmla_dense_decode_plan(session.backend.handle.0, &params, queue.raw()))?;
        outcome(flashmla_dense_decode(session.backend.handle.0, &params, queue.raw()))?;
    }
    queue.synchronize()?;
    let regions = [&q, &cache, &table, &lens, &out, &lse, &plan, &workspace];
    let names = ["q", "kv_cache", "block_table", "cache_seqlens", "out", "lse", "plan", "workspace"];
    names.iter().zip(regions).try_for_each(|(name, region)| region.check_guards(name))?;
    if cache.read::<u8>()? != cache_bytes {
        return Err("kv_cache: an input was written".into());
    }
    let results =
        Results { out: gather("out", &out, &data.out_place, true)?, lse: gather("lse", &lse, &data.lse_place, true)? };
    compare(spec, &results, &expected(&data))
}

fn check(session: &Session, cases: Vec<Case>) {
    on_all_cores(session, &cases, |queue, case| run(session, queue, case));
}

fn case(layout: Layout, h_q: i64, s_q: i64, page: i64, lens: &[i32]) -> Case {
    let spec = Spec { layout, h_q, s_q, page, b: lens.len() as i64, ..Spec::default() };
    Case { spec, lens: lens.to_vec(), told: None, causal: false, lost_pages: 0 }
}

#[test]
fn dense_decode_over_fp8_pages() {
    let session = sparse_or_skip!(Any);
    let mut cases = Vec::new();
    let mut random = Random::new(3);
    for layout in [Layout::V32, Layout::V4] {
        for (h_q, s_q, page) in
            [(128, 1, 64), (128, 2, 64), (16, 4, 64), (64, 1, 256), (1, 3, 1), (100, 2, 61), (8, 1, 16), (65, 1, 2)]
        {
            for causal in [false, true] {
                for lens in [&[300, 0, 1, 64, 65, 129][..], &[777], &[2, 1, 3, 700]] {
                    let mut case = case(layout, h_q, s_q, page, lens);
                    case.causal = causal;
                    case.lost_pages = random.pick(&[0, 0, 20]);
                    case.spec.strides = random.pick(&[Strides::Contiguous, Strides::Padded, Strides::Swapped]);
                    case.spec.scales = random.pick(&[Scales::Powers, Scales::Odd]);
                    case.spec.invariant = random.below(3) == 0;
                    case.spec.lse_pos_inf = random.below(2) == 0;
                    case.spec.seed = cases.len() as u64;
                    cases.push(case);
                }
            }
        }
    }
    check(&session, cases);
}

/// Lengths past what the block table holds, and negative ones.
#[test]
fn dense_decode_over_fp8_pages_with_wild_lengths() {
    let session = sparse_or_skip!(Any);
    let cases = [Layout::V32, Layout::V4].into_iter().flat_map(|layout| {
        [(16, false), (128, true)].map(|(h_q, causal)| {
            let mut case = case(layout, h_q, 2, 64, &[128, 0, 128, 0, 128, 77]);
            case.told = Some(vec![i32::MAX, -5, 2147480000, i32::MIN, 129, 77]);
            case.causal = causal;
            case.lost_pages = 20;
            case
        })
    });
    check(&session, cases.collect());
}
