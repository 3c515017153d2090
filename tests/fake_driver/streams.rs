//! Any stream of any context of the device, whatever context is current: launches go to the right
//! one, and the thread's contexts are as they were.

use super::api::{use_fake_kernels, Context, DenseDecode};
use super::control::Fake;
use super::process::{alone, Driver};

/// NULL, legacy and per-thread.
const DEFAULT_STREAMS: [usize; 3] = [0, 1, 2];

#[test]
fn streams_and_current_contexts() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "2")], || {
        use_fake_kernels();
        let fake = Fake::open();
        let contexts = [Context::create(0).unwrap(), Context::create(1).unwrap()];
        for device in [0, 1] {
            let context = &contexts[device as usize];
            let own_primary = fake.primary_context(device);
            let own_other = fake.other_context(device);
            let foreign = fake.primary_context(1 - device);
            for current in [0, own_primary, own_other, foreign] {
                // What a default stream means here.
                let default_is_primary = current != own_other;
                let streams = DEFAULT_STREAMS
                    .map(|stream| (stream, default_is_primary))
                    .into_iter()
                    .chain([(fake.stream(device, 1), true), (fake.stream(device, 0), false)]);
                for (stream, primary) in streams {
                    fake.make_current(current);
                    fake.forget();
                    let mut problem = DenseDecode::new(3, 1, 128);
                    problem.plan(context, stream).unwrap();
                    problem.run(context, stream).unwrap();
                    let launches = fake.launches();
                    assert_eq!(launches.len(), 2);
                    for launch in launches {
                        assert_eq!(launch.device, device);
                        assert_eq!(launch.primary_context != 0, primary, "stream {stream:#x}, current {current:#x}");
                        assert_eq!(launch.stream, stream as u64);
                    }
                    assert_eq!(fake.current(), current);
                    assert_eq!(fake.depth(), (current != 0) as i32);
                    let own_is_current = current == own_primary || current == own_other;
                    let pushes = if own_is_current { 0 } else { 2 };
                    assert_eq!(fake.count("cuCtxPushCurrent_v2"), pushes);
                    assert_eq!(fake.count("cuCtxPopCurrent_v2"), pushes);
                }
            }
        }
    });
}

#[test]
fn contexts_of_the_thread_stay_below() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "2")], || {
        use_fake_kernels();
        let fake = Fake::open();
        let second = Context::create(1).unwrap();
        // Creating a context leaves the thread's own one current.
        fake.make_current(fake.other_context(1));
        let first = Context::create(0).unwrap();
        assert_eq!((fake.depth(), fake.current()), (1, fake.other_context(1)));
        for (context, pushes) in [(&first, 2), (&second, 0)] {
            fake.forget();
            let mut problem = DenseDecode::new(1, 1, 16);
            problem.plan(context, 0).unwrap();
            problem.run(context, 0).unwrap();
            assert_eq!(fake.count("cuCtxPushCurrent_v2"), pushes);
            assert_eq!((fake.depth(), fake.current()), (1, fake.other_context(1)));
        }
    });
}

/// A plan and a run make these calls of the driver and no others: none that allocates, none that
/// synchronises, none that is illegal while a stream is captured.
#[test]
fn calls_of_plan_and_run() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.make_current(fake.primary_context(0));
        let stream = fake.stream(0, 1);
        let mut problem = DenseDecode::new(128, 2, 128);
        fake.forget();
        problem.plan(&context, stream).unwrap();
        assert_eq!(fake.calls(), ["cuCtxGetCurrent", "cuCtxGetDevice", "cuLaunchKernelEx"]);
        fake.forget();
        problem.run(&context, stream).unwrap();
        assert_eq!(
            fake.calls(),
            [
                "cuCtxGetCurrent",
                "cuCtxGetDevice",
                "cuTensorMapEncodeTiled",
                "cuTensorMapEncodeTiled",
                "cuTensorMapEncodeTiled",
                "cuLaunchKernelEx"
            ]
        );
    });
}
