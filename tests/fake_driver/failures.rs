//! Every call of the driver fails once: the status keeps its code, the message names it, nothing is
//! launched that should not be, and the next attempt works.

use super::api::{
    use_fake_kernels, Context, DenseDecode, Outcome, CLUSTER_KERNELS, CLUSTER_SIZES, FATBINS, KERNELS, LARGE_KERNELS,
};
use super::control::Fake;
use super::process::{alone, each_alone, Case, Driver};
use flashmla::status::*;
use std::collections::BTreeMap;

const OUT_OF_MEMORY: u32 = 2;
const NOT_FOUND: u32 = 500;

/// The calls that create the first context, and how many of each.
const CREATE: [(&str, usize); 16] = [
    ("cuDriverGetVersion", 1),
    ("cuInit", 1),
    ("cuDeviceGetCount", 1),
    ("cuDeviceGet", 1),
    ("cuDeviceGetName", 1),
    ("cuDeviceGetAttribute", 3),
    ("cuDevicePrimaryCtxRetain", 1),
    ("cuLibraryLoadData", FATBINS),
    ("cuCtxGetCurrent", 1),
    ("cuCtxPushCurrent_v2", 1),
    // A kernel is asked for only where its name says that it is.
    ("cuLibraryGetKernel", KERNELS),
    ("cuKernelSetAttribute", LARGE_KERNELS + CLUSTER_KERNELS),
    ("cuKernelGetFunction", KERNELS + CLUSTER_KERNELS),
    ("cuOccupancyMaxActiveClusters", CLUSTER_KERNELS * CLUSTER_SIZES),
    ("cuFuncLoad", KERNELS),
    ("cuCtxPopCurrent_v2", 1),
];

#[test]
fn calls_of_create() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        Context::create(0).unwrap();
        let mut counts = BTreeMap::new();
        for call in Fake::open().calls() {
            *counts.entry(call).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from(CREATE));
    });
}

#[test]
fn each_call_of_create() {
    let cases = CREATE.into_iter().flat_map(|(function, count)| (1..=count).map(move |nth| (function, nth)));
    let case = |(function, nth)| Case {
        name: String::from(function),
        driver: Driver::Whole,
        settings: vec![("FAKE_CUDA_FAIL", format!("{function}:{nth}:{OUT_OF_MEMORY}"))],
    };
    each_alone(cases.map(case), |function| {
        use_fake_kernels();
        let fake = Fake::open();
        let failure = Context::create(0).err().expect("a context was made");
        assert_eq!(failure.status, FLASHMLA_ERROR_CUDA + OUT_OF_MEMORY as i32);
        assert!(failure.message.starts_with(function), "{}", failure.message);
        if function != "cuDriverGetVersion" {
            // That one fails before there is a table to ask for names.
            assert!(failure.message.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{}", failure.message);
        }
        if function != "cuCtxPopCurrent_v2" {
            assert_eq!(fake.depth(), 0, "a context stayed current");
        }

        let context = Context::create(0).unwrap();
        assert_eq!(fake.retained(0), 1, "the primary context leaks");
        assert_eq!(fake.loaded(0) as usize, KERNELS);
        let failed_loads = (function == "cuLibraryLoadData") as usize;
        assert_eq!(fake.count("cuLibraryLoadData"), FATBINS + failed_loads, "a library leaks");
        let mut problem = DenseDecode::new(3, 1, 128);
        problem.plan(&context, 0).unwrap();
        problem.run(&context, 0).unwrap();
    });
}

#[test]
fn kernel_that_is_not_there() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        fake.fail("cuLibraryGetKernel", 0, NOT_FOUND);
        let failure = Context::create(0).err().expect("a context was made");
        assert_eq!(failure.status, FLASHMLA_ERROR_INTERNAL);
        assert!(failure.message.contains("flashmla_plan"), "{}", failure.message);
        fake.fail_no_more();
        Context::create(0).unwrap();
    });
}

