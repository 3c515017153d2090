//! The plan that the device makes for query tokens with lengths of two lists is that of `src/schedule.rs`, integer
//! by integer.

use super::call::Call;
use super::data::Data;
use super::spec::{Extra, Spec};
use crate::memory::Fence;
use crate::random::Random;
use flashmla::schedule::{ceil_div, plan_tiles, Assignment, Grid, Work, INVARIANT_CUTS_SPARSE, REQUEST_COST};
use flashmla::workspace::PlanLayout;

#[test]
fn plans_of_query_tokens() {
    let session = sparse_or_skip!(Gpu);
    let queue = session.queue().unwrap();
    let mut random = Random::new(5);
    for _ in 0..200 {
        let (topk, extra_topk) = (random.pick(&[0, 1, 64, 130, 700, 4096]), random.pick(&[0, 1, 65, 600]));
        let any = |random: &mut Random, most: i64| {
            let lengths = (0..random.range(1, 40)).map(|_| match random.below(9) {
                0 => random.pick(&[0, -1, i32::MIN, i32::MAX]),
                _ => random.range(0, most) as i32,
            });
            Some(lengths.collect::<Vec<_>>()).filter(|_| random.below(3) > 0)
        };
        let lengths = any(&mut random, topk);
        let extra_lengths = any(&mut random, extra_topk);
        let second = Extra { page: 64, s_k: 64, topk: extra_topk, lengths: extra_lengths };
        let spec = Spec {
            b: random.pick(&[1, 3, 70, 300]),
            s_q: random.pick(&[1, 2, 5]),
            h_q: random.pick(&[1, 64, 100, 128]),
            s_k: 64,
            topk,
            lengths,
            by_request: random.below(2) == 0,
            extra: (random.below(2) == 0).then_some(second),
            invariant: random.below(2) == 0,
            ..Spec::default()
        };
        let data = Data::new(&spec);
        let call = Call::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        call.make_plan(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        let got: Vec<i32> = call.plan.read().unwrap();
        let tiles: Vec<i64> = (0..spec.b * spec.s_q)
            .map(|unit| {
                let (i, t) = (unit / spec.s_q, unit % spec.s_q);
                let of = |cache: &super::data::Cache| ceil_div(cache.counted(i, t), 64);
                of(&data.cache) + data.extra.as_ref().map_or(0, of)
            })
            .collect();
        let partitions = Grid::of_heads(spec.h_q, session.gpu().multiprocessors).partitions;
        let work = Work {
            requests: tiles.len() as i64,
            max_tiles: 1 << 20,
            request_cost: REQUEST_COST,
            invariant: INVARIANT_CUTS_SPARSE,
            batch_invariant: spec.invariant,
            hands_over: false,
        };
        let want = plan_tiles(work, partitions, &tiles);
        let layout = PlanLayout::new(work, partitions);
        let heads: Vec<[i32; 2]> = match &want.work {
            Assignment::Stretches(borders) => borders.iter().map(|at| [at.request, at.tile]).collect(),
            Assignment::Pieces(starts, _) => starts.iter().map(|at| [at.piece, at.tile]).collect(),
        };
        for (i, head) in heads.iter().enumerate() {
            let record = &got[layout.borders as usize / 4 + 4 * i..][..2];
            assert_eq!(record, head, "border {i}: {spec}");
        }
        if let Assignment::Pieces(_, pieces) = &want.work {
            for (i, p) in pieces.iter().enumerate() {
                let record = &got[layout.pieces as usize / 4 + 6 * i..][..5];
                assert_eq!(record, [p.request, p.tiles.0, p.tiles.1, p.slot, p.next], "piece {i}: {spec}");
            }
        }
        let splits = &got[layout.splits as usize / 4..];
        assert_eq!(splits[0], want.splits.len() as i32, "{spec}");
        for (i, s) in want.splits.iter().enumerate() {
            let fields = [s.request, s.pieces, s.first_slot, s.rest_slot];
            assert_eq!(splits[4 * (i + 1)..][..4], fields, "split {i}: {spec}");
        }
    }
}
