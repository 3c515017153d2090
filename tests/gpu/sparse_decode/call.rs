//! A case in a backend's memory, and the calls on it.

use super::data::{Cache, Data};
use super::spec::Spec;
use crate::data::Strided;
use crate::decode::{gather, input, output, write_any};
use crate::memory::{Fence, Place, Region};
use crate::session::{outcome, Handle, Refusal};
use flashmla::capi::sparse_decode::*;
use flashmla::capi::types::*;
use flashmla::problem::layout::Layout;
use flashmla::schedule::{Grid, Work, INVARIANT_CUTS_SPARSE, REQUEST_COST, TILE_TOKENS};
use flashmla::workspace::SplitLayout;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::{size_of, zeroed};

/// Outputs without gaps, as bits: `out [b, s_q, h_q, 512]`, `lse [b, h_q, s_q]` (empty if not wanted).
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    pub out: Vec<u16>,
    pub lse: Vec<u32>,
}

/// A cache in a backend's memory.
pub struct Regions {
    pub kv: Region,
    pub indices: Region,
    pub lengths: Region,
}

impl Regions {
    fn new(place: Place, fence: Fence, cache: &Cache) -> Result<Regions, String> {
        Ok(Regions {
            kv: Region::with(place, fence, &cache.bytes, 0)?,
            indices: Region::with(place, fence, &cache.indices, cache.indices_place.shift)?,
            lengths: Region::with(place, fence, &cache.lengths, cache.lengths_place.shift)?,
        })
    }

    fn write(&self, cache: &Cache) -> Result<(), String> {
        self.kv.write(0, &cache.bytes)?;
        self.indices.write(0, &cache.indices)?;
        self.lengths.write(0, &cache.lengths)
    }

    fn is(&self, cache: &Cache) -> Result<bool, String> {
        Ok(self.kv.read::<u8>()? == cache.bytes
            && self.indices.read::<i32>()? == cache.indices
            && self.lengths.read::<i32>()? == cache.lengths)
    }
}

pub struct Call<'a> {
    handle: &'a Handle,
    pub params: flashmla_sparse_decode_params_t,
    // The parameters point to it.
    plan_record: Box<UnsafeCell<flashmla_plan_t>>,
    pub q: Region,
    pub cache: Regions,
    pub extra: Option<Regions>,
    pub sinks: Region,
    pub out: Region,
    pub lse: Region,
    pub plan: Region,
    pub workspace: Region,
    out_place: Strided<4>,
    lse_place: Strided<3>,
    /// Whether every byte of the outputs was `UNTOUCHED` before the run.
    prefilled: bool,
}

// SAFETY: the pointers in it lead to its own memory; calls only read the parameters.
unsafe impl Send for Call<'_> {}

/// Sizes and flags of a case. Lengths are there or not, which a plan goes by.
pub fn sizes_of(spec: &Spec) -> flashmla_sparse_decode_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_sparse_decode_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_sparse_decode_params_t>();
    params.layout = if spec.layout == Layout::V4 { FLASHMLA_LAYOUT_V4 } else { FLASHMLA_LAYOUT_V32 };
    params.flags = if spec.lse_pos_inf { FLASHMLA_FLAG_LSE_EMPTY_POS_INF } else { 0 };
    params.flags |= if spec.invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
    params.softmax_scale = spec.scale;
    params.b = spec.b;
    params.s_q = spec.s_q;
    params.h_q = spec.h_q;
    params.d_qk = spec.d_qk();
    params.num_blocks = (spec.s_k + spec.page - 1) / spec.page;
    params.page_block_size = spec.page;
    params.topk = spec.topk;
    if let Some(extra) = &spec.extra {
        params.extra_num_blocks = (extra.s_k + extra.page - 1) / extra.page;
        params.extra_page_block_size = extra.page;
        params.extra_topk = extra.topk;
    }
    params
}

