//! A case of dense decode.

use super::case::{integer, wrong, Dtype, D_V, MAX_SIZE};
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::{dense_decode_params, input, output, Library};
use super::problem::{bytes, Params, Problem};
use super::target::{Memory, Target};
use flashmla::capi::dense_decode::flashmla_dense_decode_params_t;
use flashmla::capi::types::*;
use serde_json::{Map, Value};

/// The length of every request is kept on the host.
const MAX_REQUESTS: i64 = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
pub struct DenseDecode {
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub h_kv: i64,
    pub d_qk: i64,
    pub page_block_size: i64,
    pub dtype: Dtype,
    pub causal: bool,
    /// Cached tokens of each request.
    pub lens: Vec<i64>,
}

impl DenseDecode {
    pub fn parse(fields: &Map<String, Value>) -> Result<DenseDecode, Failure> {
        let b = integer(fields, "b", None, 0)?;
        if b > MAX_REQUESTS {
            return Err(Failure::Usage(format!("b = {b}: must be at most {MAX_REQUESTS}")));
        }
        let s_q = integer(fields, "s_q", None, 0)?;
        let dtype = match fields.get("dtype").map(|v| v.as_str()) {
            None | Some(Some("bf16")) => Dtype::Bf16,
            Some(Some("fp16")) => Dtype::Fp16,
            Some(_) => return Err(wrong("dtype", &fields["dtype"], "\"bf16\" or \"fp16\"")),
        };
        let causal = match fields.get("causal") {
            None => false,
            Some(value) => value.as_bool().ok_or_else(|| wrong("causal", value, "true or false"))?,
        };
        Ok(DenseDecode {
            b,
            s_q,
            h_q: integer(fields, "h_q", None, 1)?,
            h_kv: integer(fields, "h_kv", Some(1), 1)?,
            d_qk: integer(fields, "d_qk", Some(576), 1)?,
            page_block_size: integer(fields, "bs", Some(64), 1)?,
            dtype,
            causal,
            lens: lens(fields, b)?,
        })
    }

    /// Query-key pairs per query head: `lens` tokens, for each query token those that it sees.
    pub fn attended_pairs(&self) -> i64 {
        let seen = |len: i64| match self.causal {
            false => len * self.s_q,
            // Query token i sees len - s_q + i + 1 keys, if that is positive.
            true => {
                let fewest = (len - self.s_q + 1).max(1);
                len.min(self.s_q) * (fewest + len) / 2
            }
        };
        self.lens.iter().map(|len| seen(*len)).sum()
    }

    /// Floating-point operations: 2 h_q n (d_qk + d_v).
    pub fn operations(&self) -> f64 {
        2.0 * self.h_q as f64 * self.attended_pairs() as f64 * (self.d_qk + D_V) as f64
    }

    /// Bytes of the cache rows, of Q and of the output, each moved once. Tables, lengths and lse,
    /// below half a percent of these, are left out, as in the published figures.
    pub fn bytes(&self) -> f64 {
        let tokens: i64 = self.lens.iter().sum();
        let cache = tokens as f64 * (self.h_kv * self.d_qk) as f64;
        2.0 * (cache + (self.b * self.s_q * self.h_q) as f64 * (self.d_qk + D_V) as f64)
    }

    /// A short name, for progress, filters and plots.
    pub fn name(&self) -> String {
        let mut name = format!("b{} s_q{} h_q{}", self.b, self.s_q, self.h_q);
        if self.h_kv != 1 {
            name.push_str(&format!(" h_kv{}", self.h_kv));
        }
        match (self.lens.iter().min(), self.lens.iter().max()) {
            (Some(min), Some(max)) if min == max => name.push_str(&format!(" s_k{max}")),
            (Some(min), Some(max)) => {
                let mean = self.lens.iter().sum::<i64>() / self.b;
                name.push_str(&format!(" s_k{min}..{max} mean{mean}"));
            }
            _ => {}
        }
        if self.d_qk != 576 {
            name.push_str(&format!(" d_qk{}", self.d_qk));
        }
        if self.page_block_size != 64 {
            name.push_str(&format!(" bs{}", self.page_block_size));
        }
        if self.dtype == Dtype::Fp16 {
            name.push_str(" fp16");
        }
        if self.causal {
            name.push_str(" causal");
        }
        name
    }

