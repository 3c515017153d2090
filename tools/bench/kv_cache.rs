//! Cases of append, gather and index mapping, and caches of FP8 for other operations.

use super::case::{integer, wrong, MAX_SIZE};
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::*;
use super::problem::{bytes, Params, Problem};
use super::target::{Memory, Target};
use flashmla::capi::types::*;
use serde_json::{Map, Value};

/// Rows that are quantised at once.
const CHUNK: i64 = 1 << 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Append,
    Gather,
    Map,
}

#[derive(Debug, Clone, PartialEq)]
pub struct KvCache {
    pub operation: Operation,
    /// Rows; of index mapping, query tokens.
    pub n: i64,
    /// Positions of a query token, of index mapping.
    pub topk: i64,
    pub layout: i32,
    pub d_qk: i64,
    /// Tokens of the cache; of index mapping, of the one request.
    pub s_k: i64,
    /// The tokens of a page one after another, as prompts have them; or each anywhere.
    pub by_pages: bool,
    pub page_block_size: i64,
}

/// The layout of FP8 pages that has this head dim.
pub fn layout_of(d_qk: i64) -> i32 {
    if d_qk == 512 {
        FLASHMLA_LAYOUT_V4
    } else {
        FLASHMLA_LAYOUT_V32
    }
}

fn token_bytes(layout: i32, d_qk: i64) -> i64 {
    match layout {
        FLASHMLA_LAYOUT_V32 => 656,
        FLASHMLA_LAYOUT_V4 => 584,
        _ => 2 * d_qk,
    }
}

/// A cache of quantised random tokens; contiguous, which `layout` and the page size must allow.
pub fn fp8_cache(
    layout: i32,
    d_qk: i64,
    pages: i64,
    page_block_size: i64,
    library: &Library,
    target: &Target,
    mut random: impl FnMut(usize) -> Result<Memory, Failure>,
) -> Result<Memory, Failure> {
    let cache = target.alloc(bytes(&[pages, page_block_size, token_bytes(layout, d_qk)])?)?;
    let tokens = pages * page_block_size;
    let rows = random(bytes(&[2, CHUNK.min(tokens), d_qk])?)?;
    let mut params = kv_cache_append_params();
    params.layout = layout;
    params.slot_type = FLASHMLA_INDEX_INT64;
    params.d_qk = d_qk;
    params.num_blocks = pages;
    params.page_block_size = page_block_size;
    params.rows = input(&rows);
    params.kv_cache = output(&cache);
    for first in (0..tokens).step_by(CHUNK as usize) {
        params.n = CHUNK.min(tokens - first);
        let slots: Vec<u8> = (first..first + params.n).flat_map(|slot| slot.to_le_bytes()).collect();
        let slots = target.upload(&slots)?;
        params.slot_mapping = input(&slots);
        // SAFETY: everything has the size in the parameters and lives until the work is done.
        unsafe { library.kv_cache_append(&params, target.stream()) }?;
        target.synchronize()?;
    }
    Ok(cache)
}

impl KvCache {
    pub fn parse(op: &str, fields: &Map<String, Value>) -> Result<KvCache, Failure> {
        let operation = match op {
            "kv_cache_append" => Operation::Append,
            "kv_cache_gather" => Operation::Gather,
            _ => Operation::Map,
        };
        let (layout, d_qk) = match fields.get("layout").map(|v| v.as_str()) {
            None | Some(Some("v32")) => (FLASHMLA_LAYOUT_V32, 576),
            Some(Some("v4")) => (FLASHMLA_LAYOUT_V4, 512),
            Some(Some("bf16")) => (FLASHMLA_LAYOUT_PLAIN, integer(fields, "d_qk", Some(576), 1)?),
            Some(_) => return Err(wrong("layout", &fields["layout"], "\"v32\", \"v4\" or \"bf16\"")),
        };
        let n = integer(fields, "n", None, 0)?;
        let by_pages = match fields.get("order").map(|v| v.as_str()) {
            None | Some(Some("pages")) => true,
            Some(Some("tokens")) => false,
            Some(_) => return Err(wrong("order", &fields["order"], "\"pages\" or \"tokens\"")),
        };
        let case = KvCache {
            operation,
            n,
            topk: if operation == Operation::Map { integer(fields, "topk", None, 0)? } else { 0 },
            layout,
            d_qk,
            s_k: integer(fields, "s_k", Some(n), 0)?,
            by_pages,
            page_block_size: integer(fields, "bs", Some(64), 1)?,
        };
        // Slots and positions are made on the host.
        if case.n as i128 * case.topk.max(1) as i128 > 1 << 28 {
            return Err(Failure::Usage(format!("n = {n}: too many for this benchmark")));
        }
        if case.s_k > MAX_SIZE - case.page_block_size {
            return Err(Failure::Usage(format!("s_k = {}: too many for this benchmark", case.s_k)));
        }
        Ok(case)
    }

