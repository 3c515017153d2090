//! Creating a context: the environment it needs, and what it says where that is missing.

use super::api::{text, use_fake_kernels, Context, FATBINS, KERNELS};
use super::control::Fake;
use super::process::{alone, each_alone, Case, Driver};
use flashmla::gpu::driver::MIN_VERSION;
use flashmla::gpu::kernels;
use flashmla::status::*;

/// What the driver must have beside `cuDriverGetVersion`.
const REQUIRED: [&str; 17] = [
    "cuInit",
    "cuGetErrorName",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuLibraryLoadData",
    "cuLibraryGetKernel",
    "cuKernelSetAttribute",
    "cuKernelGetFunction",
    "cuLaunchKernelEx",
    "cuTensorMapEncodeTiled",
];

#[track_caller]
fn create_fails(device: i32, status: i32, parts: &[&str]) {
    let Err(failure) = Context::create(device) else { panic!("a context of device {device} was made") };
    assert_eq!(failure.status, status, "{}", failure.message);
    for part in parts {
        assert!(failure.message.contains(part), "{:?} does not say {part:?}", failure.message);
    }
}

#[test]
fn makes_everything_ready() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        let info = context.info();
        assert_eq!(text(&info.name), "Fake GPU 0");
        assert_eq!((info.device, info.compute_capability), (0, 90));
        assert_eq!((info.multiprocessors, info.driver_version), (132, 13000));
        assert_eq!(fake.retained(0), 1);
        assert_eq!(fake.loaded(0) as usize, KERNELS);
        assert_eq!(fake.count("cuLibraryLoadData"), FATBINS);
        assert_eq!(fake.depth(), 0, "a context stayed current");

        // A second context finds all of that.
        fake.forget();
        let second = Context::create(0).unwrap();
        drop(context);
        drop(second);
        for call in ["cuDevicePrimaryCtxRetain", "cuLibraryLoadData", "cuKernelSetAttribute", "cuFuncLoad"] {
            assert_eq!(fake.count(call), 0, "{call}");
        }
    });
}

#[test]
fn embedded_kernels_come_first() {
    alone(Driver::Whole, &[], || {
        let fake = Fake::open();
        if kernels::FATBINS.is_empty() {
            create_fails(0, FLASHMLA_ERROR_NO_KERNELS, &["FLASHMLA_NO_KERNELS", "FLASHMLA_DEVICE_CPU"]);
            assert!(fake.calls().is_empty());
        } else {
            Context::create(0).unwrap();
            // All but those that the benchmark brings along.
            let own = kernels::FATBINS.iter().filter(|(name, _)| !name.starts_with("bench/"));
            assert_eq!(fake.count("cuLibraryLoadData"), own.count());
        }
    });
}

#[test]
fn no_driver() {
    alone(Driver::Unloadable, &[], || {
        use_fake_kernels();
        for _ in 0..3 {
            create_fails(0, FLASHMLA_ERROR_NO_DRIVER, &["libcuda.so.1"]);
        }
        // The CPU needs none.
        Context::create(-1).unwrap();
    });
}

#[test]
fn not_a_driver() {
    alone(Driver::Without("cuDriverGetVersion"), &[], || {
        use_fake_kernels();
        create_fails(0, FLASHMLA_ERROR_NO_DRIVER, &["cuDriverGetVersion"]);
    });
}

#[test]
fn stub_of_the_toolkit() {
    const STUB_LIBRARY: u32 = 34;
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        for function in ["cuDriverGetVersion", "cuInit"] {
            fake.fail(function, 1, STUB_LIBRARY);
            create_fails(0, FLASHMLA_ERROR_NO_DRIVER, &["stub"]);
        }
        Context::create(0).unwrap();
    });
}

#[test]
fn old_driver() {
    alone(Driver::Whole, &[("FAKE_CUDA_VERSION", "11080")], || {
        use_fake_kernels();
        let needed = format!("{}.{}", MIN_VERSION / 1000, MIN_VERSION % 1000 / 10);
        create_fails(0, FLASHMLA_ERROR_DRIVER_TOO_OLD, &["11.8", &needed, kernels::TOOLKIT_VERSION]);
        let fake = Fake::open();
        fake.set("version", MIN_VERSION as i64 - 10);
        create_fails(0, FLASHMLA_ERROR_DRIVER_TOO_OLD, &[&needed]);
        assert_eq!(fake.count("cuInit"), 0);
        fake.set("version", MIN_VERSION as i64);
        Context::create(0).unwrap();
    });
}

#[test]
fn old_driver_without_newer_functions() {
    alone(Driver::Without("cuLibraryLoadData"), &[("FAKE_CUDA_VERSION", "11080")], || {
        use_fake_kernels();
        create_fails(0, FLASHMLA_ERROR_DRIVER_TOO_OLD, &["11.8"]);
    });
}

#[test]
fn missing_required_functions() {
    let case = |name: &'static str| Case { name: name.into(), driver: Driver::Without(name), settings: vec![] };
    each_alone(REQUIRED.map(case), |function| {
        use_fake_kernels();
        create_fails(0, FLASHMLA_ERROR_DRIVER_TOO_OLD, &[function]);
        create_fails(0, FLASHMLA_ERROR_DRIVER_TOO_OLD, &[function]);
    });
}

#[test]
fn missing_optional_function() {
    alone(Driver::Without("cuFuncLoad"), &[], || {
        use_fake_kernels();
        Context::create(0).unwrap();
        assert_eq!(Fake::open().loaded(0), 0);
    });
}

#[test]
fn no_device() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "0")], || {
        use_fake_kernels();
        create_fails(0, FLASHMLA_ERROR_NO_DEVICE, &["no CUDA device"]);
        Fake::open().set("devices", 1);
        Context::create(0).unwrap();
    });
}

#[test]
fn device_does_not_exist() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "2")], || {
        use_fake_kernels();
        create_fails(2, FLASHMLA_ERROR_NO_DEVICE, &["device = 2", "less than 2"]);
        create_fails(i32::MAX, FLASHMLA_ERROR_NO_DEVICE, &["device = 2147483647"]);
        create_fails(-2, FLASHMLA_ERROR_NO_DEVICE, &["device = -2"]);
        assert_eq!(Context::create(1).unwrap().info().device, 1);
    });
}

#[test]
fn unsupported_device() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        for capability in [70, 80, 89, 100, 103, 120] {
            fake.set("capability", capability);
            let has = format!("{}.{}", capability / 10, capability % 10);
            create_fails(0, FLASHMLA_ERROR_UNSUPPORTED_DEVICE, &["device 0", "Fake GPU 0", &has, "must be 9.0"]);
        }
        assert_eq!(fake.retained(0), 0);
        assert_eq!(fake.count("cuLibraryLoadData"), 0);
    });
}

#[test]
fn several_devices() {
    alone(Driver::Whole, &[("FAKE_CUDA_DEVICES", "3")], || {
        use_fake_kernels();
        let fake = Fake::open();
        let contexts: Vec<_> = (0..3).map(|device| Context::create(device).unwrap()).collect();
        for (device, context) in contexts.iter().enumerate() {
            assert_eq!(text(&context.info().name), format!("Fake GPU {device}"));
            assert_eq!(fake.retained(device as i32), 1);
            assert_eq!(fake.loaded(device as i32) as usize, KERNELS);
        }
        // Kernels belong to the process, not to a device.
        assert_eq!(fake.count("cuLibraryLoadData"), FATBINS);
    });
}