    /// Whether two cases ask for the same work. For one query token a causal mask hides nothing.
    pub fn same_work(&self, other: &DenseDecode) -> bool {
        let masked = |c: &DenseDecode| c.causal && c.s_q > 1;
        self.s_q == other.s_q
            && self.h_q == other.h_q
            && self.h_kv == other.h_kv
            && self.d_qk == other.d_qk
            && self.page_block_size == other.page_block_size
            && self.dtype == other.dtype
            && masked(self) == masked(other)
            && self.lens == other.lens
    }

    /// `random` gives memory of some size in bytes, filled with random elements.
    pub fn problem(
        &self,
        batch_invariant: bool,
        library: &Library,
        target: &Target,
        mut random: impl FnMut(usize) -> Result<Memory, Failure>,
    ) -> Result<Problem, Failure> {
        let mut params = self.sizes(batch_invariant);
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.dense_decode_kernel(&params)?;
        let lens: Vec<u8> = self.lens.iter().flat_map(|len| (*len as i32).to_le_bytes()).collect();
        let table = inputs::block_table(self, &mut Random::new(3));
        let table: Vec<u8> = table.iter().flat_map(|page| page.to_le_bytes()).collect();
        let tensors = vec![
            random(bytes(&[2, self.b, self.s_q, self.h_q, self.d_qk])?)?,
            random(bytes(&[2, params.num_blocks, self.page_block_size, self.h_kv, self.d_qk])?)?,
            target.upload(&table)?,
            target.upload(&lens)?,
            target.alloc(bytes(&[2, self.b, self.s_q, self.h_q, D_V])?)?,
            target.alloc(bytes(&[4, self.b, self.s_q, self.h_q])?)?,
        ];
        params.q = input(&tensors[0]);
        params.kv_cache = input(&tensors[1]);
        params.block_table = input(&tensors[2]);
        params.cache_seqlens = input(&tensors[3]);
        params.out = output(&tensors[4]);
        params.lse = output(&tensors[5]);
        Ok(Problem { kernel, params: Params::DenseDecode(params), _tensors: tensors })
    }

    /// Parameters without tensors.
    fn sizes(&self, batch_invariant: bool) -> flashmla_dense_decode_params_t {
        let mut params = dense_decode_params();
        params.dtype = match self.dtype {
            Dtype::Bf16 => FLASHMLA_DTYPE_BF16,
            Dtype::Fp16 => FLASHMLA_DTYPE_FP16,
        };
        params.flags = if self.causal { FLASHMLA_FLAG_CAUSAL } else { 0 };
        params.flags |= if batch_invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
        params.b = self.b;
        params.s_q = self.s_q;
        params.h_q = self.h_q;
        params.h_kv = self.h_kv;
        params.d_qk = self.d_qk;
        params.page_block_size = self.page_block_size;
        params.max_blocks_per_seq = inputs::blocks_per_request(self);
        params.num_blocks = self.b * params.max_blocks_per_seq;
        params
    }
}

/// Each request's length: `lens`, or `s_k` for all.
fn lens(fields: &Map<String, Value>, b: i64) -> Result<Vec<i64>, Failure> {
    let Some(value) = fields.get("lens").filter(|v| !v.is_null()) else {
        return Ok(vec![integer(fields, "s_k", None, 0)?; b as usize]);
    };
    let length = |v: &Value| v.as_i64().filter(|n| (0..=MAX_SIZE).contains(n));
    let lens: Option<Vec<i64>> = value.as_array().and_then(|list| list.iter().map(length).collect());
    match lens {
        Some(lens) if lens.len() as i64 == b => Ok(lens),
        Some(lens) => Err(Failure::Usage(format!("lens: {} of them: must be b = {b}", lens.len()))),
        None => Err(Failure::Usage(format!("lens: must be a list of numbers 0 .. {MAX_SIZE}"))),
    }
}
