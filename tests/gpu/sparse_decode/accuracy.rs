//! Results against the float64 reference over the contract's edges.

use super::check::check_all;
use super::spec::{Extra, Pick, Scales, Spec};
use crate::random::Random;
use crate::spec::Layout as Strides;
use flashmla::problem::layout::Layout;
use flashmla::schedule::{Grid, Uniform, REQUEST_COST, TILE_TOKENS};

const STRIDES: [Strides; 3] = [Strides::Contiguous, Strides::Padded, Strides::Swapped];
const PICKS: [Pick; 5] = [Pick::Any, Pick::Distinct, Pick::Same, Pick::Three, Pick::Rising];
const INF: f32 = f32::INFINITY;

/// Both layouts.
fn layouts(make: impl Fn(Layout) -> Vec<Spec>) -> Vec<Spec> {
    [Layout::V32, Layout::V4].into_iter().flat_map(make).collect()
}

/// Gives every case a seed of its own and walks the other switches, so that their combinations
/// come up without being multiplied out.
fn vary(mut specs: Vec<Spec>, seed: u64) -> Vec<Spec> {
    let mut random = Random::new(seed);
    for (i, spec) in specs.iter_mut().enumerate() {
        spec.seed = seed * 1000 + i as u64;
        spec.strides = STRIDES[i % 3];
        spec.lse_pos_inf = random.below(2) == 0;
        spec.invariant = random.below(4) == 0;
        spec.q_std = random.pick(&[0.1, 1.0]);
        if random.below(3) == 0 {
            spec.scales = Scales::Odd;
        }
        if spec.sinks.is_none() && random.below(3) == 0 {
            spec.sinks = Some(vec![0.5, -1.0, 3.0]);
        }
        let topk = spec.topk as i32;
        if spec.lengths.is_none() && random.below(3) == 0 {
            spec.lengths = Some(vec![topk, topk / 2, topk - 1]);
            spec.by_request = random.below(2) == 0;
        }
        if spec.extra.is_none() && random.below(4) == 0 {
            let lengths = (random.below(2) == 0).then(|| vec![70, 0, 33]);
            spec.extra = Some(Extra { page: random.pick(&[2, 64, 61]), s_k: 200, topk: 70, lengths });
        }
    }
    specs
}

#[test]
fn head_counts() {
    let session = sparse_or_skip!(Any);
    let heads =
        [1, 2, 3, 5, 7, 8, 12, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 100, 127, 128, 129, 192, 200];
    let specs = layouts(|layout| heads.map(|h_q| Spec { layout, h_q, ..Spec::default() }).to_vec());
    check_all(&session, vary(specs, 1));
}

/// Batch-invariant plans, alone, in pairs, and with an odd number of blocks of heads: of query tokens whose lengths are on the
/// device, and of some that the host knows to be whole.
#[test]
fn batch_invariant_plans() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let mut specs = Vec::new();
        for (i, h_q) in [16, 64, 65, 100, 128, 129, 200, 256].into_iter().enumerate() {
            for (j, topk) in [257, 320, 333, 641].into_iter().enumerate() {
                let masked = [0, 10, 60][(i + j) % 3];
                specs.push(Spec { layout, h_q, topk, masked, empty_every: (j % 2 * 3) as i64, ..Spec::default() });
            }
        }
        specs
    });
    let specs = vary(specs, 77).into_iter().map(|spec| Spec { invariant: true, ..spec });
    let with_lengths = |spec: Spec| Spec { lengths: Some(vec![spec.topk as i32, 0, 200, 64]), ..spec };
    check_all(&session, specs.clone().chain(specs.map(with_lengths)).collect());
}

/// Stretches of default plans: query tokens whose lengths are on the device, too many tiles for short pieces.
#[test]
fn stretches() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let mut specs = Vec::new();
        for (h_q, b, topk) in
            [(5, 50, 700), (16, 150, 250), (64, 27, 1300), (65, 27, 700), (128, 54, 300), (129, 36, 333)]
        {
            let lengths = Some(vec![topk as i32, topk as i32 - 1, 0, 64, 65, topk as i32]);
            specs.push(Spec { layout, h_q, b, s_q: 1, topk, lengths, ..Spec::default() });
        }
        specs
    });
    for spec in &specs {
        let tiles = (spec.topk + TILE_TOKENS - 1) / TILE_TOKENS;
        assert!(spec.b * tiles > 4 * Grid::of_heads(spec.h_q, 132).partitions, "short: {spec}");
    }
    check_all(&session, vary(specs, 81).into_iter().map(|spec| Spec { invariant: false, ..spec }).collect());
}

