//! A case of sparse decode in one line: what a failing test prints, and what `FLASHMLA_TEST_SPARSE_DECODE` takes.

use crate::spec::Layout as Strides;
use flashmla::problem::layout::Layout;
use std::fmt;
use std::str::FromStr;

/// How the indices that count name tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Any token, so that some are named twice.
    Any,
    /// Each token at most once, as long as there are tokens.
    Distinct,
    /// A query names one token again and again.
    Same,
    /// A query names three tokens again and again.
    Three,
    /// Tokens in their order, from the first.
    Rising,
}

/// What the scales of a cache are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    Powers,
    /// Any positive number (of V32; V4 holds powers of two alone).
    Odd,
}

const PICKS: [(Pick, &str); 5] = [
    (Pick::Any, "any"),
    (Pick::Distinct, "distinct"),
    (Pick::Same, "same"),
    (Pick::Three, "three"),
    (Pick::Rising, "rising"),
];

/// A second cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Extra {
    pub page: i64,
    pub s_k: i64,
    pub topk: i64,
    pub lengths: Option<Vec<i32>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub layout: Layout,
    pub b: i64,
    pub s_q: i64,
    pub h_q: i64,
    /// Tokens of a page, and of the cache, rounded up to pages.
    pub page: i64,
    pub s_k: i64,
    pub topk: i64,
    pub pick: Pick,
    pub scales: Scales,
    /// Of a hundred indices that count, so many lie outside the cache, at any place.
    pub masked: u64,
    /// Of so many query tokens, the last one has masked indices alone; 0: none.
    pub empty_every: i64,
    /// `topk_length`, again and again over the query tokens; `None`: left out.
    pub lengths: Option<Vec<i32>>,
    /// Lengths are told for requests, and not for query tokens.
    pub by_request: bool,
    pub extra: Option<Extra>,
    /// `attn_sink`, again and again over the heads; `None`: left out.
    pub sinks: Option<Vec<f32>>,
    pub lse_pos_inf: bool,
    pub want_lse: bool,
    pub invariant: bool,
    /// 0: the default.
    pub scale: f32,
    /// Standard deviation of Q; that of the cache is about 0.1.
    pub q_std: f64,
    /// Scores rise along the tokens for some heads and fall for the others, by 40 in all.
    pub ramp: bool,
    pub strides: Strides,
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            layout: Layout::V32,
            b: 2,
            s_q: 2,
            h_q: 64,
            page: 64,
            s_k: 300,
            topk: 130,
            pick: Pick::Any,
            scales: Scales::Powers,
            masked: 10,
            empty_every: 0,
            lengths: None,
            by_request: false,
            extra: None,
            sinks: None,
            lse_pos_inf: false,
            want_lse: true,
            invariant: false,
            scale: 0.0,
            q_std: 1.0,
            ramp: false,
            strides: Strides::Contiguous,
            seed: 1,
        }
    }
}

impl Spec {
    /// (query row, index) pairs: what the reference's time goes by.
    pub fn pairs(&self) -> i64 {
        self.b * self.s_q * self.h_q * (self.topk + self.extra.as_ref().map_or(0, |extra| extra.topk))
    }

