//! A case in a backend's memory, and the calls on it.

use crate::data::{Data, Strided};
use crate::memory::{Fence, Place, Region, UNTOUCHED};
use crate::session::{outcome, Handle, Refusal};
use flashmla::capi::dense_decode::*;
use flashmla::capi::types::*;
use flashmla::problem::dense_decode::{Dtype, Raw, Shape};
use flashmla::schedule::{Grid, Work};
use flashmla::workspace::{PlanLayout, SplitLayout};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::{size_of, zeroed};

/// Outputs without gaps: `out [b, s_q, h_q, 512]`, `lse [b, h_q, s_q]` (empty if not wanted).
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    pub out: Vec<u16>,
    /// Bits, so that two results can be compared to the bit.
    pub lse: Vec<u32>,
}

pub struct Decode<'a> {
    handle: &'a Handle,
    pub params: flashmla_dense_decode_params_t,
    // The parameters point to it.
    plan_record: Box<UnsafeCell<flashmla_plan_t>>,
    pub q: Region,
    pub kv: Region,
    pub table: Region,
    pub lens: Region,
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
unsafe impl Send for Decode<'_> {}

/// What kernels read whatever it is, so that initcheck hears of everything else: of the workspace the words by which their
/// blocks meet (cuda/common/rendezvous.cuh); of the plan the list of split requests, the first of which are asked for
/// together with their number (cuda/any/combine.cuh). Requests of that value do not exist: the results would tell if any of
/// them were taken for one.
pub fn write_any(
    work: impl Into<Work>,
    split: &SplitLayout,
    partitions: i64,
    plan: &Region,
    workspace: &Region,
) -> Result<(), String> {
    let fill = |region: &Region, from: u64, to: u64| region.write(from as usize, &vec![0xa5u8; (to - from) as usize]);
    let layout = PlanLayout::new(work, partitions);
    fill(plan, layout.splits, layout.pieces)?;
    fill(workspace, split.rendezvous, workspace.bytes() as u64)
}

fn write_any_for(
    handle: &Handle,
    params: &flashmla_dense_decode_params_t,
    plan: &Region,
    workspace: &Region,
) -> Result<(), String> {
    let raw = Raw {
        dtype: params.dtype,
        flags: params.flags,
        b: params.b,
        s_q: params.s_q,
        h_q: params.h_q,
        h_kv: params.h_kv,
        d_qk: params.d_qk,
        num_blocks: params.num_blocks,
        page_block_size: params.page_block_size,
        max_blocks_per_seq: params.max_blocks_per_seq,
        ..Default::default()
    };
    let shape = Shape::check(&raw).map_err(|why| format!("{why:?}"))?;
    let mut info = flashmla_kernel_info_t {
        struct_size: size_of::<flashmla_kernel_info_t>(),
        name: [0; 64],
        thread_blocks: 0,
        cluster_size: 0,
        partitions: 0,
    };
    // SAFETY: a parameter struct, and room for what is told.
    outcome(unsafe { flashmla_dense_decode_query(handle.0, params, &mut info) }).map_err(|why| format!("{why:?}"))?;
    // Where they lie depends on the partitions alone.
    let partitions = info.partitions as i64;
    let grid = Grid { row_blocks: 1, partitions, multiprocessors: 1 };
    write_any(&shape, &SplitLayout::new(&shape, &grid), partitions, plan, workspace)
}

/// Parameters with every member 0, as the INIT macro of the header gives.
pub fn zero_params() -> flashmla_dense_decode_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_dense_decode_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_dense_decode_params_t>();
    params
}