/// Whether the context can run a problem of these sizes, and how.
pub fn query(handle: &Handle, params: &flashmla_sparse_decode_params_t) -> Result<flashmla_kernel_info_t, Refusal> {
    // SAFETY: plain data, for which all 0 is a value; the context is live.
    unsafe {
        let mut info: flashmla_kernel_info_t = zeroed();
        info.struct_size = size_of::<flashmla_kernel_info_t>();
        outcome(flashmla_sparse_decode_query(handle.0, params, &mut info)).map(|()| info)
    }
}

fn write_any_for(
    handle: &Handle,
    params: &flashmla_sparse_decode_params_t,
    plan: &Region,
    workspace: &Region,
) -> Result<(), String> {
    let info = query(handle, params).map_err(|why| format!("{why:?}"))?;
    let tiles = |topk: i64| (topk + TILE_TOKENS - 1) / TILE_TOKENS;
    let work = Work {
        requests: params.b * params.s_q,
        max_tiles: tiles(params.topk) + tiles(params.extra_topk),
        request_cost: REQUEST_COST,
        invariant: INVARIANT_CUTS_SPARSE,
        batch_invariant: params.flags & FLASHMLA_FLAG_BATCH_INVARIANT != 0,
        hands_over: false,
    };
    // Where they lie depends on the partitions alone.
    let partitions = info.partitions as i64;
    let grid = Grid { row_blocks: 1, partitions, multiprocessors: 1 };
    write_any(work, &SplitLayout::of_heads(work, &grid, params.h_q), partitions, plan, workspace)
}

pub fn workspace_size(handle: &Handle, params: &flashmla_sparse_decode_params_t) -> Result<usize, Refusal> {
    let mut size = usize::MAX;
    // SAFETY: a live context, parameters and a place for the size.
    outcome(unsafe { flashmla_sparse_decode_workspace_size(handle.0, params, &mut size) })?;
    Ok(size)
}

pub fn plan_size(handle: &Handle, params: &flashmla_sparse_decode_params_t) -> Result<usize, Refusal> {
    let mut size = usize::MAX;
    // SAFETY: as above.
    outcome(unsafe { flashmla_sparse_decode_plan_size(handle.0, params, &mut size) })?;
    Ok(size)
}

impl<'a> Call<'a> {
    /// Plan and workspace have exactly the sizes that the library asks for.
    pub fn new(handle: &'a Handle, place: Place, fence: Fence, data: &Data) -> Result<Call<'a>, String> {
        let spec = &data.spec;
        let mut params = sizes_of(spec);
        let plan_bytes = plan_size(handle, &params)?;
        let workspace_bytes = workspace_size(handle, &params)?;
        let q = Region::with(place, fence, &data.q, data.q_place.shift)?;
        let cache = Regions::new(place, fence, &data.cache)?;
        let extra = data.extra.as_ref().map(|extra| Regions::new(place, fence, extra)).transpose()?;
        let sinks = Region::with(place, fence, &data.sinks, data.sinks_place.shift)?;
        let out = Region::new(place, fence, data.out_place.extent() * 2, data.out_place.shift)?;
        let lse_bytes = if spec.want_lse { data.lse_place.extent() * 4 } else { 0 };
        let lse = Region::new(place, fence, lse_bytes, data.lse_place.shift)?;
        if spec.strides != crate::spec::Layout::Contiguous {
            // The gaps are nobody's to write, and are read back all the same.
            out.reset()?;
            lse.reset()?;
        }
        let plan = Region::new(place, fence, plan_bytes, 0)?;
        let workspace = Region::new(place, fence, workspace_bytes, 0)?;
        if fence == Fence::Exact && workspace_bytes > 0 {
            write_any_for(handle, &params, &plan, &workspace)?;
        }
        let plan_record = Box::new(UnsafeCell::new(flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: plan.addr() as *mut c_void,
            size: plan_bytes,
            fingerprint: 0,
        }));
        params.q = input(q.addr(), data.q_place.given);
        params.kv_cache = input(cache.kv.addr(), data.cache.strides());
        params.indices = input(cache.indices.addr(), data.cache.indices_place.given);
        params.topk_length = input(cache.lengths.addr(), data.cache.lengths_place.given);
        if let (Some(regions), Some(extra)) = (&extra, &data.extra) {
            params.extra_kv_cache = input(regions.kv.addr(), extra.strides());
            params.extra_indices = input(regions.indices.addr(), extra.indices_place.given);
            params.extra_topk_length = input(regions.lengths.addr(), extra.lengths_place.given);
        }
        params.attn_sink = input(sinks.addr(), data.sinks_place.given);
        params.out = output(out.addr(), data.out_place.given);
        params.lse = output(lse.addr(), data.lse_place.given);
        params.workspace = workspace.addr() as *mut c_void;
        params.workspace_size = workspace_bytes;
        params.plan = plan_record.get();
        Ok(Call {
            handle,
            params,
            plan_record,
            q,
            cache,
            extra,
            sinks,
            out,
            lse,
            plan,
            workspace,
            out_place: data.out_place,
            lse_place: data.lse_place,
            prefilled: fence == Fence::Guarded,
        })
    }

