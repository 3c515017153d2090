//! The command line of `replay`.

use super::failure::Failure;
use super::target::DeviceName;

pub const USAGE: &str = "\
usage: replay CASE.safetensors --device cpu|N [--out OUT.safetensors]

Runs the operation that the file describes, through the C API, on the CPU backend or on CUDA device N. Compares with the outputs that the file has, and writes those
computed to OUT.safetensors.

Dense decode, metadata op \"dense_decode\"
  Tensors:  q [b, s_q, h_q, d_qk] and kv_cache [num_blocks, page_block_size, h_kv, d_qk], both
            BF16 or both F16; block_table [b, max_blocks_per_seq] and cache_seqlens [b], I32.
  Outputs:  out [b, s_q, h_q, 512] of q's type, lse [b, h_q, s_q] F32.
  Optional: metadata causal \"0\"|\"1\", batch_invariant \"0\"|\"1\".
Sparse decode, metadata op \"sparse_decode\", layout \"V32\"|\"V4\", page_block_size
  Tensors:  q [b, s_q, h_q, d_qk] BF16; kv_cache [num_blocks, bytes of a page] (or three dimensions
            that come to that) U8; indices [b, s_q, topk] I32.
  Outputs:  out [b, s_q, h_q, 512] BF16, lse [b, h_q, s_q] F32.
  Optional: topk_length [b] or [b, s_q] I32, attn_sink [h_q] F32, a second cache in extra_kv_cache,
            extra_indices, extra_topk_length and metadata extra_page_block_size; metadata
            batch_invariant \"0\"|\"1\".
Sparse prefill, metadata op \"sparse_prefill\"
  Tensors:  q [s_q, h_q, d_qk] and kv [s_kv, 1, d_qk], BF16; indices [s_q, 1, topk] I32.
  Outputs:  out [s_q, h_q, 512] BF16, max_logits and lse [s_q, h_q] F32.
  Optional: topk_length [s_q] I32, attn_sink [h_q] F32.
All, optional metadata: softmax_scale (d_qk^-0.5), lse_empty \"-inf\"|\"+inf\", lse_base \"e\".

Exit code: 0 within the bounds (or nothing to compare with), 1 outside them or the run failed,
           2 wrong usage or a malformed file, 3 not possible on this machine.
";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    pub case: String,
    pub device: DeviceName,
    pub out: Option<String>,
}

/// `None`: the usage was asked for.
pub fn parse(args: &[String]) -> Result<Option<Args>, Failure> {
    let (mut case, mut device, mut out) = (None, None, None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or(Failure::Usage(format!("{arg}: a value must follow")));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--device" => device = Some(DeviceName::parse(&value()?)?),
            "--out" => out = Some(value()?),
            _ if arg.starts_with('-') => return Err(Failure::Usage(format!("{arg}: unknown option"))),
            _ if case.is_some() => return Err(Failure::Usage(format!("{arg}: one case file at a time"))),
            _ => case = Some(arg.clone()),
        }
    }
    let case = case.ok_or(Failure::Usage("CASE.safetensors is missing".into()))?;
    let device = device.ok_or(Failure::Usage("--device cpu|N is missing".into()))?;
    Ok(Some(Args { case, device, out }))
}