/// Query tokens that default plans cut into two pieces each, and of which the host knows that: there are no lengths. Of the
/// multiprocessors that an H100 has.
#[test]
fn two_halves() {
    let session = sparse_or_skip!(Any);
    let mut specs = Vec::new();
    for (b, s_q, topk, h_q, masked) in
        [(66, 1, 513, 64, 0), (33, 2, 640, 33, 40), (64, 1, 2048, 5, 10), (50, 1, 1100, 16, 100), (60, 1, 1025, 64, 30)]
    {
        specs.push(Spec { layout: Layout::V32, b, s_q, h_q, topk, masked, ..Spec::default() });
    }
    let extra = |page| Some(Extra { page, s_k: 200, topk: 70, lengths: None });
    specs.push(Spec { layout: Layout::V32, b: 50, s_q: 1, h_q: 64, topk: 700, extra: extra(61), ..Spec::default() });
    let specs = vary(specs, 78).into_iter().map(|spec| Spec { lengths: None, invariant: false, ..spec });
    let specs: Vec<_> =
        specs.filter(|spec| spec.extra.as_ref().map_or(true, |extra| extra.lengths.is_none())).collect();
    for spec in &specs {
        let tiles = |topk: i64| (topk + TILE_TOKENS - 1) / TILE_TOKENS;
        let all = tiles(spec.topk) + spec.extra.as_ref().map_or(0, |extra| tiles(extra.topk));
        assert_eq!(Uniform::new(spec.b * spec.s_q, 132, all, REQUEST_COST), Uniform::Pieces(2), "{spec}");
    }
    assert!(specs.len() > 3 && specs.iter().any(|spec| spec.extra.is_some()));
    check_all(&session, specs);
}

/// Query tokens that default plans do not cut, and of which the host knows that: the kernels that ask no plan. One and more
/// for a block, alone, in pairs and with an odd number of blocks of heads; of the multiprocessors that an H100 has.
#[test]
fn whole_query_tokens() {
    let session = sparse_or_skip!(Any);
    let extra = |topk| Some(Extra { page: 61, s_k: 200, topk, lengths: None });
    let specs = layouts(|layout| {
        let mut specs = Vec::new();
        for (b, s_q, h_q, topk, masked, extra) in [
            (132, 2, 3, 130, 0, None),
            (130, 1, 16, 321, 40, None),
            (131, 1, 64, 200, 10, extra(130)),
            (66, 2, 64, 0, 0, extra(300)),
            (33, 4, 65, 130, 60, extra(1)),
            (65, 2, 128, 129, 0, extra(70)),
            (64, 1, 100, 577, 100, None),
            (44, 2, 129, 140, 30, None),
        ] {
            specs.push(Spec { layout, b, s_q, h_q, topk, masked, extra, empty_every: 7, ..Spec::default() });
        }
        specs
    });
    // Without lengths in the second cache that a case may be given.
    let known = |spec: Spec| {
        let extra = spec.extra.map(|extra| Extra { lengths: None, ..extra });
        Spec { lengths: None, invariant: false, extra, ..spec }
    };
    let specs: Vec<_> = vary(specs, 80).into_iter().map(known).collect();
    for spec in &specs {
        let tiles = |topk: i64| (topk + TILE_TOKENS - 1) / TILE_TOKENS;
        let all = tiles(spec.topk) + spec.extra.as_ref().map_or(0, |extra| tiles(extra.topk));
        let (units, partitions) = (spec.b * spec.s_q, Grid::of_heads(spec.h_q, 132).partitions);
        assert!(matches!(Uniform::new(units, partitions, all, REQUEST_COST), Uniform::Whole { .. }), "{spec}");
        assert!(units * all > 4 * partitions, "short: {spec}");
    }
    check_all(&session, specs);
}

