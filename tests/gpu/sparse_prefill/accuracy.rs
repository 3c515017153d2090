//! Results against the float64 reference over the contract's edges.

use super::check::check_all;
use super::spec::{Pick, Spec};
use crate::random::Random;
use crate::spec::Layout;

const LAYOUTS: [Layout; 3] = [Layout::Contiguous, Layout::Padded, Layout::Swapped];
const PICKS: [Pick; 5] = [Pick::Any, Pick::Distinct, Pick::Same, Pick::Three, Pick::Rising];
const INF: f32 = f32::INFINITY;

/// Both row lengths.
fn d_qks(make: impl Fn(i64) -> Vec<Spec>) -> Vec<Spec> {
    [576, 512].into_iter().flat_map(make).collect()
}

/// Gives every case a seed of its own and walks the other switches, so that their combinations
/// come up without being multiplied out.
fn vary(mut specs: Vec<Spec>, seed: u64) -> Vec<Spec> {
    let mut random = Random::new(seed);
    for (i, spec) in specs.iter_mut().enumerate() {
        spec.seed = seed * 1000 + i as u64;
        spec.layout = LAYOUTS[i % 3];
        spec.lse_pos_inf = random.below(2) == 0;
        spec.q_std = random.pick(&[0.1, 1.0]);
        if spec.sinks.is_none() && random.below(3) == 0 {
            spec.sinks = Some(vec![0.5, -1.0, 3.0]);
        }
        if spec.lengths.is_none() && random.below(3) == 0 {
            let topk = spec.topk as i32;
            spec.lengths = Some(vec![topk, topk / 2, topk - 1]);
        }
    }
    specs
}

#[test]
fn head_counts() {
    let session = session_or_skip!(Any);
    let heads =
        [1, 2, 3, 5, 7, 8, 12, 15, 16, 17, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 192, 200, 256];
    let specs = d_qks(|d_qk| heads.map(|h_q| Spec { d_qk, h_q, ..Spec::default() }).to_vec());
    check_all(&session, vary(specs, 1));
}

#[test]
fn numbers_of_indices() {
    let session = session_or_skip!(Any);
    let topks = [0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 512, 513, 2048];
    let heads = [16, 64, 128];
    let specs = d_qks(|d_qk| {
        let one = |topk, h_q| Spec { d_qk, h_q, topk, s_kv: 3000, ..Spec::default() };
        topks.into_iter().flat_map(|topk| heads.map(|h_q| one(topk, h_q))).collect()
    });
    check_all(&session, vary(specs, 2));
}

#[test]
fn query_tokens() {
    let session = session_or_skip!(Any);
    let tokens = [0, 1, 2, 3, 5, 16, 63, 64, 65, 131, 132, 133, 264, 300];
    let specs = d_qks(|d_qk| {
        let one = |s_q, h_q| Spec { d_qk, h_q, s_q, topk: 70, ..Spec::default() };
        tokens.into_iter().flat_map(|s_q| [one(s_q, 3), one(s_q.min(140), 65)]).collect()
    });
    check_all(&session, vary(specs, 3));
}

#[test]
fn kv_rows() {
    let session = session_or_skip!(Any);
    let rows = [0, 1, 2, 3, 4, 63, 64, 65, 1000, 70_000];
    let specs = d_qks(|d_qk| {
        let one = |s_kv, h_q| Spec { d_qk, h_q, s_kv, ..Spec::default() };
        rows.into_iter().flat_map(|s_kv| [one(s_kv, 16), one(s_kv, 128)]).collect()
    });
    check_all(&session, vary(specs, 4));
}

#[test]
fn masked_indices() {
    let session = session_or_skip!(Any);
    let specs = d_qks(|d_qk| {
        let one = |masked, h_q| Spec { d_qk, h_q, masked, topk: 300, s_q: 3, ..Spec::default() };
        [0, 1, 50, 90, 99, 100].into_iter().flat_map(|masked| [one(masked, 16), one(masked, 128)]).collect()
    });
    check_all(&session, vary(specs, 5));
}

#[test]
fn queries_that_attend_to_nothing_between_others() {
    let session = session_or_skip!(Any);
    let mut specs = d_qks(|d_qk| {
        let one = |h_q, empty_every| Spec { d_qk, h_q, s_q: 7, empty_every, ..Spec::default() };
        vec![one(16, 2), one(64, 3), one(128, 2), one(100, 1)]
    });
    specs.iter_mut().for_each(|spec| spec.sinks = Some(vec![0.0, INF, -INF]));
    check_all(&session, vary(specs, 6));
}

/// Rows that are named twice count twice, and all indices may be equal.
#[test]
fn repeated_indices() {
    let session = session_or_skip!(Any);
    let specs = d_qks(|d_qk| {
        let one = |pick, h_q| Spec { d_qk, h_q, pick, topk: 200, s_kv: 500, ..Spec::default() };
        let mut specs: Vec<Spec> = PICKS.into_iter().flat_map(|pick| [one(pick, 16), one(pick, 128)]).collect();
        specs.push(Spec { d_qk, pick: Pick::Same, masked: 0, topk: 2048, ..Spec::default() });
        specs
    });
    check_all(&session, vary(specs, 7));
}

#[test]
fn lengths() {
    let session = session_or_skip!(Any);
    let edges = [0, 1, 2, 63, 64, 65, 127, 128, 129, 199, 200, 201, -1, i32::MIN, i32::MAX, 2147480000];
    let specs = d_qks(|d_qk| {
        let one = |h_q, lengths| Spec { d_qk, h_q, s_q: 16, topk: 200, lengths: Some(lengths), ..Spec::default() };
        vec![one(16, edges.to_vec()), one(64, edges.to_vec()), one(128, vec![0]), one(5, edges.to_vec())]
    });
    check_all(&session, vary(specs, 8));
}

