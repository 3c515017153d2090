//! Results against the float64 reference over the contract's edges.

use crate::check::{check_all, kinds};
use crate::random::Random;
use crate::spec::{Layout, Spec};
use flashmla::problem::dense_decode::Dtype;

const LAYOUTS: [Layout; 3] = [Layout::Contiguous, Layout::Padded, Layout::Swapped];

/// Gives every case a seed of its own and walks the other switches, so that their combinations
/// come up without being multiplied out.
fn vary(mut specs: Vec<Spec>, seed: u64) -> Vec<Spec> {
    let mut random = Random::new(seed);
    for (i, spec) in specs.iter_mut().enumerate() {
        spec.seed = seed * 1000 + i as u64;
        spec.layout = LAYOUTS[i % 3];
        spec.causal = random.below(2) == 0;
        spec.lse_pos_inf = random.below(2) == 0;
        spec.q_std = random.pick(&[0.1, 1.0]);
        if spec.columns.is_none() && random.below(2) == 0 {
            *spec = spec.clone().with_long_table();
        }
    }
    specs
}

#[test]
fn head_counts() {
    let session = backend_or_skip!();
    let heads = [1, 2, 3, 8, 12, 16, 17, 32, 40, 48, 64, 65, 96, 100, 127, 128, 192, 256];
    let specs = kinds().flat_map(|(dtype, d_qk)| {
        heads.map(|h_q| Spec { dtype, d_qk, h_q, s_q: 2, lens: vec![130, 1, 385, 0, 64], ..Spec::default() })
    });
    check_all(&session, vary(specs.collect(), 1));
}

#[test]
fn head_groupings() {
    let session = backend_or_skip!();
    let pairs =
        [(2, 2), (4, 2), (12, 3), (15, 5), (16, 16), (64, 2), (96, 3), (100, 4), (128, 8), (130, 2), (384, 3), (7, 7)];
    let specs = kinds().flat_map(|(dtype, d_qk)| {
        pairs.map(|(h_q, h_kv)| Spec { dtype, d_qk, h_q, h_kv, s_q: 3, lens: vec![200, 2, 0, 65], ..Spec::default() })
    });
    check_all(&session, vary(specs.collect(), 2));
}

#[test]
fn more_kv_heads_than_multiprocessors() {
    let session = backend_or_skip!();
    let specs = [(150, 150), (300, 150)].map(|(h_q, h_kv)| Spec { h_q, h_kv, lens: vec![70, 3], ..Spec::default() });
    check_all(&session, vary(specs.to_vec(), 3));
}

#[test]
fn query_tokens() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (s_q, h_q) in
            [(1, 1), (2, 128), (3, 17), (4, 16), (7, 12), (64, 1), (64, 3), (130, 1), (130, 5), (130, 128)]
        {
            // Lengths around s_q: fewer keys than queries leave the early queries without any.
            let lens = vec![s_q as i32 - 1, 0, s_q as i32, 1, s_q as i32 + 1, 200];
            specs.push(Spec { dtype, d_qk, s_q, h_q, lens, ..Spec::default() });
        }
    }
    let mut specs = vary(specs, 4);
    let other: Vec<Spec> = specs.iter().map(|s| Spec { causal: !s.causal, seed: s.seed + 500, ..s.clone() }).collect();
    specs.extend(other);
    check_all(&session, specs);
}

#[test]
fn page_sizes() {
    let session = backend_or_skip!();
    let pages = [1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 48, 61, 3, 96, 1000];
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (i, page) in pages.into_iter().enumerate() {
            // 16, 32 and 64 rows, each a kernel, and two and four row blocks.
            for h_q in [16, 32, 128] {
                let h_kv = if i % 2 == 0 { 1 } else { 2 };
                let lens = vec![260, 0, 63, 1, 513];
                specs.push(Spec { dtype, d_qk, h_q, h_kv, s_q: 2, page, lens, spare_pages: 3, ..Spec::default() });
            }
        }
    }
    check_all(&session, vary(specs, 5));
}

/// Caches that the kernels see by groups of eight tokens, of one KV head and of several side by side, and those that they
/// cannot, since pages have no whole groups or heads lie apart (padded) or outside tokens (swapped). The kernel for many rows,
/// and those for few.
#[test]
fn page_sizes_in_every_layout() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (i, page) in [8, 16, 24, 32, 64, 96, 192, 1, 2, 4, 20, 61].into_iter().enumerate() {
            for (j, layout) in LAYOUTS.into_iter().enumerate() {
                let h_kv = 1 + (i + j) as i64 % 3;
                let bad_pages = (i + j) % 4 == 0;
                let base = Spec { dtype, d_qk, h_kv, page, layout, bad_pages, spare_pages: 3, ..Spec::default() };
                let (h_q, lens) = (h_kv * [65, 128][i % 2], vec![130, 0, 63, 1]);
                let many = Spec { h_q, lens, seed: specs.len() as u64, ..base.clone() };
                specs.push(many.with_long_table());
                let (h_q, lens) = (h_kv * [12, 32, 64][(i + i / 3 + j) % 3], vec![200, 0, 63, 1]);
                specs.push(Spec { h_q, lens, seed: specs.len() as u64, ..base });
            }
        }
    }
    check_all(&session, specs);
}