    pub fn d_qk(&self) -> i64 {
        crate::latent::d_qk(self.layout)
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let pick = PICKS.iter().find(|(pick, _)| *pick == self.pick).map_or("", |(_, word)| word);
        write!(f, "{}", if self.layout == Layout::V4 { "v4" } else { "v32" })?;
        write!(f, " b={} s_q={} h_q={} page={} s_k={}", self.b, self.s_q, self.h_q, self.page, self.s_k)?;
        write!(f, " topk={} {pick} masked={} empty_every={}", self.topk, self.masked, self.empty_every)?;
        write!(f, " q_std={} scale={} seed={}", self.q_std, self.scale, self.seed)?;
        for (set, word) in [
            (self.scales == Scales::Odd, "odd"),
            (self.by_request, "by_request"),
            (self.lse_pos_inf, "lse_pos_inf"),
            (!self.want_lse, "no_lse"),
            (self.invariant, "invariant"),
            (self.ramp, "ramp"),
            (self.strides == Strides::Padded, "padded"),
            (self.strides == Strides::Swapped, "swapped"),
        ] {
            if set {
                write!(f, " {word}")?;
            }
        }
        if let Some(lengths) = &self.lengths {
            write!(f, " lengths={}", list(lengths))?;
        }
        if let Some(extra) = &self.extra {
            write!(f, " extra={},{},{}", extra.page, extra.s_k, extra.topk)?;
            if let Some(lengths) = &extra.lengths {
                write!(f, " extra_lengths={}", list(lengths))?;
            }
        }
        if let Some(sinks) = &self.sinks {
            write!(f, " sinks={}", list(sinks))?;
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(line: &str) -> Result<Spec, String> {
        fn number<T: FromStr>(key: &str, value: &str) -> Result<T, String> {
            value.parse().map_err(|_| format!("{key}={value}: not a number that fits"))
        }
        fn numbers<T: FromStr>(key: &str, value: &str) -> Result<Vec<T>, String> {
            value.split(',').map(|v| number(key, v)).collect()
        }
        let mut spec = Spec::default();
        for word in line.split_whitespace() {
            if let Some((pick, _)) = PICKS.iter().find(|(_, name)| *name == word) {
                spec.pick = *pick;
                continue;
            }
            match word.split_once('=').unwrap_or((word, "")) {
                ("v32", "") => spec.layout = Layout::V32,
                ("v4", "") => spec.layout = Layout::V4,
                ("odd", "") => spec.scales = Scales::Odd,
                ("by_request", "") => spec.by_request = true,
                ("lse_pos_inf", "") => spec.lse_pos_inf = true,
                ("no_lse", "") => spec.want_lse = false,
                ("invariant", "") => spec.invariant = true,
                ("ramp", "") => spec.ramp = true,
                ("padded", "") => spec.strides = Strides::Padded,
                ("swapped", "") => spec.strides = Strides::Swapped,
                ("b", v) => spec.b = number("b", v)?,
                ("s_q", v) => spec.s_q = number("s_q", v)?,
                ("h_q", v) => spec.h_q = number("h_q", v)?,
                ("page", v) => spec.page = number("page", v)?,
                ("s_k", v) => spec.s_k = number("s_k", v)?,
                ("topk", v) => spec.topk = number("topk", v)?,
                ("masked", v) => spec.masked = number("masked", v)?,
                ("empty_every", v) => spec.empty_every = number("empty_every", v)?,
                ("q_std", v) => spec.q_std = number("q_std", v)?,
                ("scale", v) => spec.scale = number("scale", v)?,
                ("seed", v) => spec.seed = number("seed", v)?,
                ("lengths", v) => spec.lengths = Some(numbers("lengths", v)?),
                ("extra", v) => match numbers("extra", v)?[..] {
                    [page, s_k, topk] => spec.extra = Some(Extra { page, s_k, topk, lengths: None }),
                    _ => return Err(format!("extra={v}: must be page,s_k,topk")),
                },
                ("extra_lengths", v) => match &mut spec.extra {
                    Some(extra) => extra.lengths = Some(numbers("extra_lengths", v)?),
                    None => return Err("extra_lengths: must follow extra".into()),
                },
                ("sinks", v) => spec.sinks = Some(numbers("sinks", v)?),
                _ => return Err(format!("{word}: not a word of a case")),
            }
        }
        Ok(spec)
    }
}

#[test]
fn a_printed_case_reads_back() {
    let spec = Spec {
        layout: Layout::V4,
        pick: Pick::Three,
        scales: Scales::Odd,
        empty_every: 3,
        lengths: Some(vec![-1, 0, i32::MAX]),
        by_request: true,
        extra: Some(Extra { page: 2, s_k: 77, topk: 5, lengths: Some(vec![3]) }),
        sinks: Some(vec![f32::NEG_INFINITY, 0.5, f32::INFINITY]),
        lse_pos_inf: true,
        want_lse: false,
        invariant: true,
        scale: 0.1,
        q_std: 0.3,
        ramp: true,
        strides: Strides::Padded,
        seed: 9,
        ..Spec::default()
    };
    assert_eq!(spec.to_string().parse(), Ok(spec));
    assert_eq!(Spec::default().to_string().parse(), Ok(Spec::default()));
    assert_eq!("topk=x".parse::<Spec>(), Err("topk=x: not a number that fits".into()));
    assert_eq!("heads".parse::<Spec>(), Err("heads: not a word of a case".into()));
}
