//! A case in one line: what a failing test prints, and what `FLASHMLA_TEST_CASE` takes.

use flashmla::problem::dense_decode::{Dtype, Shape};
use flashmla::problem::layout;
use flashmla::schedule::ceil_div;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Strides left 0, which stands for contiguous.
    Contiguous,
    /// Gaps behind every dimension.
    Padded,
    /// Gaps, tokens and heads in the other order, and addresses as little aligned as is allowed.
    Swapped,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub dtype: Dtype,
    pub d_qk: i64,
    pub h_q: i64,
    pub h_kv: i64,
    pub s_q: i64,
    pub page: i64,
    /// As given to the library: may be negative, or more than the block table holds.
    pub lens: Vec<i32>,
    /// Columns of the block table; `None`: what the longest request needs, and one more.
    pub columns: Option<i64>,
    /// Pages that no request uses.
    pub spare_pages: i64,
    /// Some of the used entries of the block table lie outside the cache.
    pub bad_pages: bool,
    pub causal: bool,
    pub lse_pos_inf: bool,
    pub invariant: bool,
    pub want_lse: bool,
    /// 0: the default.
    pub scale: f32,
    /// Standard deviation of Q; that of the cache is 0.1.
    pub q_std: f64,
    /// Scores rise along the request for some heads and fall for the others, by 40 in all.
    pub ramp: bool,
    pub layout: Layout,
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            dtype: Dtype::Bf16,
            d_qk: 576,
            h_q: 16,
            h_kv: 1,
            s_q: 1,
            page: 64,
            lens: vec![129, 0, 65],
            columns: None,
            spare_pages: 2,
            bad_pages: false,
            causal: false,
            lse_pos_inf: false,
            invariant: false,
            want_lse: true,
            scale: 0.0,
            q_std: 1.0,
            ramp: false,
            layout: Layout::Contiguous,
            seed: 1,
        }
    }
}

impl Spec {
    pub fn b(&self) -> i64 {
        self.lens.len() as i64
    }

    /// As the library sees it.
    pub fn shape(&self) -> Shape {
        Shape {
            dtype: self.dtype,
            causal: self.causal,
            lse_empty_pos_inf: self.lse_pos_inf,
            batch_invariant: self.invariant,
            layout: layout::Layout::Plain,
            b: self.b(),
            s_q: self.s_q,
            h_q: self.h_q,
            h_kv: self.h_kv,
            d_qk: self.d_qk,
            num_blocks: self.num_blocks(),
            page_block_size: self.page,
            max_blocks_per_seq: self.columns(),
        }
    }

    /// With a block table so long that the kernel for long requests is chosen where there are two, whatever the lengths;
    /// which it holds.
    pub fn with_long_table(self) -> Spec {
        let tiles = ceil_div(6000, self.lens.len().max(1) as i64);
        Spec { columns: Some(ceil_div(tiles * 64, self.page).max(self.columns())), ..self }
    }

    pub fn columns(&self) -> i64 {
        let needed = |len: &i32| ceil_div((*len as i64).max(0), self.page);
        self.columns.unwrap_or_else(|| self.lens.iter().map(needed).max().unwrap_or(0) + 1)
    }

    /// The tokens of a request after the clamping that the contract asks for.
    pub fn tokens(&self, request: usize) -> i64 {
        (self.lens[request] as i64).clamp(0, self.columns() * self.page)
    }

    /// (query row, token) pairs: what the reference's time goes by.
    pub fn pairs(&self) -> i64 {
        (0..self.lens.len()).map(|i| self.tokens(i)).sum::<i64>() * self.s_q * self.h_q
    }

    pub fn num_blocks(&self) -> i64 {
        let used: i64 = (0..self.lens.len()).map(|i| ceil_div(self.tokens(i), self.page)).sum();
        used + self.spare_pages
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let dtype = if self.dtype == Dtype::Bf16 { "bf16" } else { "fp16" };
        write!(f, "{dtype} d_qk={} h_q={} h_kv={} s_q={}", self.d_qk, self.h_q, self.h_kv, self.s_q)?;
        write!(f, " page={} spare={} q_std={} scale={}", self.page, self.spare_pages, self.q_std, self.scale)?;
        for (set, word) in [
            (self.causal, "causal"),
            (self.lse_pos_inf, "lse_pos_inf"),
            (self.invariant, "invariant"),
            (self.bad_pages, "bad_pages"),
            (self.ramp, "ramp"),
            (!self.want_lse, "no_lse"),
            (self.layout == Layout::Padded, "padded"),
            (self.layout == Layout::Swapped, "swapped"),
        ] {
            if set {
                write!(f, " {word}")?;
            }
        }
        if let Some(columns) = self.columns {
            write!(f, " columns={columns}")?;
        }
        let lens: Vec<String> = self.lens.iter().map(|l| l.to_string()).collect();
        write!(f, " seed={} lens={}", self.seed, lens.join(","))
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(line: &str) -> Result<Spec, String> {
        fn number<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{key}={value}: not a number that fits"))
        }
        let mut spec = Spec::default();
        for word in line.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("bf16", "") => spec.dtype = Dtype::Bf16,
                ("fp16", "") => spec.dtype = Dtype::Fp16,
                ("causal", "") => spec.causal = true,
                ("lse_pos_inf", "") => spec.lse_pos_inf = true,
                ("invariant", "") => spec.invariant = true,
                ("bad_pages", "") => spec.bad_pages = true,
                ("ramp", "") => spec.ramp = true,
                ("no_lse", "") => spec.want_lse = false,
                ("padded", "") => spec.layout = Layout::Padded,
                ("swapped", "") => spec.layout = Layout::Swapped,
                ("d_qk", v) => spec.d_qk = number("d_qk", v)?,
                ("h_q", v) => spec.h_q = number("h_q", v)?,
                ("h_kv", v) => spec.h_kv = number("h_kv", v)?,
                ("s_q", v) => spec.s_q = number("s_q", v)?,
                ("page", v) => spec.page = number("page", v)?,
                ("spare", v) => spec.spare_pages = number("spare", v)?,
                ("q_std", v) => spec.q_std = number("q_std", v)?,
                ("scale", v) => spec.scale = number("scale", v)?,
                ("columns", v) => spec.columns = Some(number("columns", v)?),
                ("seed", v) => spec.seed = number("seed", v)?,
                ("lens", "") => spec.lens = Vec::new(),
                ("lens", v) => spec.lens = v.split(',').map(|l| number("lens", l)).collect::<Result<_, _>>()?,
                _ => return Err(format!("{word}: not a word of a case")),
            }
        }
        Ok(spec)
    }
}

#[test]
fn a_printed_case_reads_back() {
    let spec = Spec {
        dtype: Dtype::Fp16,
        columns: Some(7),
        lens: vec![-1, 0, i32::MAX],
        causal: true,
        lse_pos_inf: true,
        invariant: true,
        bad_pages: true,
        ramp: true,
        want_lse: false,
        scale: 0.1,
        q_std: 0.3,
        layout: Layout::Swapped,
        seed: 9,
        ..Spec::default()
    };
    assert_eq!(spec.to_string().parse(), Ok(spec));
    assert_eq!("h_q=x".parse::<Spec>(), Err("h_q=x: not a number that fits".into()));
    assert_eq!("heads".parse::<Spec>(), Err("heads: not a word of a case".into()));
}