/// Sizes, type and flags of a case.
pub fn sizes_of(data: &Data) -> flashmla_dense_decode_params_t {
    let spec = &data.spec;
    let mut params = zero_params();
    params.dtype = if spec.dtype == Dtype::Bf16 { FLASHMLA_DTYPE_BF16 } else { FLASHMLA_DTYPE_FP16 };
    params.flags = [
        (spec.causal, FLASHMLA_FLAG_CAUSAL),
        (spec.lse_pos_inf, FLASHMLA_FLAG_LSE_EMPTY_POS_INF),
        (spec.invariant, FLASHMLA_FLAG_BATCH_INVARIANT),
    ]
    .iter()
    .filter(|(set, _)| *set)
    .fold(0, |flags, (_, flag)| flags | flag);
    params.b = spec.b();
    params.s_q = spec.s_q;
    params.h_q = spec.h_q;
    params.h_kv = spec.h_kv;
    params.d_qk = spec.d_qk;
    params.num_blocks = data.num_blocks;
    params.page_block_size = spec.page;
    params.max_blocks_per_seq = data.columns;
    params.softmax_scale = spec.scale;
    params
}

pub fn input(addr: u64, strides: [i64; 4]) -> flashmla_const_tensor_t {
    flashmla_const_tensor_t { data: addr as *const c_void, strides }
}

pub fn output(addr: u64, strides: [i64; 4]) -> flashmla_tensor_t {
    flashmla_tensor_t { data: addr as *mut c_void, strides }
}

pub fn plan_size(handle: &Handle, params: &flashmla_dense_decode_params_t) -> Result<usize, Refusal> {
    let mut size = usize::MAX;
    // SAFETY: a live context, parameters and a place for the size.
    outcome(unsafe { flashmla_dense_decode_plan_size(handle.0, params, &mut size) })?;
    Ok(size)
}

pub fn workspace_size(handle: &Handle, params: &flashmla_dense_decode_params_t) -> Result<usize, Refusal> {
    let mut size = usize::MAX;
    // SAFETY: as above.
    outcome(unsafe { flashmla_dense_decode_workspace_size(handle.0, params, &mut size) })?;
    Ok(size)
}

