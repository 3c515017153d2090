//! The plan, over a million random batches: every tile once, slots that fit the workspace and are nobody
//! else's, and what the combination finds is what was written.

mod random;

use flashmla::gpu::params::Divisor;
use flashmla::problem::dense_decode::{Raw, Shape};
use flashmla::schedule::*;
use random::Random;
use std::collections::{BTreeMap, HashSet};

struct Batch {
    shape: Shape,
    work: Work,
    /// Of each request.
    tiles: Vec<i64>,
    partitions: i64,
    lens: Vec<i32>,
}

fn batch(r: &mut Random) -> Batch {
    let h_kv = r.pick(&[1, 1, 1, 2, 5]);
    let most = r.pick(&[2, 8, 40]);
    let b = 1 + r.below(most) as i64;
    let columns = r.pick(&[1, 3, 20, 400]);
    let raw = Raw {
        flags: r.pick(&[0, 4]),
        b,
        s_q: r.pick(&[1, 1, 2, 5]),
        h_kv,
        h_q: h_kv * r.pick(&[1, 16, 64, 128]),
        d_qk: 576,
        num_blocks: 1000,
        page_block_size: r.pick(&[1, 16, 64, 256]),
        max_blocks_per_seq: columns,
        ..Default::default()
    };
    let shape = Shape::check(&raw).unwrap();
    let most = shape.max_tokens() as u64 + 1;
    let lens = (0..b).map(|_| match r.below(12) {
        0 => 0,
        1 => r.pick(&[-1, i32::MIN, i32::MAX, 1, 63, 64, 65]),
        2 => r.below(most.min(200)) as i32,
        _ => r.below(most) as i32,
    });
    let lens: Vec<i32> = lens.collect();
    // Pieces of either kind of batch-invariant plans.
    let work = Work { hands_over: r.below(2) == 0, ..Work::from(&shape) };
    let tiles = lens.iter().map(|len| tiles(&shape, *len)).collect();
    Batch { partitions: Grid::new(&shape, r.pick(&[1, 3, 16, 132])).partitions, shape, work, tiles, lens }
}