/// Short pieces whose accumulators pass through memory, and clusters of every size.
#[test]
fn short_pieces() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let one = |b, topk, h_q| Spec { layout, h_q, topk, b, s_q: 1, ..Spec::default() };
        [
            (1, 4200),
            (20, 1300),
            (70, 256),
            (1, 4096),
            (7, 1000),
            (8, 1000),
            // Clusters of 9, for 64 heads and for 100.
            (8, 1150),
            (9, 1030),
            (4, 1100),
            (16, 500),
            (31, 250),
            (60, 200),
            (3, 129),
            (2, 3000),
        ]
        .into_iter()
        .flat_map(|(b, topk)| [7, 64, 100].map(|h_q| one(b, topk, h_q)))
        .collect()
    });
    check_all(&session, vary(specs, 79));
}

#[test]
fn numbers_of_indices() {
    let session = sparse_or_skip!(Any);
    let topks = [0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 513, 1500];
    let specs = layouts(|layout| {
        let one = |topk, h_q| Spec { layout, h_q, topk, s_k: 1000, b: 1, ..Spec::default() };
        topks.into_iter().flat_map(|topk| [16, 64, 128].map(|h_q| one(topk, h_q))).collect()
    });
    check_all(&session, vary(specs, 2));
}

#[test]
fn requests_and_query_tokens() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let one = |b, s_q, h_q| Spec { layout, b, s_q, h_q, topk: 70, ..Spec::default() };
        [(1, 1), (1, 2), (3, 1), (1, 7), (5, 3), (131, 1), (132, 1), (133, 1), (33, 4), (67, 4), (2, 150), (300, 1)]
            .into_iter()
            .flat_map(|(b, s_q)| [one(b, s_q, 3), one(b, s_q, if b * s_q > 20 { 8 } else { 65 })])
            .collect()
    });
    check_all(&session, vary(specs, 3));
}

#[test]
fn page_sizes() {
    let session = sparse_or_skip!(Any);
    let pages = [1, 2, 3, 16, 61, 64, 100, 256, 1024];
    let specs = layouts(|layout| {
        let one = |page, h_q| Spec { layout, h_q, page, s_k: 400, ..Spec::default() };
        pages.into_iter().flat_map(|page| [one(page, 16), one(page, 128)]).collect()
    });
    check_all(&session, vary(specs, 4));
}

#[test]
fn masked_indices() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let one = |masked, h_q| Spec { layout, h_q, masked, topk: 300, ..Spec::default() };
        [0, 1, 50, 90, 99, 100].into_iter().flat_map(|masked| [one(masked, 16), one(masked, 128)]).collect()
    });
    check_all(&session, vary(specs, 5));
}

#[test]
fn queries_that_attend_to_nothing_between_others() {
    let session = sparse_or_skip!(Any);
    let mut specs = layouts(|layout| {
        let one = |h_q, empty_every| Spec { layout, h_q, b: 4, empty_every, ..Spec::default() };
        vec![one(16, 2), one(64, 3), one(128, 2), one(100, 1)]
    });
    specs.iter_mut().for_each(|spec| spec.sinks = Some(vec![0.0, INF, -INF]));
    check_all(&session, vary(specs, 6));
}

/// Tokens that are named twice count twice, and all indices may be equal.
#[test]
fn repeated_indices() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let one = |pick, h_q| Spec { layout, h_q, pick, topk: 200, s_k: 500, ..Spec::default() };
        let mut specs: Vec<Spec> = PICKS.into_iter().flat_map(|pick| [one(pick, 16), one(pick, 128)]).collect();
        specs.push(Spec { layout, pick: Pick::Same, masked: 0, topk: 2048, b: 1, ..Spec::default() });
        specs
    });
    check_all(&session, vary(specs, 7));
}