impl<'a> Decode<'a> {
    /// Plan and workspace have exactly the sizes that the library asks for.
    pub fn new(handle: &'a Handle, place: Place, fence: Fence, data: &Data) -> Result<Decode<'a>, String> {
        let mut params = sizes_of(data);
        let plan_bytes = plan_size(handle, &params)?;
        let workspace_bytes = workspace_size(handle, &params)?;
        let lse_extent = if data.spec.want_lse { data.lse_place.extent() } else { 0 };
        let q = Region::with(place, fence, &data.q, data.q_place.shift)?;
        let kv = Region::with(place, fence, &data.kv, data.kv_place.shift)?;
        let table = Region::with(place, fence, &data.table, data.table_place.shift)?;
        let lens = Region::with(place, fence, &data.lens, data.lens_place.shift)?;
        let out = Region::new(place, fence, data.out_place.extent() * 2, data.out_place.shift)?;
        let lse = Region::new(place, fence, lse_extent * 4, data.lse_place.shift)?;
        if fence == Fence::Exact {
            // No kernel reads them, and every element is compared. initcheck does not follow the copies from shared memory
            // by which some leave, and reports the host's reading of them.
            out.reset()?;
            lse.reset()?;
        }
        let plan = Region::new(place, fence, plan_bytes, 0)?;
        let workspace = Region::new(place, fence, workspace_bytes, 0)?;
        if fence == Fence::Exact && workspace_bytes > 0 && params.kv_layout == FLASHMLA_LAYOUT_PLAIN {
            write_any_for(handle, &params, &plan, &workspace)?;
        }
        let plan_record = Box::new(UnsafeCell::new(flashmla_plan_t {
            struct_size: size_of::<flashmla_plan_t>(),
            data: plan.addr() as *mut c_void,
            size: plan_bytes,
            fingerprint: 0,
        }));
        params.q = input(q.addr(), data.q_place.given);
        params.kv_cache = input(kv.addr(), data.kv_place.given);
        params.block_table = input(table.addr(), data.table_place.given);
        params.cache_seqlens = input(lens.addr(), data.lens_place.given);
        params.out = output(out.addr(), data.out_place.given);
        params.lse = output(lse.addr(), data.lse_place.given);
        params.workspace = workspace.addr() as *mut c_void;
        params.workspace_size = workspace_bytes;
        params.plan = plan_record.get();
        Ok(Decode {
            handle,
            params,
            plan_record,
            q,
            kv,
            table,
            lens,
            out,
            lse,
            plan,
            workspace,
            out_place: data.out_place,
            lse_place: data.lse_place,
            prefilled: fence == Fence::Guarded,
        })
    }

    /// Reads the cache of another case, which must outlive the calls.
    pub fn share_cache(&mut self, other: &Decode) {
        self.params.kv_cache = other.params.kv_cache;
    }

    /// Makes the plan, on the stream.
    pub fn make_plan(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        // SAFETY: all memory is owned, of the sizes in the parameters.
        outcome(unsafe { flashmla_dense_decode_plan(self.handle.0, &self.params, stream) })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        // SAFETY: as above.
        outcome(unsafe { flashmla_dense_decode(self.handle.0, &self.params, stream) })
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

    /// The outputs, once the work is done. Fails if anything beside them was written: gaps of the
    /// outputs, or the surroundings of any region.
    pub fn results(&self) -> Result<Results, String> {
        let out = gather("out", &self.out, &self.out_place, self.prefilled)?;
        let lse = gather("lse", &self.lse, &self.lse_place, self.prefilled)?;
        self.check_guards()?;
        Ok(Results { out, lse })
    }

    pub fn check_guards(&self) -> Result<(), String> {
        for (name, region) in [
            ("q", &self.q),
            ("kv_cache", &self.kv),
            ("block_table", &self.table),
            ("cache_seqlens", &self.lens),
            ("out", &self.out),
            ("lse", &self.lse),
            ("plan", &self.plan),
            ("workspace", &self.workspace),
        ] {
            region.check_guards(name)?;
        }
        Ok(())
    }

    /// Whether the inputs are still what was put there.
    pub fn check_inputs(&self, data: &Data) -> Result<(), String> {
        let same = [
            ("q", self.q.read::<u16>()? == data.q),
            ("kv_cache", self.kv.read::<u16>()? == data.kv),
            ("block_table", self.table.read::<i32>()? == data.table),
            ("cache_seqlens", self.lens.read::<i32>()? == data.lens),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(format!("{name}: an input was written")),
            None => Ok(()),
        }
    }
}

/// The elements of an output without its gaps, none of a tensor that was left out. Where every byte was
/// `UNTOUCHED` before the run (`prefilled`), fails if a gap was written.
pub fn gather<T, const N: usize>(
    name: &str,
    region: &Region,
    place: &Strided<N>,
    prefilled: bool,
) -> Result<Vec<T>, String>
where
    T: crate::cuda::Plain + PartialEq,
{
    if region.bytes() == 0 {
        return Ok(Vec::new());
    }
    let mut all: Vec<T> = region.read()?;
    // SAFETY: any bytes make a `Plain` value.
    let untouched: T = unsafe {
        let mut value = T::default();
        std::ptr::write_bytes(&mut value, UNTOUCHED, 1);
        value
    };
    let mut elements = Vec::with_capacity(place.shape.iter().product::<i64>() as usize);
    let mut index = [0; N];
    loop {
        let at = place.at(index);
        elements.push(all[at]);
        all[at] = untouched;
        // The next index, the last dimension first.
        let Some(dim) = (0..N).rev().find(|d| index[*d] + 1 < place.shape[*d]) else { break };
        index[dim] += 1;
        index[dim + 1..].fill(0);
    }
    match all.iter().position(|x| *x != untouched) {
        Some(at) if prefilled => Err(format!("{name}: element {at} lies in a gap and was written")),
        _ => Ok(elements),
    }
}