    pub fn op(&self) -> &'static str {
        match self.operation {
            Operation::Append => "kv_cache_append",
            Operation::Gather => "kv_cache_gather",
            Operation::Map => "map_indices",
        }
    }

    pub fn operations(&self) -> f64 {
        0.0
    }

    /// Bytes read and written: rows of BF16, tokens of the cache, indices.
    pub fn bytes(&self) -> f64 {
        match self.operation {
            Operation::Map => 8.0 * (self.n * self.topk) as f64,
            _ => self.n as f64 * (2 * self.d_qk + token_bytes(self.layout, self.d_qk) + 4) as f64,
        }
    }

    pub fn name(&self) -> String {
        let layout = ["bf16", "v32", "v4"][self.layout as usize];
        let order = if self.by_pages { "" } else { " by tokens" };
        match self.operation {
            Operation::Map => format!("map n{} topk{} bs{}", self.n, self.topk, self.page_block_size),
            Operation::Append => format!("append {layout} n{} bs{}{order}", self.n, self.page_block_size),
            Operation::Gather => format!("gather {layout} n{} bs{}{order}", self.n, self.page_block_size),
        }
    }

    fn pages(&self) -> i64 {
        (self.s_k + self.page_block_size - 1) / self.page_block_size
    }

    /// `random` gives memory of some size in bytes, filled with random elements.
    pub fn problem(
        &self,
        library: &Library,
        target: &Target,
        mut random: impl FnMut(usize) -> Result<Memory, Failure>,
    ) -> Result<Problem, Failure> {
        let pages = self.pages();
        let upload = |values: &[i32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            target.upload(&bytes)
        };
        let mut generator = Random::new(3);
        if self.operation == Operation::Map {
            let mut params = map_indices_params();
            (params.b, params.s_q, params.topk) = (1, self.n, self.topk);
            (params.num_blocks, params.page_block_size, params.max_blocks_per_seq) =
                (pages, self.page_block_size, pages);
            let positions: Vec<i32> =
                (0..self.n * self.topk).map(|_| (generator.next() % self.s_k.max(1) as u64) as i32).collect();
            let tensors = vec![
                upload(&positions)?,
                upload(&inputs::shuffled(pages, &mut generator))?,
                target.alloc(bytes(&[4, self.n, self.topk])?)?,
            ];
            params.positions = input(&tensors[0]);
            params.block_table = input(&tensors[1]);
            params.indices = output(&tensors[2]);
            return Ok(Problem { kernel: self.op().into(), params: Params::Map(params), _tensors: tensors });
        }
        // Distinct tokens as far as there are enough.
        let page = self.page_block_size as i32;
        let mut slots = match self.by_pages {
            true => {
                let pages = inputs::shuffled(pages, &mut generator);
                pages.into_iter().flat_map(|p| p * page..(p + 1) * page).collect()
            }
            false => inputs::shuffled(pages * self.page_block_size, &mut generator),
        };
        let tokens = slots.len().max(1);
        slots = (0..self.n as usize).map(|i| slots.get(i % tokens).copied().unwrap_or(-1)).collect();
        let cache_bytes = bytes(&[pages, self.page_block_size, token_bytes(self.layout, self.d_qk)])?;
        let row_bytes = bytes(&[2, self.n, self.d_qk])?;
        if self.operation == Operation::Append {
            let mut params = kv_cache_append_params();
            (params.layout, params.n, params.d_qk) = (self.layout, self.n, self.d_qk);
            (params.num_blocks, params.page_block_size) = (pages, self.page_block_size);
            let tensors = vec![random(row_bytes)?, upload(&slots)?, target.alloc(cache_bytes)?];
            params.rows = input(&tensors[0]);
            params.slot_mapping = input(&tensors[1]);
            params.kv_cache = output(&tensors[2]);
            return Ok(Problem { kernel: self.op().into(), params: Params::Append(params), _tensors: tensors });
        }
        let mut params = kv_cache_gather_params();
        (params.layout, params.n, params.d_qk) = (self.layout, self.n, self.d_qk);
        (params.num_blocks, params.page_block_size) = (pages, self.page_block_size);
        let cache = match self.layout {
            FLASHMLA_LAYOUT_PLAIN => random(cache_bytes)?,
            fp8 => fp8_cache(fp8, self.d_qk, pages, self.page_block_size, library, target, &mut random)?,
        };
        let tensors = vec![cache, upload(&slots)?, target.alloc(row_bytes)?];
        params.kv_cache = input(&tensors[0]);
        params.indices = input(&tensors[1]);
        params.rows = output(&tensors[2]);
        Ok(Problem { kernel: self.op().into(), params: Params::Gather(params), _tensors: tensors })
    }
}
