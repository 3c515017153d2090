//! A sparse decode in a file.

use super::bounds;
use super::case::{unwritten, Output, Results, D_V};
use super::failure::Failure;
use super::file::{dims, File};
use super::library::{input, output, sparse_decode_params, Library, SparseDecode};
use super::target::{Memory, Target};
use flashmla::capi::types::*;
use safetensors::tensor::{Dtype, TensorView};

/// A cache and what is attended to in it.
struct Cache<'a> {
    page_block_size: usize,
    kv_cache: TensorView<'a>,
    indices: TensorView<'a>,
    topk_length: Option<TensorView<'a>>,
}

pub struct SparseDecodeCase<'a> {
    layout: i32,
    q: TensorView<'a>,
    cache: Cache<'a>,
    extra: Option<Cache<'a>>,
    attn_sink: Option<TensorView<'a>>,
    out: Option<TensorView<'a>>,
    lse: Option<TensorView<'a>>,
    softmax_scale: f32,
    batch_invariant: bool,
    pub lse_empty_pos_inf: bool,
}

impl<'a> Cache<'a> {
    /// `None`: the file has no page size of it, or 0.
    fn parse(file: &File<'a>, prefix: &str, queries: [usize; 2]) -> Result<Option<Cache<'a>>, Failure> {
        let name = |part: &str| format!("{prefix}{part}");
        let page_block_size = file.size(&name("page_block_size"))?;
        if page_block_size == 0 {
            return Ok(None);
        }
        let [b, s_q] = queries;
        let kv_cache = file.any(&name("kv_cache"), Dtype::U8, &[2, 3], "U8 [num_blocks, bytes of a page]")?;
        let indices = format!("I32 [b = {b}, s_q = {s_q}, topk]");
        let indices = file.tensor(&name("indices"), &[Dtype::I32], [Some(b), Some(s_q), None], &indices)?;
        let topk_length = match file.has(&name("topk_length")) {
            false => None,
            true => {
                let expected = format!("I32 [b = {b}] or [b = {b}, s_q = {s_q}]");
                let view = file.any(&name("topk_length"), Dtype::I32, &[1, 2], &expected)?;
                if view.shape() != &[b, s_q][..view.shape().len()] {
                    return Err(super::file::unexpected(&name("topk_length"), &view, &expected));
                }
                Some(view)
            }
        };
        Ok(Some(Cache { page_block_size, kv_cache, indices, topk_length }))
    }

    fn num_blocks(&self) -> usize {
        self.kv_cache.shape()[0]
    }

    /// Bytes from page to page.
    fn page_stride(&self) -> usize {
        self.kv_cache.shape()[1..].iter().product()
    }

    fn topk(&self) -> usize {
        self.indices.shape()[2]
    }

    fn upload(&self, target: &Target) -> Result<[Memory; 3], Failure> {
        let lengths = self.topk_length.as_ref().map_or(&[][..], |view| view.data());
        Ok([target.upload(self.kv_cache.data())?, target.upload(self.indices.data())?, target.upload(lengths)?])
    }

    /// The cache, the indices and the lengths, as parameters.
    fn tensors(&self, memory: &[Memory; 3]) -> [flashmla_const_tensor_t; 3] {
        let mut tensors = [input(&memory[0]), input(&memory[1]), input(&memory[2])];
        tensors[0].strides = [self.page_stride() as i64, 1, 0, 0];
        if self.topk_length.as_ref().is_some_and(|view| view.shape().len() == 1) {
            // A length for each request.
            tensors[2].strides = [1, 0, 0, 0];
        }
        tensors
    }
}

impl<'a> SparseDecodeCase<'a> {
    pub fn parse(file: &File<'a>) -> Result<SparseDecodeCase<'a>, Failure> {
        let layout = match file.one_of("layout", None, &["V32", "V4"])?.as_str() {
            "V32" => FLASHMLA_LAYOUT_V32,
            _ => FLASHMLA_LAYOUT_V4,
        };
        let q = file.tensor("q", &[Dtype::BF16], [None; 4], "BF16 [b, s_q, h_q, d_qk]")?;
        let [b, s_q, h_q, _] = dims(&q);
        let missing = || Failure::Usage("metadata page_block_size: missing: must be a number of at least 1".into());
        Ok(SparseDecodeCase {
            layout,
            cache: Cache::parse(file, "", [b, s_q])?.ok_or_else(missing)?,
            extra: Cache::parse(file, "extra_", [b, s_q])?,
            attn_sink: file.optional("attn_sink", Dtype::F32, &[h_q])?,
            out: file.optional("out", Dtype::BF16, &[b, s_q, h_q, D_V])?,
            lse: file.optional("lse", Dtype::F32, &[b, h_q, s_q])?,
            softmax_scale: file.softmax_scale()?,
            batch_invariant: file.switch("batch_invariant")?,
            lse_empty_pos_inf: file.lse_empty_pos_inf()?,
            q,
        })
    }

    pub fn run(&self, library: &Library, target: &Target) -> Result<Results<'a>, Failure> {
        let [b, s_q, h_q, d_qk] = dims(&self.q);
        let mut params = sparse_decode_params();
        params.layout = self.layout;
        params.flags = if self.lse_empty_pos_inf { FLASHMLA_FLAG_LSE_EMPTY_POS_INF } else { 0 };
        params.flags |= if self.batch_invariant { FLASHMLA_FLAG_BATCH_INVARIANT } else { 0 };
        params.softmax_scale = self.softmax_scale;
        [params.b, params.s_q, params.h_q, params.d_qk] = [b, s_q, h_q, d_qk].map(|n| n as i64);
        params.num_blocks = self.cache.num_blocks() as i64;
        params.page_block_size = self.cache.page_block_size as i64;
        params.topk = self.cache.topk() as i64;
        if let Some(extra) = &self.extra {
            params.extra_num_blocks = extra.num_blocks() as i64;
            params.extra_page_block_size = extra.page_block_size as i64;
            params.extra_topk = extra.topk() as i64;
        }
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.sparse_decode_kernel(&params)?;

        let q = target.upload(self.q.data())?;
        let cache = self.cache.upload(target)?;
        let extra = self.extra.as_ref().map(|extra| extra.upload(target)).transpose()?;
        let sink = self.attn_sink.as_ref().map(|view| target.upload(view.data())).transpose()?;
        let (out_shape, lse_shape) = (vec![b, s_q, h_q, D_V], vec![b, h_q, s_q]);
        let out = unwritten(target, Dtype::BF16, &out_shape)?;
        let lse = unwritten(target, Dtype::F32, &lse_shape)?;
        params.q = input(&q);
        [params.kv_cache, params.indices, params.topk_length] = self.cache.tensors(&cache);
        if let (Some(case), Some(memory)) = (&self.extra, &extra) {
            [params.extra_kv_cache, params.extra_indices, params.extra_topk_length] = case.tensors(memory);
        }
        if let Some(sink) = &sink {
            params.attn_sink = input(sink);
        }
        params.out = output(&out);
        params.lse = output(&lse);
        // SAFETY: the tensors have the sizes in the parameters and live to the end of this function.
        let decode = unsafe { SparseDecode::new(library, target, params) }?;
        decode.plan(target.stream())?;
        decode.run(target.stream())?;
        target.synchronize()?;
        let outputs = vec![
            Output {
                name: "out",
                dtype: Dtype::BF16,
                shape: out_shape,
                bytes: out.read()?,
                reference: self.out.clone(),
                bound: bounds::OUT,
            },
            Output {
                name: "lse",
                dtype: Dtype::F32,
                shape: lse_shape,
                bytes: lse.read()?,
                reference: self.lse.clone(),
                bound: bounds::LSE,
            },
        ];
        Ok(Results { kernel, outputs })
    }
}