#[test]
fn a_million_batches() {
    let mut r = Random(4);
    let mut handed_over = 0;
    for _ in 0..1_000_000 {
        let Batch { shape, work, partitions, tiles, lens } = batch(&mut r);
        let plan = plan_tiles(work, partitions, &tiles);
        let what = || format!("{partitions} partitions, {shape:?}, {work:?}, {lens:?}\n{plan:?}");
        let mut all = pieces_of_tiles(work, partitions, &plan, &tiles);
        match &plan.work {
            Assignment::Stretches(borders) => {
                assert_eq!(borders.len() as i64, partitions + 1);
                assert!(borders.windows(2).all(|w| w[0] <= w[1]), "borders out of order: {}", what());
                assert_eq!(borders[0], Border::default(), "{}", what());
            }
            Assignment::Pieces(starts, pieces) => {
                assert_eq!(starts.len() as i64, partitions, "{}", what());
                // What the plan buffer has room for.
                assert!(pieces.len() as i64 <= work.most_pieces(), "{}", what());
                // Chains lead on, so that they end.
                assert!(pieces.iter().enumerate().all(|(i, p)| p.next < 0 || p.next as usize > i), "{}", what());
                // A piece changes hands once, from the first of a worker to the last of the one behind, and is one again.
                for (i, piece) in all.iter().enumerate() {
                    let first = i == 0 || all[i - 1].partition != piece.partition;
                    let last = i + 1 == all.len() || all[i + 1].partition != piece.partition;
                    assert!((first || !piece.suspends) && (last || !piece.resumes), "{}", what());
                    assert!(!(piece.resumes && piece.suspends), "{}", what());
                    assert!(work.hands_over || !(piece.resumes || piece.suspends), "{}", what());
                }
                all.sort_by_key(|piece| (piece.request, piece.tiles));
                all.dedup_by(|second, first| {
                    let same = first.suspends && second.resumes;
                    if same {
                        handed_over += 1;
                        assert_eq!((first.request, first.slot), (second.request, second.slot), "{}", what());
                        assert_eq!(first.partition + 1, second.partition, "{}", what());
                        assert_eq!(first.tiles.1, second.tiles.0, "{}", what());
                        (first.tiles.1, first.suspends) = (second.tiles.1, second.suspends);
                    }
                    same
                });
                assert!(all.iter().all(|piece| !piece.suspends && !piece.resumes), "{}", what());
                assert_eq!(all.len(), pieces.len(), "{}", what());
            }
        }

        // In the order of the workers, or sorted, the tiles of each request follow one another, from none to all.
        let slots = max_slots(work, partitions);
        let mut next = BTreeMap::new();
        let mut taken = HashSet::new();
        let mut of_request: BTreeMap<i32, Vec<Piece>> = BTreeMap::new();
        for piece in all {
            let at = next.insert(piece.request, piece.tiles.1);
            assert_eq!(at.unwrap_or(0), piece.tiles.0, "{}", what());
            if let Some(slot) = piece.slot {
                assert!((0..slots).contains(&(slot as i64)), "slot {slot} of {slots}: {}", what());
                assert!(taken.insert(slot), "slot {slot} twice: {}", what());
            }
            of_request.entry(piece.request).or_default().push(piece);
        }
        assert_eq!(next.len(), lens.len(), "a request is missing: {}", what());
        for (request, end) in next {
            assert_eq!(end as i64, tiles[request as usize], "{}", what());
        }

        let mut combined = HashSet::new();
        for split in &plan.splits {
            let request = split.request;
            assert!(combined.insert(request), "{request} is combined twice: {}", what());
            let slots: Vec<i32> =
                (0..split.pieces).map(|i| if i == 0 { split.first_slot } else { split.rest_slot + i - 1 }).collect();
            let written: Vec<i32> = of_request[&request].iter().map(|p| p.slot.unwrap()).collect();
            assert_eq!(slots, written, "request {request}: {}", what());
        }
        // The plan buffer has room for them.
        let most_splits = if shape.batch_invariant { shape.b } else { shape.b.min(partitions - 1) };
        assert!(plan.splits.len() as i64 <= most_splits, "{}", what());
        for (request, pieces) in &of_request {
            assert_eq!(pieces.len() > 1, combined.contains(request), "{}", what());
            assert_eq!(pieces.len() > 1, pieces[0].slot.is_some(), "{}", what());
        }
    }
    assert!(handed_over > 100_000, "{handed_over}");
}

/// No worker gets much more than its share: a stretch, and what the rounding of its two borders adds; in a
/// batch-invariant plan no less than the longest piece, and what it costs that pieces change hands; where they cannot, less
/// than a piece more.
#[test]
fn stretches_are_balanced() {
    let mut r = Random(5);
    for _ in 0..200_000 {
        let Batch { shape, work, partitions, tiles, lens } = batch(&mut r);
        let request_cost = work.request_cost;
        let cost = |t: i64| t + request_cost;
        let plan = plan_tiles(work, partitions, &tiles);
        let all = pieces_of_tiles(work, partitions, &plan, &tiles);
        let costs = || all.iter().map(|p| cost((p.tiles.1 - p.tiles.0) as i64));
        let line: i64 = match shape.batch_invariant {
            true => costs().sum(),
            false => tiles.iter().map(|t| cost(*t)).sum(),
        };
        let rounding = match plan.work {
            Assignment::Pieces(..) if !work.hands_over => costs().max().unwrap() - 1,
            Assignment::Pieces(..) => 2 * MIN_PIECE_TILES + (2 + HANDOVER_COST) * request_cost,
            // By less than a piece that is too small to be one, or by the fixed work of a request.
            Assignment::Stretches(_) => 2 * MIN_PIECE_TILES + 2 * request_cost,
        };
        let mut load = vec![0; partitions as usize];
        for p in &all {
            load[p.partition as usize] += cost((p.tiles.1 - p.tiles.0) as i64);
        }
        let most = load.into_iter().max().unwrap();
        let whole = |t: &i64| work.invariant.of(*t).map(|(begin, end)| cost(end - begin)).max().unwrap();
        let longest = tiles.iter().map(whole).max().unwrap();
        let share = match plan.work {
            Assignment::Pieces(..) => ceil_div(line, partitions).max(longest),
            Assignment::Stretches(_) => ceil_div(line, partitions).max(MIN_STRETCH),
        };
        assert!(most <= share + rounding, "{most} of {share} + {rounding}: {shape:?} {partitions} {lens:?}");
    }
}

