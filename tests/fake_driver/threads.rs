//! Many threads that create contexts and use them at once.

use super::api::{use_fake_kernels, Context, DenseDecode, CLUSTER_KERNELS, FATBINS, LARGE_KERNELS};
use super::control::Fake;
use super::process::{alone, Driver};
use std::sync::Barrier;

const THREADS: usize = 64;
const STEPS: usize = 20;

#[test]
fn contexts_of_their_own() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "2")], || {
        use_fake_kernels();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let context = Context::create(thread as i32 % 2).unwrap();
                    for step in 0..STEPS {
                        let mut problem = DenseDecode::new(1 + step as i64, 1, 128);
                        problem.plan(&context, thread % 3).unwrap();
                        problem.run(&context, thread % 3).unwrap();
                    }
                    assert_eq!(Fake::open().depth(), 0);
                });
            }
        });
        let fake = Fake::open();
        assert_eq!(fake.launches().len(), THREADS * STEPS * 2);
        assert_eq!((fake.retained(0), fake.retained(1)), (1, 1));
        assert_eq!(fake.count("cuLibraryLoadData"), FATBINS);
        assert_eq!(fake.count("cuKernelSetAttribute"), 2 * (LARGE_KERNELS + CLUSTER_KERNELS));
    });
}

#[test]
fn one_context_for_all() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let context = Context::create(0).unwrap();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (start, context) = (&start, &context);
                scope.spawn(move || {
                    let mut problem = DenseDecode::new(1 + thread as i64, 1, 16);
                    start.wait();
                    problem.plan(context, 0).unwrap();
                    for _ in 0..STEPS {
                        problem.run(context, 0).unwrap();
                    }
                    // The message of a failure is the thread's own.
                    let mut wrong = problem.with(|p| p.d_qk = 600 + thread as i64);
                    let failure = wrong.run(context, 0).unwrap_err();
                    assert!(failure.message.contains(&format!("d_qk = {}", 600 + thread)), "{}", failure.message);
                });
            }
        });
        assert_eq!(Fake::open().launches().len(), THREADS * (1 + STEPS));
    });
}
