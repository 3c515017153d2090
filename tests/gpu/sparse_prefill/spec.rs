//! A case of sparse prefill in one line: what a failing test prints, and what `FLASHMLA_TEST_PREFILL` takes.

use crate::spec::Layout;
use std::fmt;
use std::str::FromStr;

/// How the indices that count name rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// Any row, so that some are named twice.
    Any,
    /// Each row at most once, as long as there are rows.
    Distinct,
    /// A query names one row again and again.
    Same,
    /// A query names three rows again and again.
    Three,
    /// Rows in their order, from the first.
    Rising,
}

const PICKS: [(Pick, &str); 5] = [
    (Pick::Any, "any"),
    (Pick::Distinct, "distinct"),
    (Pick::Same, "same"),
    (Pick::Three, "three"),
    (Pick::Rising, "rising"),
];

#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub d_qk: i64,
    pub h_q: i64,
    pub s_q: i64,
    pub s_kv: i64,
    pub topk: i64,
    pub pick: Pick,
    /// Of a hundred indices that count, so many lie outside the KV, at any place.
    pub masked: u64,
    /// Of so many queries, the last one has masked indices alone; 0: none.
    pub empty_every: i64,
    /// `topk_length`, again and again over the queries; `None`: left out.
    pub lengths: Option<Vec<i32>>,
    /// `attn_sink`, again and again over the heads; `None`: left out.
    pub sinks: Option<Vec<f32>>,
    pub lse_pos_inf: bool,
    pub want_max_logits: bool,
    pub want_lse: bool,
    /// 0: the default.
    pub scale: f32,
    /// Standard deviation of Q; that of KV is 0.1.
    pub q_std: f64,
    /// Scores rise along the rows for some heads and fall for the others, by 40 in all.
    pub ramp: bool,
    pub layout: Layout,
    pub seed: u64,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            d_qk: 576,
            h_q: 64,
            s_q: 2,
            s_kv: 300,
            topk: 130,
            pick: Pick::Any,
            masked: 10,
            empty_every: 0,
            lengths: None,
            sinks: None,
            lse_pos_inf: false,
            want_max_logits: true,
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
    /// (query row, index) pairs: what the reference's time goes by.
    pub fn pairs(&self) -> i64 {
        self.s_q * self.h_q * self.topk
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let pick = PICKS.iter().find(|(pick, _)| *pick == self.pick).map_or("", |(_, word)| word);
        write!(f, "d_qk={} h_q={} s_q={} s_kv={} topk={}", self.d_qk, self.h_q, self.s_q, self.s_kv, self.topk)?;
        write!(f, " {pick} masked={} empty_every={}", self.masked, self.empty_every)?;
        write!(f, " q_std={} scale={} seed={}", self.q_std, self.scale, self.seed)?;
        for (set, word) in [
            (self.lse_pos_inf, "lse_pos_inf"),
            (!self.want_max_logits, "no_max_logits"),
            (!self.want_lse, "no_lse"),
            (self.ramp, "ramp"),
            (self.layout == Layout::Padded, "padded"),
            (self.layout == Layout::Swapped, "swapped"),
        ] {
            if set {
                write!(f, " {word}")?;
            }
        }
        if let Some(lengths) = &self.lengths {
            write!(f, " lengths={}", list(lengths))?;
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
        fn numbers<T: FromStr>(key: &str, value: &str) -> Result<Option<Vec<T>>, String> {
            value.split(',').map(|v| number(key, v)).collect::<Result<_, _>>().map(Some)
        }
        let mut spec = Spec::default();
        for word in line.split_whitespace() {
            if let Some((pick, _)) = PICKS.iter().find(|(_, name)| *name == word) {
                spec.pick = *pick;
                continue;
            }
            match word.split_once('=').unwrap_or((word, "")) {
                ("lse_pos_inf", "") => spec.lse_pos_inf = true,
                ("no_max_logits", "") => spec.want_max_logits = false,
                ("no_lse", "") => spec.want_lse = false,
                ("ramp", "") => spec.ramp = true,
                ("padded", "") => spec.layout = Layout::Padded,
                ("swapped", "") => spec.layout = Layout::Swapped,
                ("d_qk", v) => spec.d_qk = number("d_qk", v)?,
                ("h_q", v) => spec.h_q = number("h_q", v)?,
                ("s_q", v) => spec.s_q = number("s_q", v)?,
                ("s_kv", v) => spec.s_kv = number("s_kv", v)?,
                ("topk", v) => spec.topk = number("topk", v)?,
                ("masked", v) => spec.masked = number("masked", v)?,
                ("empty_every", v) => spec.empty_every = number("empty_every", v)?,
                ("q_std", v) => spec.q_std = number("q_std", v)?,
                ("scale", v) => spec.scale = number("scale", v)?,
                ("seed", v) => spec.seed = number("seed", v)?,
                ("lengths", v) => spec.lengths = numbers("lengths", v)?,
                ("sinks", v) => spec.sinks = numbers("sinks", v)?,
                _ => return Err(format!("{word}: not a word of a case")),
            }
        }
        Ok(spec)
    }
}

#[test]
fn a_printed_case_reads_back() {
    let spec = Spec {
        d_qk: 512,
        pick: Pick::Three,
        empty_every: 3,
        lengths: Some(vec![-1, 0, i32::MAX]),
        sinks: Some(vec![f32::NEG_INFINITY, 0.5, f32::INFINITY]),
        lse_pos_inf: true,
        want_max_logits: false,
        want_lse: false,
        scale: 0.1,
        q_std: 0.3,
        ramp: true,
        layout: Layout::Padded,
        seed: 9,
        ..Spec::default()
    };
    assert_eq!(spec.to_string().parse(), Ok(spec));
    assert_eq!(Spec::default().to_string().parse(), Ok(Spec::default()));
    assert_eq!("topk=x".parse::<Spec>(), Err("topk=x: not a number that fits".into()));
    assert_eq!("heads".parse::<Spec>(), Err("heads: not a word of a case".into()));
}