/// Equal requests that leave room for it are cut into pieces that differ by a tile at most, one a partition, of which
/// the longest is no longer than a stretch.
#[test]
fn equal_requests_are_cut_into_equal_pieces() {
    let work = |requests| Work {
        requests,
        max_tiles: 4096,
        request_cost: REQUEST_COST,
        batch_invariant: false,
        hands_over: false,
        invariant: INVARIANT_CUTS_SPARSE,
    };
    let uniform = |requests, partitions, tiles| Uniform::new(requests, partitions, tiles, REQUEST_COST);
    let mut cut = 0;
    for partitions in [2, 33, 66, 132, 144] {
        for requests in 1..=partitions {
            for tiles in (1..70).chain([127, 128, 129, 1024, 4096]) {
                let Uniform::Pieces(pieces) = uniform(requests, partitions, tiles) else { continue };
                let all = vec![tiles; requests as usize];
                let plan = plan_tiles(work(requests), partitions, &all);
                let cuts = pieces_of_tiles(work(requests), partitions, &plan, &all);
                assert_eq!(cuts.len() as i64, requests * pieces, "{requests} {partitions} {tiles}");
                let (mut least, mut most) = (tiles, 0);
                for (i, piece) in cuts.iter().enumerate() {
                    assert_eq!(piece.partition as usize, i, "{requests} {partitions} {tiles}");
                    let length = (piece.tiles.1 - piece.tiles.0) as i64;
                    (least, most) = (least.min(length), most.max(length));
                }
                assert!(pieces > 1 && most - least <= 1, "{requests} {partitions} {tiles}");
                assert!(
                    most <= ceil_div(requests * (tiles + REQUEST_COST), partitions),
                    "{requests} {partitions} {tiles}"
                );
                cut += 1;
            }
        }
    }
    assert!(cut > 5000, "{cut}");
    // One query token of 2048 indices; 16 requests of 8192 tokens.
    assert_eq!(uniform(1, 132, 32), Uniform::Pieces(32));
    assert_eq!(uniform(16, 132, 128), Uniform::Pieces(8));
    // As many as there are partitions; as many as leave some idle.
    assert_eq!(uniform(132, 132, 32), Uniform::Whole { each: 1 });
    assert_eq!(uniform(100, 132, 128), Uniform::Stretches);
}

/// How many pieces a batch-invariant plan makes of a request, at the borders of the rule.
#[test]
fn pieces_of_batch_invariant_plans() {
    let shape = |h_q| {
        let raw = Raw {
            b: 1,
            s_q: 1,
            h_kv: 1,
            h_q,
            d_qk: 576,
            num_blocks: 1,
            page_block_size: 64,
            max_blocks_per_seq: 1,
            ..Default::default()
        };
        Shape { batch_invariant: true, ..Shape::check(&raw).unwrap() }
    };
    let cuts = |h_q| Work::from(&shape(h_q)).invariant;
    let counts = |h_q, tiles: &[i64]| tiles.iter().map(|t| cuts(h_q).count(*t)).collect::<Vec<_>>();
    let pieces = |h_q, tiles| cuts(h_q).of(tiles).collect::<Vec<_>>();
    // Few rows: pieces of 32 tiles, 32 at most. One row block and two: 64, and 16 at most. Then as many times longer as there
    // are more row blocks.
    for h_q in [1, 32] {
        assert_eq!(
            counts(h_q, &[0, 1, 32, 33, 64, 65, 992, 993, 1024, 1025, 9999]),
            [1, 1, 1, 2, 2, 3, 31, 32, 32, 32, 32]
        );
    }
    for h_q in [33, 64, 65, 128] {
        assert_eq!(counts(h_q, &[64, 65, 128, 129, 960, 961, 1024, 1025]), [1, 2, 2, 3, 15, 16, 16, 16]);
    }
    assert_eq!(counts(129, &[96, 97, 192, 193]), [1, 2, 2, 3]);
    // A rest of a quarter of a piece, and of less.
    assert_eq!(pieces(128, 144), [(0, 64), (64, 128), (128, 144)]);
    assert_eq!(pieces(128, 143), [(0, 64), (64, 104), (104, 143)]);
    assert_eq!(pieces(128, 0), [(0, 0)]);
    assert_eq!(pieces(16, 33), [(0, 17), (17, 33)]);
    // Past the most pieces they become longer.
    assert_eq!(pieces(128, 2000)[..2], [(0, 125), (125, 250)]);
}

