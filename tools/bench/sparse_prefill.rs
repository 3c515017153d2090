//! A case of sparse prefill.

use super::case::{integer, wrong, D_V};
use super::failure::Failure;
use super::inputs::{self, Random};
use super::library::{input, output, sparse_prefill_params, Library};
use super::problem::{bytes, Params, Problem};
use super::target::{Memory, Target};
use serde_json::{Map, Value};

/// The indices are made on the host.
const MAX_INDICES: i64 = 1 << 30;

#[derive(Debug, Clone, PartialEq)]
pub struct SparsePrefill {
    pub s_q: i64,
    pub s_kv: i64,
    pub h_q: i64,
    pub topk: i64,
    pub d_qk: i64,
    /// Part of a query's rows that the previous query has, too; without it rows are drawn anew.
    pub shared: Option<f64>,
}

impl SparsePrefill {
    pub fn parse(fields: &Map<String, Value>) -> Result<SparsePrefill, Failure> {
        let shared = match fields.get("shared") {
            None => None,
            Some(value) => match value.as_f64() {
                Some(part) if (0.0..=1.0).contains(&part) => Some(part),
                _ => return Err(wrong("shared", value, "a number 0 .. 1")),
            },
        };
        let case = SparsePrefill {
            s_q: integer(fields, "s_q", None, 0)?,
            s_kv: integer(fields, "s_kv", None, 0)?,
            h_q: integer(fields, "h_q", None, 1)?,
            topk: integer(fields, "topk", None, 0)?,
            d_qk: integer(fields, "d_qk", Some(576), 1)?,
            shared,
        };
        if case.s_q * case.topk > MAX_INDICES {
            return Err(Failure::Usage(format!(
                "s_q * topk = {}: must be at most {MAX_INDICES}",
                case.s_q * case.topk
            )));
        }
        Ok(case)
    }

    /// Rows that a query attends to, each once.
    fn attended(&self) -> i64 {
        self.topk.min(self.s_kv)
    }

    /// Floating-point operations: 2 h_q n (d_qk + d_v).
    pub fn operations(&self) -> f64 {
        2.0 * (self.s_q * self.attended()) as f64 * self.h_q as f64 * (self.d_qk + D_V) as f64
    }

    /// Bytes of Q, of the output, and of the rows that are named, each moved once: gathering a row again is
    /// the L2's work.
    pub fn bytes(&self) -> f64 {
        let rows = self.s_kv.min(self.s_q * self.attended()) as f64;
        2.0 * (rows * self.d_qk as f64 + self.s_q as f64 * self.h_q as f64 * (self.d_qk + D_V) as f64)
    }

    pub fn name(&self) -> String {
        let mut name = format!("s_q{} s_kv{} h_q{} topk{}", self.s_q, self.s_kv, self.h_q, self.topk);
        if self.d_qk != 576 {
            name.push_str(&format!(" d_qk{}", self.d_qk));
        }
        if let Some(shared) = self.shared {
            name.push_str(&format!(" shared{shared}"));
        }
        name
    }

    /// `random` gives memory of some size in bytes, filled with random elements.
    pub fn problem(
        &self,
        library: &Library,
        target: &Target,
        mut random: impl FnMut(usize) -> Result<Memory, Failure>,
    ) -> Result<Problem, Failure> {
        let mut params = sparse_prefill_params();
        params.s_q = self.s_q;
        params.h_q = self.h_q;
        params.s_kv = self.s_kv;
        params.d_qk = self.d_qk;
        params.topk = self.topk;
        // The library's opinion of the sizes comes before memory of these sizes.
        let kernel = library.sparse_prefill_kernel(&params)?;
        let indices = inputs::indices(self, &mut Random::new(3));
        let indices: Vec<u8> = indices.iter().flat_map(|row| row.to_le_bytes()).collect();
        let logs = bytes(&[4, self.s_q, self.h_q])?;
        let tensors = vec![
            random(bytes(&[2, self.s_q, self.h_q, self.d_qk])?)?,
            random(bytes(&[2, self.s_kv, self.d_qk])?)?,
            target.upload(&indices)?,
            target.alloc(bytes(&[2, self.s_q, self.h_q, D_V])?)?,
            target.alloc(logs)?,
            target.alloc(logs)?,
        ];
        params.q = input(&tensors[0]);
        params.kv = input(&tensors[1]);
        params.indices = input(&tensors[2]);
        params.out = output(&tensors[3]);
        params.max_logits = output(&tensors[4]);
        params.lse = output(&tensors[5]);
        Ok(Problem { kernel, params: Params::SparsePrefill(params), _tensors: tensors })
    }
}
