//! A case file: tensors and metadata, checked against each other before anything is read.

use super::failure::Failure;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

/// Columns of `out`.
pub const D_V: usize = 512;

pub struct Case<'a> {
    pub dtype: Dtype,
    pub q: TensorView<'a>,
    pub kv_cache: TensorView<'a>,
    pub block_table: TensorView<'a>,
    pub cache_seqlens: TensorView<'a>,
    pub out: Option<TensorView<'a>>,
    pub lse: Option<TensorView<'a>>,
    pub softmax_scale: f32,
    pub causal: bool,
    pub lse_empty_pos_inf: bool,
    pub batch_invariant: bool,
}

impl<'a> Case<'a> {
    pub fn parse(file: &'a [u8]) -> Result<Case<'a>, Failure> {
        let malformed = |e: safetensors::SafeTensorError| Failure::Usage(format!("not a safetensors file: {e}"));
        let (_, header) = SafeTensors::read_metadata(file).map_err(malformed)?;
        let tensors = SafeTensors::deserialize(file).map_err(malformed)?;
        let metadata = Metadata(header.metadata().clone().unwrap_or_default());

        metadata.one_of("op", None, &["dense_decode"])?;
        // A file that counts in another base would compare wrongly.
        metadata.one_of("lse_base", Some("e"), &["e"])?;

        let find = |name: &str, expected: &str| {
            tensors.tensor(name).map_err(|_| Failure::Usage(format!("{name}: missing: must be {expected}")))
        };
        let element = &[Dtype::BF16, Dtype::F16][..];
        let q_layout = "BF16 or F16 [b, s_q, h_q, d_qk]";
        let q = checked("q", find("q", q_layout)?, element, [None; 4], q_layout)?;
        let [b, s_q, h_q, d_qk] = dims(&q);
        let dtype = q.dtype();

        let kv_layout = format!("{dtype} [num_blocks, page_block_size, h_kv, {d_qk}], of q's type and d_qk");
        let kv_shape = [None, None, None, Some(d_qk)];
        let kv_cache = checked("kv_cache", find("kv_cache", &kv_layout)?, &[dtype], kv_shape, &kv_layout)?;
        let table_layout = format!("I32 [b = {b}, max_blocks_per_seq]");
        let table = find("block_table", &table_layout)?;
        let block_table = checked("block_table", table, &[Dtype::I32], [Some(b), None], &table_layout)?;
        let lens_layout = format!("I32 [b = {b}]");
        let lens = find("cache_seqlens", &lens_layout)?;
        let cache_seqlens = checked("cache_seqlens", lens, &[Dtype::I32], [Some(b)], &lens_layout)?;

        let optional = |name: &str, dtype: Dtype, shape: &[usize]| match tensors.tensor(name) {
            Err(_) => Ok(None),
            Ok(view) if view.dtype() == dtype && view.shape() == shape => Ok(Some(view)),
            Ok(view) => Err(unexpected(name, &view, &format!("{dtype} {shape:?}"))),
        };
        Ok(Case {
            dtype,
            out: optional("out", dtype, &[b, s_q, h_q, D_V])?,
            lse: optional("lse", Dtype::F32, &[b, h_q, s_q])?,
            q,
            kv_cache,
            block_table,
            cache_seqlens,
            softmax_scale: metadata.scale()?,
            causal: metadata.one_of("causal", Some("0"), &["0", "1"])? == "1",
            lse_empty_pos_inf: metadata.one_of("lse_empty", Some("-inf"), &["-inf", "+inf"])? == "+inf",
            batch_invariant: metadata.one_of("batch_invariant", Some("0"), &["0", "1"])? == "1",
        })
    }
}

/// The shape of a tensor whose rank was checked.
pub fn dims<const N: usize>(view: &TensorView) -> [usize; N] {
    std::array::from_fn(|i| view.shape()[i])
}

/// A tensor of one of these types and of this shape, `None` being any size.
fn checked<'a, const N: usize>(
    name: &str,
    view: TensorView<'a>,
    dtypes: &[Dtype],
    shape: [Option<usize>; N],
    expected: &str,
) -> Result<TensorView<'a>, Failure> {
    let fits = |(size, wanted): (&usize, &Option<usize>)| wanted.unwrap_or(*size) == *size;
    let shaped = view.shape().len() == N && view.shape().iter().zip(&shape).all(fits);
    match shaped && dtypes.contains(&view.dtype()) {
        true => Ok(view),
        false => Err(unexpected(name, &view, expected)),
    }
}

fn unexpected(name: &str, view: &TensorView, expected: &str) -> Failure {
    Failure::Usage(format!("{name}: {} {:?}: must be {expected}", view.dtype(), view.shape()))
}

struct Metadata(HashMap<String, String>);

impl Metadata {
    /// The value of a key that may have only these; without a default it must be there.
    fn one_of(&self, key: &str, default: Option<&str>, values: &[&str]) -> Result<String, Failure> {
        let wanted = || values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(" or ");
        match self.0.get(key).map(String::as_str).or(default) {
            Some(value) if values.contains(&value) => Ok(value.into()),
            Some(value) => Err(Failure::Usage(format!("metadata {key} = \"{value}\": must be {}", wanted()))),
            None => Err(Failure::Usage(format!("metadata {key}: missing: must be {}", wanted()))),
        }
    }

    /// 0, the library's default, where the file has none.
    fn scale(&self) -> Result<f32, Failure> {
        let Some(text) = self.0.get("softmax_scale") else { return Ok(0.0) };
        match text.parse::<f32>() {
            Ok(scale) if scale.is_finite() && scale > 0.0 => Ok(scale),
            _ => Err(Failure::Usage(format!("metadata softmax_scale = \"{text}\": must be a positive number"))),
        }
    }
}