#[test]
fn lengths() {
    let session = sparse_or_skip!(Any);
    let edges = vec![0, 1, 2, 63, 64, 65, 127, 128, 129, 199, 200, 201, -1, i32::MIN, i32::MAX, 2147480000];
    let specs = layouts(|layout| {
        let one = |h_q, by_request, lengths: &[i32]| {
            let lengths = Some(lengths.to_vec());
            Spec { layout, h_q, b: 8, topk: 200, by_request, lengths, ..Spec::default() }
        };
        vec![
            one(16, false, &edges),
            one(64, true, &edges),
            one(64, true, &edges[8..]),
            one(128, false, &[0]),
            one(5, true, &edges),
        ]
    });
    check_all(&session, vary(specs, 8));
}

/// A second cache: longer or shorter than the first, either of them without tokens or indices, lengths for both.
#[test]
fn second_caches() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let mut specs = Vec::new();
        for h_q in [16, 64, 128] {
            for (page, s_k, topk, lengths) in [
                (64, 300, 128, None),
                (2, 300, 192, Some(vec![100, 192])),
                (61, 1000, 513, Some(vec![0, 1, 500])),
                (1, 50, 1, None),
                (256, 300, 64, Some(vec![0])),
                (64, 0, 100, None),
                (64, 300, 0, None),
                (64, 300, 65, Some(vec![i32::MIN, i32::MAX, 64])),
            ] {
                let extra = Some(Extra { page, s_k, topk, lengths });
                specs.push(Spec { layout, h_q, extra, ..Spec::default() });
            }
            let extra = Some(Extra { page: 64, s_k: 300, topk: 100, lengths: None });
            specs.push(Spec { layout, h_q, extra: extra.clone(), topk: 0, ..Spec::default() });
            specs.push(Spec { layout, h_q, extra: extra.clone(), s_k: 0, ..Spec::default() });
            let lengths = Some(vec![0, 77]);
            specs.push(Spec { layout, h_q, extra: extra.clone(), lengths, empty_every: 2, ..Spec::default() });
            specs.push(Spec { layout, h_q, extra, masked: 100, ..Spec::default() });
        }
        specs
    });
    check_all(&session, vary(specs, 9));
}

#[test]
fn sinks() {
    let session = sparse_or_skip!(Any);
    let edges = [-INF, INF, 0.0, 5.0, -5.0, 20.0, -50.0, -1e30, 1e30, f32::MAX, f32::MIN, 8.0];
    let specs = layouts(|layout| {
        let one = |h_q, q_std, topk| Spec { layout, h_q, q_std, topk, sinks: Some(edges.to_vec()), ..Spec::default() };
        vec![one(16, 1.0, 130), one(64, 0.1, 130), one(128, 1.0, 2000), one(100, 30.0, 130), one(1, 1.0, 600)]
    });
    check_all(&session, specs);
    // Every head alike.
    let sinks = edges.map(|sink| Spec { h_q: 20, sinks: Some(vec![sink]), empty_every: 2, ..Spec::default() });
    check_all(&session, vary(sinks.to_vec(), 10));
}

#[test]
fn lse_that_is_not_wanted() {
    let session = sparse_or_skip!(Any);
    let specs = layouts(|layout| {
        let one = |h_q, topk| Spec { layout, h_q, topk, want_lse: false, ..Spec::default() };
        vec![one(16, 130), one(64, 1500), one(128, 130)]
    });
    check_all(&session, vary(specs, 11));
}

#[test]
fn sharp_scores_and_other_scales() {
    let session = sparse_or_skip!(Any);
    let scales = [(30.0, 0.0), (1.0, 1.0), (1.0, 1e-6), (0.1, 0.135_233_78)];
    let specs = layouts(|layout| {
        let one = |(q_std, scale), h_q| Spec { layout, h_q, q_std, scale, topk: 500, ..Spec::default() };
        scales.into_iter().flat_map(|scale| [one(scale, 16), one(scale, 128)]).collect()
    });
    check_all(&session, specs);
}

#[test]
fn scores_that_rise_and_fall_along_the_tokens() {
    let session = sparse_or_skip!(Any);
    let mut specs = layouts(|layout| {
        let ramp = Spec { layout, ramp: true, topk: 1000, s_k: 1200, masked: 0, b: 1, ..Spec::default() };
        let one = |pick, h_q| Spec { pick, h_q, ..ramp.clone() };
        vec![one(Pick::Rising, 16), one(Pick::Rising, 128), one(Pick::Any, 64)]
    });
    // V's last element is large there: the first rotary one is of K alone with V32, which leaves V as it is.
    specs.retain(|spec| spec.layout == Layout::V32);
    check_all(&session, specs);
}

