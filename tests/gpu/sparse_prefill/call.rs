//! A case in a backend's memory, and the call on it.

use super::data::{Data, Places};
use crate::decode::{gather, input, output};
use crate::memory::{Fence, Place, Region};
use crate::session::{outcome, Handle, Refusal};
use flashmla::capi::sparse_prefill::*;
use flashmla::capi::types::*;
use std::ffi::c_void;
use std::mem::{size_of, zeroed};

/// Outputs without gaps, as bits: `out [s_q, h_q, 512]`, `max_logits` and `lse [s_q, h_q]` (empty if not
/// wanted).
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    pub out: Vec<u16>,
    pub max_logits: Vec<u32>,
    pub lse: Vec<u32>,
}

pub struct Call<'a> {
    handle: &'a Handle,
    pub params: flashmla_sparse_prefill_params_t,
    pub q: Region,
    pub kv: Region,
    pub indices: Region,
    pub lengths: Region,
    pub sinks: Region,
    pub out: Region,
    pub max_logits: Region,
    pub lse: Region,
    workspace: Region,
    places: Places,
    /// Whether every byte of the outputs was `UNTOUCHED` before the run.
    prefilled: bool,
}

// SAFETY: the pointers in it lead to its own memory; calls only read the parameters.
unsafe impl Send for Call<'_> {}

/// Sizes and flags of a case.
pub fn sizes_of(spec: &super::spec::Spec) -> flashmla_sparse_prefill_params_t {
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_sparse_prefill_params_t = unsafe { zeroed() };
    params.struct_size = size_of::<flashmla_sparse_prefill_params_t>();
    params.flags = if spec.lse_pos_inf { FLASHMLA_FLAG_LSE_EMPTY_POS_INF } else { 0 };
    params.softmax_scale = spec.scale;
    params.s_q = spec.s_q;
    params.h_q = spec.h_q;
    params.s_kv = spec.s_kv;
    params.d_qk = spec.d_qk;
    params.topk = spec.topk;
    params
}

/// Whether the context can run a problem of these sizes.
pub fn query(handle: &Handle, params: &flashmla_sparse_prefill_params_t) -> Result<(), Refusal> {
    // SAFETY: plain data, for which all 0 is a value; the context is live.
    unsafe {
        let mut info: flashmla_kernel_info_t = zeroed();
        info.struct_size = size_of::<flashmla_kernel_info_t>();
        outcome(flashmla_sparse_prefill_query(handle.0, params, &mut info))
    }
}

pub fn workspace_size(handle: &Handle, params: &flashmla_sparse_prefill_params_t) -> Result<usize, Refusal> {
    let mut size = usize::MAX;
    // SAFETY: a live context, parameters and a place for the size.
    outcome(unsafe { flashmla_sparse_prefill_workspace_size(handle.0, params, &mut size) })?;
    Ok(size)
}

impl<'a> Call<'a> {
    /// The workspace has exactly the size that the library asks for.
    pub fn new(handle: &'a Handle, place: Place, fence: Fence, data: &Data) -> Result<Call<'a>, String> {
        let (spec, at) = (&data.spec, &data.places);
        let mut params = sizes_of(spec);
        let workspace_bytes = workspace_size(handle, &params)?;
        let wanted = |wanted: bool, extent: usize| if wanted { extent * 4 } else { 0 };
        let q = Region::with(place, fence, &data.q, at.q.shift)?;
        let kv = Region::with(place, fence, &data.kv, at.kv.shift)?;
        let indices = Region::with(place, fence, &data.indices, at.indices.shift)?;
        let lengths = Region::with(place, fence, &data.lengths, at.lengths.shift)?;
        let sinks = Region::with(place, fence, &data.sinks, at.sinks.shift)?;
        let out = Region::new(place, fence, at.out.extent() * 2, at.out.shift)?;
        let max_logits_bytes = wanted(spec.want_max_logits, at.max_logits.extent());
        let max_logits = Region::new(place, fence, max_logits_bytes, at.max_logits.shift)?;
        let lse = Region::new(place, fence, wanted(spec.want_lse, at.lse.extent()), at.lse.shift)?;
        if spec.layout != crate::spec::Layout::Contiguous || fence == Fence::Exact {
            // The gaps are nobody's to write, and are read back all the same; and initcheck does not follow the copies from
            // shared memory by which the output leaves. No kernel reads it, and every element is compared.
            for output in [&out, &max_logits, &lse] {
                output.reset()?;
            }
        }
        let workspace = Region::new(place, fence, workspace_bytes, 0)?;
        params.q = input(q.addr(), at.q.given);
        params.kv = input(kv.addr(), at.kv.given);
        params.indices = input(indices.addr(), at.indices.given);
        params.topk_length = input(lengths.addr(), at.lengths.given);
        params.attn_sink = input(sinks.addr(), at.sinks.given);
        params.out = output(out.addr(), at.out.given);
        params.max_logits = output(max_logits.addr(), at.max_logits.given);
        params.lse = output(lse.addr(), at.lse.given);
        params.workspace = workspace.addr() as *mut c_void;
        params.workspace_size = workspace_bytes;
        Ok(Call {
            handle,
            params,
            q,
            kv,
            indices,
            lengths,
            sinks,
            out,
            max_logits,
            lse,
            workspace,
            places: data.places.clone(),
            prefilled: fence == Fence::Guarded,
        })
    }

    /// The operation, on the stream.
    pub fn run(&self, stream: cudaStream_t) -> Result<(), Refusal> {
        // SAFETY: all memory is owned, of the sizes in the parameters.
        outcome(unsafe { flashmla_sparse_prefill(self.handle.0, &self.params, stream) })
    }

    /// Outputs back to what nobody wrote.
    pub fn reset_outputs(&self) -> Result<(), String> {
        self.out.reset()?;
        self.max_logits.reset()?;
        self.lse.reset()
    }

    /// Other contents of the same sizes.
    pub fn update(&self, data: &Data) -> Result<(), String> {
        self.q.write(0, &data.q)?;
        self.kv.write(0, &data.kv)?;
        self.indices.write(0, &data.indices)?;
        self.lengths.write(0, &data.lengths)?;
        self.sinks.write(0, &data.sinks)
    }

    /// The outputs, once the work is done. Fails if anything beside them was written: gaps of the
    /// outputs, or the surroundings of any region.
    pub fn results(&self) -> Result<Results, String> {
        let results = Results {
            out: gather("out", &self.out, &self.places.out, self.prefilled)?,
            max_logits: gather("max_logits", &self.max_logits, &self.places.max_logits, self.prefilled)?,
            lse: gather("lse", &self.lse, &self.places.lse, self.prefilled)?,
        };
        for (name, region) in [
            ("q", &self.q),
            ("kv", &self.kv),
            ("indices", &self.indices),
            ("topk_length", &self.lengths),
            ("attn_sink", &self.sinks),
            ("out", &self.out),
            ("max_logits", &self.max_logits),
            ("lse", &self.lse),
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
            ("kv", self.kv.read::<u16>()? == data.kv),
            ("indices", self.indices.read::<i32>()? == data.indices),
            ("topk_length", self.lengths.read::<i32>()? == data.lengths),
            ("attn_sink", self.sinks.read::<u32>()? == bits(&data.sinks)),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((name, _)) => Err(format!("{name}: an input was written")),
            None => Ok(()),
        }
    }
}