#[test]
fn sinks() {
    let session = session_or_skip!(Any);
    let edges = [-INF, INF, 0.0, 5.0, -5.0, 20.0, -50.0, -1e30, 1e30, f32::MAX, f32::MIN, 8.0];
    let specs = d_qks(|d_qk| {
        let one = |h_q, q_std| Spec { d_qk, h_q, q_std, sinks: Some(edges.to_vec()), ..Spec::default() };
        vec![one(16, 1.0), one(64, 0.1), one(128, 1.0), one(100, 30.0), one(1, 1.0)]
    });
    check_all(&session, specs);
    // Every head alike.
    let sinks = edges.map(|sink| Spec { h_q: 20, sinks: Some(vec![sink]), empty_every: 2, ..Spec::default() });
    check_all(&session, vary(sinks.to_vec(), 9));
}

#[test]
fn outputs_that_are_not_wanted() {
    let session = session_or_skip!(Any);
    let specs = d_qks(|d_qk| {
        let one = |want_max_logits, want_lse, h_q| Spec { d_qk, h_q, want_max_logits, want_lse, ..Spec::default() };
        vec![one(false, true, 16), one(true, false, 64), one(false, false, 128), one(false, false, 3)]
    });
    check_all(&session, vary(specs, 10));
}

#[test]
fn sharp_scores_and_other_scales() {
    let session = session_or_skip!(Any);
    let scales = [(30.0, 0.0), (1.0, 1.0), (1.0, 1e-6), (0.1, 0.135_233_78)];
    let specs = d_qks(|d_qk| {
        let one = |(q_std, scale), h_q| Spec { d_qk, h_q, q_std, scale, topk: 500, ..Spec::default() };
        scales.into_iter().flat_map(|scale| [one(scale, 16), one(scale, 128)]).collect()
    });
    check_all(&session, specs);
}

#[test]
fn scores_that_rise_and_fall_along_the_rows() {
    let session = session_or_skip!(Any);
    let specs = d_qks(|d_qk| {
        let ramp = Spec { d_qk, ramp: true, topk: 1000, s_kv: 1200, masked: 0, ..Spec::default() };
        let one = |pick, h_q| Spec { pick, h_q, ..ramp.clone() };
        vec![one(Pick::Rising, 16), one(Pick::Rising, 128), one(Pick::Any, 64)]
    });
    check_all(&session, specs);
}

/// As models ask for: 2048 (V3.2) and 512 or 1024 rows of a long prompt.
#[test]
fn shapes_of_models() {
    let session = session_or_skip!(Any);
    let one = |d_qk, h_q, topk, s_kv| Spec {
        d_qk,
        h_q,
        topk,
        s_kv,
        s_q: 3,
        pick: Pick::Distinct,
        masked: 0,
        lengths: Some(vec![topk as i32, 1500, topk as i32]),
        ..Spec::default()
    };
    let specs =
        [one(576, 128, 2048, 8192), one(576, 64, 2048, 32768), one(512, 128, 1024, 8192), one(512, 64, 512, 8192)];
    check_all(&session, specs.to_vec());
}

/// Any combination of everything.
#[test]
fn random_problems() {
    let session = session_or_skip!(Any);
    let mut random = Random::new(11);
    let specs = (0..160).map(|i| {
        let any_heads = random.range(1, 130);
        let h_q = random.pick(&[1, 8, 16, 32, 64, 128, 128, any_heads, any_heads]);
        let any_topk = random.range(0, 700);
        let topk = random.pick(&[0, 1, 64, 128, 512, 1024, any_topk, any_topk, any_topk]);
        let most = (120_000 / (h_q * topk.max(50))).clamp(1, 40);
        let lengths = (0..random.range(1, 9)).map(|_| random.range(-2, topk + 2) as i32).collect();
        let sinks = (0..random.range(1, 9)).map(|_| random.pick(&[-INF, INF, 0.0, 2.0, -3.0, 9.0])).collect();
        Spec {
            d_qk: random.pick(&[576, 512]),
            h_q,
            s_q: random.range(1, most),
            s_kv: random.pick(&[1, 5, 100, 300, 1000, 5000]),
            topk,
            pick: random.pick(&PICKS),
            masked: random.pick(&[0, 0, 5, 30, 95]),
            empty_every: random.pick(&[0, 0, 2, 3, 5]),
            lengths: if random.below(2) == 0 { Some(lengths) } else { None },
            sinks: if random.below(2) == 0 { Some(sinks) } else { None },
            lse_pos_inf: random.below(2) == 0,
            want_max_logits: random.below(8) != 0,
            want_lse: random.below(8) != 0,
            q_std: random.pick(&[0.1, 1.0]),
            layout: random.pick(&LAYOUTS),
            seed: 11_000 + i,
            ..Spec::default()
        }
    });
    let specs = specs.collect();
    check_all(&session, specs);
}

/// A failing case again: `FLASHMLA_TEST_PREFILL` takes the line that a failure prints.
#[test]
fn one_case() {
    let session = session_or_skip!(Any);
    let spec = match std::env::var("FLASHMLA_TEST_PREFILL") {
        Ok(line) => line.parse().unwrap_or_else(|e| panic!("FLASHMLA_TEST_PREFILL: {e}")),
        Err(_) => Spec::default(),
    };
    check_all(&session, vec![spec]);
}