/// As models ask for: 2048 indices (V3.2), and 128 with 512 or 1024 of a second cache.
#[test]
fn shapes_of_models() {
    let session = sparse_or_skip!(Any);
    let v32 = |h_q, s_q| Spec { h_q, s_q, topk: 2048, s_k: 4096, pick: Pick::Distinct, masked: 0, ..Spec::default() };
    let v4 = |h_q, topk| Spec {
        layout: Layout::V4,
        h_q,
        page: 256,
        s_k: 2048,
        topk: 128,
        extra: Some(Extra { page: 64, s_k: 4096, topk, lengths: None }),
        pick: Pick::Distinct,
        masked: 0,
        ..Spec::default()
    };
    check_all(&session, vec![v32(128, 2), v32(64, 1), v32(16, 1), v32(8, 2), v4(64, 512), v4(128, 1024)]);
}

/// Any combination of everything.
#[test]
fn random_problems() {
    let session = sparse_or_skip!(Any);
    let mut random = Random::new(12);
    let specs = (0..160).map(|i| {
        let any_heads = random.range(1, 130);
        let h_q = random.pick(&[1, 8, 16, 32, 64, 128, 128, any_heads, any_heads]);
        let any_topk = random.range(0, 700);
        let topk = random.pick(&[0, 1, 64, 128, 512, 1024, any_topk, any_topk, any_topk]);
        let most = (120_000 / (h_q * topk.max(50))).clamp(1, 40);
        let s_q = random.range(1, most.min(5));
        let lengths = (0..random.range(1, 9)).map(|_| random.range(-2, topk + 2) as i32).collect();
        let sinks = (0..random.range(1, 9)).map(|_| random.pick(&[-INF, INF, 0.0, 2.0, -3.0, 9.0])).collect();
        let extra_topk = random.range(0, 400);
        let extra_lengths = (0..random.range(1, 9)).map(|_| random.range(-2, extra_topk + 2) as i32).collect();
        let extra = Extra {
            page: random.pick(&[1, 2, 7, 61, 64]),
            s_k: random.pick(&[0, 1, 100, 300]),
            topk: extra_topk,
            lengths: if random.below(2) == 0 { Some(extra_lengths) } else { None },
        };
        Spec {
            layout: random.pick(&[Layout::V32, Layout::V4]),
            b: random.range(1, (most / s_q).max(1)),
            s_q,
            h_q,
            page: random.pick(&[1, 16, 61, 64, 64, 256]),
            s_k: random.pick(&[1, 5, 100, 300, 1000]),
            topk,
            pick: random.pick(&PICKS),
            scales: random.pick(&[Scales::Powers, Scales::Odd]),
            masked: random.pick(&[0, 0, 5, 30, 95]),
            empty_every: random.pick(&[0, 0, 2, 3, 5]),
            lengths: if random.below(2) == 0 { Some(lengths) } else { None },
            by_request: random.below(2) == 0,
            extra: if random.below(3) == 0 { Some(extra) } else { None },
            sinks: if random.below(2) == 0 { Some(sinks) } else { None },
            lse_pos_inf: random.below(2) == 0,
            want_lse: random.below(8) != 0,
            invariant: random.below(3) == 0,
            q_std: random.pick(&[0.1, 1.0]),
            strides: random.pick(&STRIDES),
            seed: 12_000 + i,
            ..Spec::default()
        }
    });
    let specs = specs.collect();
    check_all(&session, specs);
}

/// A failing case again: `FLASHMLA_TEST_SPARSE_DECODE` takes the line that a failure prints.
#[test]
fn one_case() {
    let session = sparse_or_skip!(Any);
    let spec = match std::env::var("FLASHMLA_TEST_SPARSE_DECODE") {
        Ok(line) => line.parse().unwrap_or_else(|e| panic!("FLASHMLA_TEST_SPARSE_DECODE: {e}")),
        Err(_) => Spec::default(),
    };
    check_all(&session, vec![spec]);
}