/// What the buffers have room for is enough for every length.
#[test]
fn longer_requests_have_no_fewer_pieces() {
    let mut all: Vec<InvariantCuts> = [1, 32, 33, 64, 65, 128, 129, 256, 257, 1024].map(invariant_cuts).into();
    all.push(INVARIANT_CUTS_SPARSE);
    for cuts in all {
        let mut before = 1;
        for tiles in 0..20_000 {
            let pieces: Vec<_> = cuts.of(tiles).collect();
            let count = pieces.len() as i64;
            assert_eq!(count, cuts.count(tiles));
            assert!((before..=cuts.most).contains(&count), "{cuts:?} {tiles}");
            before = count;
            assert_eq!((pieces[0].0, pieces[pieces.len() - 1].1), (0, tiles), "{cuts:?} {tiles}");
            assert!(pieces.windows(2).all(|two| two[0].1 == two[1].0), "{cuts:?} {tiles}");
            let most = cuts.tiles.max(ceil_div(tiles, cuts.most));
            let fine = |(begin, end): &(i64, i64)| count == 1 || (most / 4..=most).contains(&(end - begin));
            assert!(pieces.iter().all(fine), "{cuts:?} {tiles}: {pieces:?}");
        }
        assert_eq!(before, cuts.most);
    }
}

/// The cuts of a batch-invariant plan follow from a request's own length.
#[test]
fn invariant_cuts_do_not_depend_on_the_batch() {
    let mut r = Random(6);
    for _ in 0..100_000 {
        let Batch { shape, work, partitions, tiles, lens } = batch(&mut r);
        let work = Work { batch_invariant: true, ..work };
        let alone = Work { requests: 1, ..work };
        let all = pieces_of_tiles(work, partitions, &plan_tiles(work, partitions, &tiles), &tiles);
        let i = r.below(lens.len() as u64) as usize;
        let own = [tiles[i]];
        let one = pieces_of_tiles(alone, partitions, &plan_tiles(alone, partitions, &own), &own);
        // Where pieces begin: not where one only changes hands.
        let cuts = |pieces: &[Piece], request: i32| -> Vec<i32> {
            let begins = pieces.iter().filter(|p| p.request == request && !p.resumes).map(|p| p.tiles.0);
            let mut cuts: Vec<_> = begins.collect();
            cuts.sort();
            cuts
        };
        assert_eq!(cuts(&all, i as i32), cuts(&one, 0), "{shape:?} {lens:?} request {i}");
    }
}

/// Division by multiplication, as the kernels do it.
#[test]
fn divisors_divide() {
    let mut r = Random(7);
    let edges = [0, 1, 2, 3, 63, 64, 65, 127, 128, i32::MAX as u32 - 1, i32::MAX as u32];
    for i in 0..2_000_000 {
        let d = match i % 4 {
            0 => 1 + r.below(300) as u32,
            1 => 1 << r.below(31),
            2 => r.pick(&edges).max(1),
            _ => 1 + (r.bits() as u32 >> 1).min(i32::MAX as u32 - 1),
        };
        let near = (r.below(1 << 31) as u32 / d).wrapping_mul(d);
        let x = r.pick(&[r.0 as u32 >> 1, near, near.saturating_sub(1), 0, i32::MAX as u32]).min(i32::MAX as u32);
        let Divisor { magic, shift } = Divisor::new(d);
        assert_eq!((x as u64 * magic as u64) >> shift, (x / d) as u64, "{x} / {d}");
    }
}