/// More requests than partitions, so that a thread block goes from one to the next, and whole ones as well as parts.
#[test]
fn many_requests_of_small_pages() {
    let session = backend_or_skip!();
    let mut random = Random::new(31);
    let mut specs = Vec::new();
    for (h_q, page) in [(65, 32), (65, 16), (128, 1), (64, 32), (64, 8), (129, 48), (16, 16), (32, 2)] {
        let lens = (0..140).map(|_| random.below(230) as i32).collect();
        let spec = Spec { h_q, page, lens, spare_pages: 3, ..Spec::default() };
        specs.push(spec.clone().with_long_table());
        specs.push(Spec { h_q, lens: vec![70, 0, 700, 1, 64], ..spec }.with_long_table());
    }
    check_all(&session, specs);
}

#[test]
fn lengths() {
    let session = backend_or_skip!();
    let edges = [0, 1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 319, 320, 321, 640, 1000];
    let mut specs = Vec::new();
    for h_q in [16, 32, 64, 128] {
        // Alone, where the whole device splits it, and together.
        specs.extend(edges.map(|len| Spec { h_q, lens: vec![len], ..Spec::default() }));
        specs.push(Spec { h_q, lens: edges.to_vec(), ..Spec::default() });
        specs.push(Spec { h_q, lens: vec![0; 5], ..Spec::default() });
        specs.push(Spec { h_q, lens: vec![0, 0, 700, 0, 0, 0, 1, 0], ..Spec::default() });
    }
    check_all(&session, vary(specs, 6));
}

#[test]
fn batches_of_power_law_lengths() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (i, b) in [1, 2, 3, 7, 31, 64, 131, 132, 133, 300].into_iter().enumerate() {
        let (dtype, d_qk) = kinds().nth(i % 4).expect("four kinds");
        for (h_q, s_q) in [(16, 1), (32, 1), (16, 4), (128, 2)] {
            let mut random = Random::new(b as u64);
            let most = 120_000 / b as i64 / s_q;
            let lens = (0..b).map(|_| (most.min(6000) as f64 * random.unit().powi(3)) as i32).collect();
            // Heads and tokens decide into how many parts the batch is divided.
            specs.push(Spec { dtype, d_qk, h_q, s_q, lens, ..Spec::default() });
        }
    }
    check_all(&session, vary(specs, 7));
}

#[test]
fn one_very_long_request_beside_short_ones() {
    let session = backend_or_skip!();
    let long = |at: usize, h_q, s_q| {
        let mut lens = vec![5, 0, 300, 64, 1];
        lens.insert(at, 65536);
        Spec { h_q, s_q, lens, ..Spec::default() }
    };
    let mut specs = vec![long(0, 16, 1), long(5, 8, 2), long(2, 65, 1)];
    specs[1].dtype = Dtype::Fp16;
    specs[2].d_qk = 512;
    check_all(&session, vary(specs, 8));
}

#[test]
fn split_requests_of_many_row_blocks() {
    let session = backend_or_skip!();
    let shapes = [(128, 1, 1), (128, 1, 3), (192, 1, 1), (256, 1, 4), (64, 2, 5), (100, 1, 2), (12, 3, 40)];
    let specs = shapes.map(|(h_q, h_kv, s_q)| Spec { h_q, h_kv, s_q, lens: vec![2100, 900], ..Spec::default() });
    check_all(&session, vary(specs.to_vec(), 9));
}

/// The borders of the ways to combine (cuda/any/combine.cuh): 12 pieces and 48 rows, a lane's share of the lse of 160
/// pieces on a device of that many multiprocessors.
#[test]
fn every_way_to_combine() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (h_q, s_q) in [(8, 1), (47, 1), (16, 3), (49, 1), (64, 2), (3, 16)] {
        // A tile a piece, as far as the multiprocessors go; 3 tiles are not split, 4 are.
        for tiles in [3, 4, 11, 12, 13, 33, 131, 140] {
            specs.push(Spec { h_q, s_q, lens: vec![tiles * 64 - 5], ..Spec::default() });
        }
    }
    // Pieces of several requests, and of several KV heads.
    specs.push(Spec { h_q: 24, h_kv: 3, lens: vec![4000, 0, 7000, 200], ..Spec::default() });
    specs.push(Spec { h_q: 16, lens: vec![1500; 9], invariant: true, ..Spec::default() });
    specs.push(Spec { h_q: 16, lens: vec![40_000, 5000], invariant: true, ..Spec::default() });
    specs.push(Spec { h_q: 128, s_q: 33, lens: vec![2200], ..Spec::default() });
    check_all(&session, vary(specs, 21));
}