/// The calls of a plan and of a run from a thread without a current context; the launches that went
/// out before each.
const PLAN: [(&str, i32, usize); 4] = [
    ("cuCtxGetCurrent", 1, 0),
    ("cuCtxPushCurrent_v2", 1, 0),
    ("cuLaunchKernelEx", 1, 0),
    ("cuCtxPopCurrent_v2", 1, 1),
];
const RUN: [(&str, i32, usize); 7] = [
    ("cuCtxGetCurrent", 1, 0),
    ("cuCtxPushCurrent_v2", 1, 0),
    ("cuTensorMapEncodeTiled", 1, 0),
    ("cuTensorMapEncodeTiled", 2, 0),
    ("cuTensorMapEncodeTiled", 3, 0),
    ("cuLaunchKernelEx", 1, 0),
    ("cuCtxPopCurrent_v2", 1, 1),
];

#[test]
fn each_call_of_plan_and_run() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(3, 1, 128);
        problem.plan(&context, 0).unwrap();

        let check = |call: &mut dyn FnMut() -> Outcome, calls: &[(&str, i32, usize)]| {
            fake.forget();
            call().unwrap();
            let names: Vec<_> = calls.iter().map(|(function, ..)| *function).collect();
            assert_eq!(fake.calls(), names);
            for (function, nth, launched) in calls {
                for (code, status, name) in [
                    (1, 4001, "CUDA_ERROR_INVALID_VALUE"),
                    (700, 4700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
                    // Not in the driver's own list, or past what a status can tell.
                    (998, 4998, "998"),
                    (12345, 4000, "12345"),
                    (u32::MAX, 4000, "4294967295"),
                ] {
                    fake.forget();
                    fake.fail(function, *nth, code);
                    let failure = call().expect_err(function);
                    assert_eq!(failure.status, status, "{}", failure.message);
                    assert!(failure.message.starts_with(function), "{}", failure.message);
                    assert!(failure.message.contains(name), "{}", failure.message);
                    assert_eq!(fake.launches().len(), *launched, "{function}");
                    if *function != "cuCtxPopCurrent_v2" {
                        assert_eq!(fake.depth(), 0, "{function}: a context stayed current");
                    }
                    fake.make_current(0);
                    call().unwrap();
                    assert_eq!(fake.depth(), 0);
                }
            }
        };
        let mut planned = problem;
        check(&mut || planned.plan(&context, 0), &PLAN);
        check(&mut || problem.run(&context, 0), &RUN);
    });
}

/// The other way out of the question which context is current.
#[test]
fn failing_device_of_the_current_context() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.make_current(fake.primary_context(0));
        fake.fail("cuCtxGetDevice", 1, 201);
        let failure = DenseDecode::new(3, 1, 128).plan(&context, 0).unwrap_err();
        assert_eq!(failure.status, 4201);
        assert!(failure.message.contains("cuCtxGetDevice"), "{}", failure.message);
        assert_eq!(fake.depth(), 1);
    });
}

/// Where the clean-up fails as well, the message is about the cause.
#[test]
fn first_of_two_failures() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.fail("cuLaunchKernelEx", 1, 700);
        fake.fail("cuCtxPopCurrent_v2", 1, 201);
        let failure = DenseDecode::new(3, 1, 128).plan(&context, 0).unwrap_err();
        assert_eq!(failure.status, 4700);
        assert!(failure.message.starts_with("cuLaunchKernelEx"), "{}", failure.message);
    });
}

/// A plan that failed to launch is not taken for one that was made.
#[test]
fn failed_plan_is_no_plan() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let mut problem = DenseDecode::new(3, 1, 128);
        fake.fail("cuLaunchKernelEx", 1, 700);
        problem.plan(&context, 0).unwrap_err();
        fake.forget();
        assert_eq!(problem.run(&context, 0).unwrap_err().status, FLASHMLA_ERROR_PLAN_MISMATCH);
        assert!(fake.calls().is_empty());
    });
}
