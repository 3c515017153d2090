//! Lengths and block tables live on the device, where no host checks them. Wrong ones give defined
//! numbers (lengths are clamped, pages that don't exist read as zeros) and touch nothing else.

use crate::check::{check_all, kinds, run_only};
use crate::data::Data;
use crate::decode::Decode;
use crate::memory::Fence;
use crate::random::Random;
use crate::spec::{Layout, Spec};

const WILD: [i32; 8] = [i32::MIN, -65536, -64, -1, 1 << 20, 1 << 30, 2147480000, i32::MAX];

#[test]
fn negative_lengths_are_empty_requests() {
    let session = backend_or_skip!();
    let specs = kinds().flat_map(|(dtype, d_qk)| {
        [16, 128].map(|h_q| Spec { dtype, d_qk, h_q, lens: vec![-1, 100, i32::MIN, -64], ..Spec::default() })
    });
    check_all(&session, specs.collect());
}

#[test]
fn lengths_beyond_the_block_table_are_clamped_to_it() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for (h_q, page, columns) in [(16, 64, 3), (128, 64, 9), (16, 61, 4), (128, 16, 5)] {
            let lens = vec![i32::MAX, 100, 1 << 30, 100_000];
            let columns = Some(columns);
            specs.push(Spec { dtype, d_qk, h_q, page, lens, columns, causal: true, s_q: 2, ..Spec::default() });
        }
    }
    check_all(&session, specs);
}

#[test]
fn pages_outside_the_cache_read_as_zeros() {
    let session = backend_or_skip!();
    let mut specs = Vec::new();
    for (dtype, d_qk) in kinds() {
        for page in [1, 4, 16, 61, 64, 128] {
            for (h_q, layout) in [(16, Layout::Contiguous), (128, Layout::Padded)] {
                let lens = vec![500, 64, 0, 129];
                let seed = 50 + page as u64;
                specs.push(Spec { dtype, d_qk, h_q, page, lens, layout, bad_pages: true, seed, ..Spec::default() });
            }
        }
    }
    check_all(&session, specs);
}

/// Everything wild at once. What comes out is not looked at, only what is not to be written: the
/// guards around every buffer, the gaps of the outputs and the inputs.
#[test]
fn wild_lengths_and_tables_write_nothing_else() {
    let session = backend_or_skip!();
    let mut random = Random::new(4);
    let queue = session.queue().unwrap();
    for round in 0..24 {
        let spec = Spec {
            h_q: random.pick(&[1, 16, 128]),
            s_q: random.pick(&[1, 3]),
            page: random.pick(&[1, 16, 61, 64]),
            lens: (0..9).map(|_| random.pick(&WILD)).collect(),
            columns: Some(random.range(1, 30)),
            causal: random.below(2) == 0,
            invariant: random.below(2) == 0,
            layout: Layout::Padded,
            seed: round,
            ..Spec::default()
        };
        let mut data = Data::new(&spec);
        data.table.iter_mut().for_each(|entry| *entry = random.pick(&WILD));
        let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        let check = || {
            decode.plan_and_run(queue.raw())?;
            queue.synchronize()?;
            decode.results()?;
            decode.check_inputs(&data)
        };
        if let Err(why) = check() {
            panic!("{why}\n    case (with wild tables): {spec}");
        }
    }
}

/// Lengths that change between plan and run make the plan a wrong one.
#[test]
fn a_plan_for_other_lengths_writes_nothing_else() {
    let session = gpu_alone_or_skip!();
    let queue = session.queue().unwrap();
    for (h_q, invariant) in [(16, false), (16, true), (128, false), (128, true)] {
        // The block table is much wider than these lengths need: others may be far longer.
        let lens = vec![4200, 10, 5000, 0];
        let layout = Layout::Padded;
        let data = Data::new(&Spec { h_q, invariant, lens, columns: Some(400), layout, ..Spec::default() });
        let spec = &data.spec;
        let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        for other in [[0, 3000, 0, 2112], [3000; 4], [0; 4], [-5, i32::MAX, 64, i32::MIN], [i32::MAX; 4]] {
            decode.lens.write(0, &data.lens).unwrap();
            decode.make_plan(queue.raw()).unwrap();
            queue.synchronize().unwrap();
            let mut lens = data.lens.clone();
            for (i, len) in other.into_iter().enumerate() {
                lens[data.lens_place.at([i as i64])] = len;
            }
            decode.lens.write(0, &lens).unwrap();
            decode.run(queue.raw()).unwrap();
            queue.synchronize().unwrap_or_else(|e| panic!("{e}: lengths {other:?} with the plan of {spec}"));
            decode.results().unwrap_or_else(|e| panic!("{e}: lengths {other:?} with the plan of {spec}"));
        }
        // With its own lengths again, everything is as it was.
        let want = run_only(&session, &queue, Fence::Guarded, &data).unwrap();
        decode.lens.write(0, &data.lens).unwrap();
        decode.plan_and_run(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        assert!(decode.results().unwrap() == want, "{spec}");
    }
}

/// What was never written as a plan. The last of these claims splits that the workspace has room for.
#[test]
fn a_plan_of_garbage_writes_nothing_else() {
    let session = gpu_alone_or_skip!();
    let queue = session.queue().unwrap();
    for (h_q, invariant) in [(16, false), (16, true), (128, false), (128, true)] {
        let lens = vec![4200, 10, 5000, 0];
        let data = Data::new(&Spec { h_q, invariant, lens, layout: Layout::Padded, ..Spec::default() });
        let spec = &data.spec;
        let decode = Decode::new(&session.backend.handle, session.place(), Fence::Guarded, &data).unwrap();
        decode.make_plan(queue.raw()).unwrap();
        queue.synchronize().unwrap();
        for word in [0i32, 0x7f7f_7f7f, -1, i32::MIN, 1] {
            decode.plan.write(0, &vec![word; decode.plan.bytes() / 4]).unwrap();
            decode.run(queue.raw()).unwrap();
            queue.synchronize().unwrap_or_else(|e| panic!("{e}: a plan of {word:#x} for {spec}"));
            decode.results().unwrap_or_else(|e| panic!("{e}: a plan of {word:#x} for {spec}"));
        }
    }
}
