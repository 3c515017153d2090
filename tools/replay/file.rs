//! A case file: named tensors and metadata. What is wrong with it is said by name, value and requirement.

use super::failure::Failure;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

pub struct File<'a> {
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

impl<'a> File<'a> {
    pub fn parse(file: &'a [u8]) -> Result<File<'a>, Failure> {
        let malformed = |e: safetensors::SafeTensorError| Failure::Usage(format!("not a safetensors file: {e}"));
        let (_, header) = SafeTensors::read_metadata(file).map_err(malformed)?;
        let tensors = SafeTensors::deserialize(file).map_err(malformed)?;
        Ok(File { tensors, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// A tensor of one of these types and of this shape, `None` being any size.
    pub fn tensor<const N: usize>(
        &self,
        name: &str,
        dtypes: &[Dtype],
        shape: [Option<usize>; N],
        expected: &str,
    ) -> Result<TensorView<'a>, Failure> {
        let missing = |_| Failure::Usage(format!("{name}: missing: must be {expected}"));
        let view = self.tensors.tensor(name).map_err(missing)?;
        let fits = |(size, wanted): (&usize, &Option<usize>)| wanted.unwrap_or(*size) == *size;
        let shaped = view.shape().len() == N && view.shape().iter().zip(&shape).all(fits);
        match shaped && dtypes.contains(&view.dtype()) {
            true => Ok(view),
            false => Err(unexpected(name, &view, expected)),
        }
    }

    /// A tensor of exactly this type and shape, if there is one.
    pub fn optional(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Option<TensorView<'a>>, Failure> {
        match self.tensors.tensor(name) {
            Err(_) => Ok(None),
            Ok(view) if view.dtype() == dtype && view.shape() == shape => Ok(Some(view)),
            Ok(view) => Err(unexpected(name, &view, &format!("{dtype} {shape:?}"))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// A tensor of this type and of one of these ranks.
    pub fn any(&self, name: &str, dtype: Dtype, ranks: &[usize], expected: &str) -> Result<TensorView<'a>, Failure> {
        let missing = |_| Failure::Usage(format!("{name}: missing: must be {expected}"));
        let view = self.tensors.tensor(name).map_err(missing)?;
        match view.dtype() == dtype && ranks.contains(&view.shape().len()) {
            true => Ok(view),
            false => Err(unexpected(name, &view, expected)),
        }
    }

    /// A number, 0 where the key is missing.
    pub fn size(&self, key: &str) -> Result<usize, Failure> {
        let Some(text) = self.metadata.get(key) else { return Ok(0) };
        match text.parse::<i32>() {
            Ok(n) if n >= 0 => Ok(n as usize),
            _ => Err(Failure::Usage(format!("metadata {key} = \"{text}\": must be a number 0 .. 2147483647"))),
        }
    }

    /// The value of a key that may have only these; without a default it must be there.
    pub fn one_of(&self, key: &str, default: Option<&str>, values: &[&str]) -> Result<String, Failure> {
        let wanted = || values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(" or ");
        match self.metadata.get(key).map(String::as_str).or(default) {
            Some(value) if values.contains(&value) => Ok(value.into()),
            Some(value) => Err(Failure::Usage(format!("metadata {key} = \"{value}\": must be {}", wanted()))),
            None => Err(Failure::Usage(format!("metadata {key}: missing: must be {}", wanted()))),
        }
    }

    pub fn switch(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.one_of(key, Some("0"), &["0", "1"])? == "1")
    }

    /// Whether a query that attends to nothing has an lse of +inf, not -inf.
    pub fn lse_empty_pos_inf(&self) -> Result<bool, Failure> {
        Ok(self.one_of("lse_empty", Some("-inf"), &["-inf", "+inf"])? == "+inf")
    }

    /// 0, the library's default, where the file has none.
    pub fn softmax_scale(&self) -> Result<f32, Failure> {
        let Some(text) = self.metadata.get("softmax_scale") else { return Ok(0.0) };
        match text.parse::<f32>() {
            Ok(scale) if scale.is_finite() && scale > 0.0 => Ok(scale),
            _ => Err(Failure::Usage(format!("metadata softmax_scale = \"{text}\": must be a positive number"))),
        }
    }
}

pub fn unexpected(name: &str, view: &TensorView, expected: &str) -> Failure {
    Failure::Usage(format!("{name}: {} {:?}: must be {expected}", view.dtype(), view.shape()))
}

/// The shape of a tensor whose rank was checked.
pub fn dims<const N: usize>(view: &TensorView) -> [usize; N] {
    std::array::from_fn(|i| view.shape()[i])
}
