//! A case of sparse decode.

use super::case::{integer, D_V, MAX_SIZE};
use super::failure::Failure;
use super::inputs::{self, CacheIndices, Random};
use super::kv_cache::{fp8_cache, layout_of};
use super::library::{input, output, sparse_decode_params, Library};
use super::problem::{bytes, Params, Problem};
use super::target::{Memory, Target};
use flashmla::capi::sparse_decode::flashmla_sparse_decode_params_t;
use flashmla::capi::types::*;
use serde_json::{Map, Value};

/// The indices are made on the host.
const MAX_INDICES: i64 = 1 << 30;

/// One of the caches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cache {
    /// Tokens of a request.
    pub s_k: i64,
    pub topk: i64,
    pub page_block_size: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SparseDecode {
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    pub d_qk: i64,
    pub cache: Cache,
    pub extra: Option<Cache>,
}

impl Cache {
    fn parse(fields: &Map<String, Value>, names: [&str; 3]) -> Result<Cache, Failure> {
        Ok(Cache {
            s_k: integer(fields, names[0], None, 0)?,
            topk: integer(fields, names[1], None, 0)?,
            page_block_size: integer(fields, names[2], Some(64), 1)?,
        })
    }

    /// Tokens that a query token attends to, each once.
    fn attended(&self) -> i64 {
        self.topk.min(self.s_k)
    }

    /// Tokens of a request that any of its query tokens is expected to name.
    fn touched(&self, s_q: i64) -> f64 {
        let missed = 1.0 - self.attended() as f64 / self.s_k.max(1) as f64;
        self.s_k as f64 * (1.0 - missed.powi(s_q as i32))
    }

    /// Pages of a request.
    fn pages(&self) -> i64 {
        (self.s_k + self.page_block_size - 1) / self.page_block_size
    }
}

impl SparseDecode {
    pub fn parse(fields: &Map<String, Value>) -> Result<SparseDecode, Failure> {
        let extra = match fields.contains_key("xtopk") {
            true => Some(Cache::parse(fields, ["xs", "xtopk", "xbs"])?),
            false => None,
        };
        let case = SparseDecode {
            b: integer(fields, "b", None, 0)?,
            s_q: integer(fields, "s_q", None, 0)?,
            h_q: integer(fields, "h_q", None, 1)?,
            d_qk: integer(fields, "d_qk", Some(576), 1)?,
            cache: Cache::parse(fields, ["s_k", "topk", "bs"])?,
            extra,
        };
        for cache in case.caches() {
            let indices = case.b as i128 * case.s_q as i128 * cache.topk as i128;
            if indices > MAX_INDICES as i128 {
                return Err(Failure::Usage(format!("b * s_q * topk = {indices}: must be at most {MAX_INDICES}")));
            }
            let tokens = case.b as i128 * cache.pages() as i128 * cache.page_block_size as i128;
            if tokens > MAX_SIZE as i128 {
                return Err(Failure::Usage(format!("{tokens} tokens: must be at most {MAX_SIZE}")));
            }
        }
        Ok(case)
    }

    fn caches(&self) -> impl Iterator<Item = &Cache> {
        [Some(&self.cache), self.extra.as_ref()].into_iter().flatten()
    }

    /// Floating-point operations: 2 h_q n (d_qk + d_v).
    pub fn operations(&self) -> f64 {
        let attended: i64 = self.caches().map(Cache::attended).sum();
        2.0 * (self.b * self.s_q * attended) as f64 * self.h_q as f64 * (self.d_qk + D_V) as f64
    }

    /// Bytes of Q, of the output, and of the cached rows that are named, once for all query tokens of a request.
    pub fn bytes(&self) -> f64 {
        let row = if self.d_qk == 576 { 656.0 } else { 584.0 };
        let rows: f64 = self.caches().map(|cache| cache.touched(self.s_q)).sum();
        let queries = (self.b * self.s_q) as f64 * self.h_q as f64 * (self.d_qk + D_V) as f64;
        self.b as f64 * rows * row + 2.0 * queries
    }

    pub fn name(&self) -> String {
        let SparseDecode { b, s_q, h_q, d_qk, cache, extra } = self;
        let mut name = format!("b{b} s_q{s_q} h_q{h_q} s_k{} topk{}", cache.s_k, cache.topk);
        if *d_qk != 576 {
            name.push_str(&format!(" d_qk{d_qk}"));
        }
        if cache.page_block_size != 64 {
            name.push_str(&format!(" bs{}", cache.page_block_size));
        }
        if let Some(extra) = extra {
            name.push_str(&format!(" xs{} xtopk{} xbs{}", extra.s_k, extra.topk, extra.page_block_size));
        }
        name
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
        let kernel = library.sparse_decode_kernel(&params)?;
        let mut tensors = vec![
            random(bytes(&[2, self.b, self.s_q, self.h_q, self.d_qk])?)?,
            target.alloc(bytes(&[2, self.b, self.s_q, self.h_q, D_V])?)?,
            target.alloc(bytes(&[4, self.b, self.s_q, self.h_q])?)?,
        ];
        params.q = input(&tensors[0]);
        params.out = output(&tensors[1]);
        params.lse = output(&tensors[2]);
        for (i, cache) in self.caches().enumerate() {
            let pages = self.b * cache.pages();
            let kv = fp8_cache(params.layout, self.d_qk, pages, cache.page_block_size, library, target, &mut random)?;
            let sizes = CacheIndices {
                b: self.b,
                s_q: self.s_q,
                s_k: cache.s_k,
                topk: cache.topk,
                page_block_size: cache.page_block_size,
                pages: cache.pages(),
            };
            let indices = inputs::cache_indices(sizes, &mut Random::new(3 + i as u64));
            let indices: Vec<u8> = indices.iter().flat_map(|index| index.to_le_bytes()).collect();
            let indices = target.upload(&indices)?;
            let (to_kv, to_indices) = match i {
                0 => (&mut params.kv_cache, &mut params.indices),
                _ => (&mut params.extra_kv_cache, &mut params.extra_indices),
            };
            (*to_kv, *to_indices) = (input(&kv), input(&indices));
            tensors.extend([kv, indices]);
        }
        Ok(Problem { kernel, params: Params::SparseDecode(params), _tensors: tensors })
    }

    /// Parameters without tensors.
    fn sizes(&self, batch_invariant: bool) -> flashmla_sparse_decode_params_t {
        let mut params = sparse_decode_params();
        params.layout = layout_of(self.d_qk);
        params.flags = if batch_invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
        params.b = self.b;
        params.s_q = self.s_q;
        params.h_q = self.h_q;
        params.d_qk = self.d_qk;
        params.num_blocks = self.b * self.cache.pages();
        params.page_block_size = self.cache.page_block_size;
        params.topk = self.cache.topk;
        if let Some(extra) = &self.extra {
            params.extra_num_blocks = self.b * extra.pages();
            params.extra_page_block_size = extra.page_block_size;
            params.extra_topk = extra.topk;
        }
        params
    }
}