#[test]
fn scores_that_rise_and_fall_along_the_request() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for h_q in [16, 32, 64, 128] {
            let lens = vec![1500, 333, 129];
            let spec = Spec { dtype, d_qk, h_q, lens, ramp: true, ..Spec::default() };
            if h_q > 32 {
                specs.push(spec.clone().with_long_table());
            }
            specs.push(spec);
        }
    }
    check_all(&session, specs);
}

#[test]
fn sharp_scores_and_other_scales() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (q_std, scale) in [(30.0, 0.0), (1.0, 1.0), (1.0, 1e-6), (0.1, 0.135_233_78)] {
            let lens = vec![1000, 200, 64];
            specs.push(Spec { dtype, d_qk, q_std, scale, lens, ..Spec::default() });
        }
    }
    check_all(&session, specs);
}

#[test]
fn batch_invariant_plans() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (h_q, s_q, page) in [(16, 1, 64), (32, 1, 64), (128, 2, 64), (17, 3, 16)] {
            let lens = vec![2048, 2049, 0, 5000, 1, 40000 / h_q as i32, 2112, 4096];
            specs.push(Spec { dtype, d_qk, h_q, s_q, page, lens, invariant: true, ..Spec::default() });
        }
    }
    // Pieces are longer where row blocks are several; and a rest that is too short is evened out.
    specs.push(Spec { h_q: 64, lens: vec![4096, 4097, 9300, 100], invariant: true, ..Spec::default() });
    specs.push(Spec { h_q: 128, lens: vec![4096, 4097, 9300, 100], invariant: true, ..Spec::default() });
    specs.push(Spec { h_q: 128, s_q: 2, lens: vec![8192, 8257], invariant: true, ..Spec::default() });
    // More pieces than partitions.
    for (h_q, seed) in [(128, 1), (64, 2), (5, 3)] {
        let mut random = Random::new(seed);
        let lens = (0..140).map(|i| if i % 50 == 7 { 5000 } else { random.below(200) as i32 }).collect();
        specs.push(Spec { h_q, lens, invariant: true, ..Spec::default() });
    }
    // More pieces than the least size would give: their number has a limit.
    specs.push(Spec { h_q: 4, lens: vec![65536, 100], invariant: true, ..Spec::default() });
    check_all(&session, vary(specs, 10));
}

#[test]
fn without_lse() {
    let session = backend_or_skip!();
    let specs = [16, 128].map(|h_q| Spec { h_q, want_lse: false, lens: vec![1500, 0, 64], ..Spec::default() });
    check_all(&session, vary(specs.to_vec(), 11));
}

/// Any combination of everything.
#[test]
fn random_problems() {
    let session = backend_or_skip!();
    let mut random = Random::new(12);
    let specs = (0..160).map(|i| {
        let h_kv = random.pick(&[1, 1, 1, 1, 2, 3, 5]);
        let group = random.pick(&[1, 2, 4, 7, 8, 16, 24, 32, 33, 64, 80, 128]);
        let s_q = random.pick(&[1, 1, 1, 2, 2, 3, 5, 9]);
        let b = random.range(1, 12) as usize;
        let most = 400_000 / (h_kv * group * s_q * b as i64);
        let any_page = random.range(1, 300);
        let lens = (0..b).map(|_| random.range(-2, most.clamp(3, 3000)) as i32).collect();
        Spec {
            dtype: random.pick(&[Dtype::Bf16, Dtype::Fp16]),
            d_qk: random.pick(&[576, 512]),
            h_q: h_kv * group,
            h_kv,
            s_q,
            page: random.pick(&[1, 2, 4, 8, 16, 32, 64, 64, 64, 128, 256, any_page]),
            lens,
            spare_pages: random.range(0, 3),
            bad_pages: random.below(5) == 0,
            causal: random.below(2) == 0,
            lse_pos_inf: random.below(2) == 0,
            invariant: random.below(4) == 0,
            want_lse: random.below(8) != 0,
            q_std: random.pick(&[0.1, 1.0]),
            layout: random.pick(&LAYOUTS),
            seed: 12_000 + i,
            ..Spec::default()
        }
    });
    let specs = specs.collect();
    check_all(&session, specs);
}

/// A failing case again: `FLASHMLA_TEST_CASE` takes the line that a failure prints.
#[test]
fn one_case() {
    let session = backend_or_skip!();
    let spec = match std::env::var("FLASHMLA_TEST_CASE") {
        Ok(line) => line.parse().unwrap_or_else(|e| panic!("FLASHMLA_TEST_CASE: {e}")),
        Err(_) => Spec::default(),
    };
    check_all(&session, vec![spec]);
}