    /// Makes the plan, on the stream.
    pub fn make_plan(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        // SAFETY: all memory is owned, of the sizes in the parameters.
        outcome(unsafe { flashmla_sparse_decode_plan(self.handle.0, &self.params, stream) })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        // SAFETY: as above.
        outcome(unsafe { flashmla_sparse_decode(self.handle.0, &self.params, stream) })
    }

    pub fn plan_and_run(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        self.make_plan(stream)?;
        self.run(stream)
    }

    /// The host's half of the plan.
    pub fn plan_record(&mut self) -> &mut flashmla_plan_t {
        self.plan_record.get_mut()
    }

    /// Outputs back to what nobody wrote.
    pub fn reset_outputs(&self) -> Result<(), String> {
        self.out.reset()?;
        self.lse.reset()
    }

    /// Other contents of the same sizes.
    pub fn update(&self, data: &Data) -> Result<(), String> {
        self.q.write(0, &data.q)?;
        self.cache.write(&data.cache)?;
        if let (Some(regions), Some(extra)) = (&self.extra, &data.extra) {
            regions.write(extra)?;
        }
        self.sinks.write(0, &data.sinks)
    }

    /// The outputs, once the work is done. Fails if anything beside them was written: gaps of the
    /// outputs, or the surroundings of any region.
    pub fn results(&self) -> Result<Results, String> {
        let results = Results {
            out: gather("out", &self.out, &self.out_place, self.prefilled)?,
            lse: gather("lse", &self.lse, &self.lse_place, self.prefilled)?,
        };
        let caches = [("", Some(&self.cache)), ("extra_", self.extra.as_ref())];
        for (name, regions) in caches {
            let Some(Regions { kv, indices, lengths }) = regions else { continue };
            for (part, region) in [("kv_cache", kv), ("indices", indices), ("topk_length", lengths)] {
                region.check_guards(&format!("{name}{part}"))?;
            }
        }
        for (name, region) in [
            ("q", &self.q),
            ("attn_sink", &self.sinks),
            ("out", &self.out),
            ("lse", &self.lse),
            ("plan", &self.plan),
            ("workspace", &self.workspace),
        ] {
            region.check_guards(name)?;
        }
        Ok(results)
    }

    /// Whether the inputs are still what was put there.
    pub fn check_inputs(&self, data: &Data) -> Result<(), String> {
        let bits = |sinks: &[f32]| sinks.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let same = [
            ("q", self.q.read::<u16>()? == data.q),
            ("the cache", self.cache.is(&data.cache)?),
            (
                "the second cache",
                match (&self.extra, &data.extra) {
                    (Some(regions), Some(extra)) => regions.is(extra)?,
                    _ => true,
                },
            ),
            ("attn_sink", self.sinks.read::<u32>()? == bits(&data.sinks)),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(format!("{name}: an input was written")),
            None => Ok(()),
        }
    }
}
