//! The suite that runs on a GPU, through the C API.
//!
//! Without a GPU every test prints a line `SKIP <test>` and passes. Environment:
//! - `FLASHMLA_REQUIRE_GPU=1`: what would be skipped fails.
//! - `FLASHMLA_TEST_BACKEND=cpu`: the tests that know no device memory run on the CPU backend.
//! - `FLASHMLA_TEST_DEVICE`: ordinal of the device, 0 by default.
//! - `FLASHMLA_GOLDEN_DIR`: folder of the golden cases, `tests/golden` by default.
//! - `FLASHMLA_TEST_CASE`: a case in the one-line form of `spec.rs`, for `accuracy::one_case`.
//! - `FLASHMLA_TEST_SPARSE_DECODE`: likewise of `sparse_decode/spec.rs`, for `sparse_decode::accuracy::one_case`.
//! - `FLASHMLA_TEST_PREFILL`: likewise of `sparse_prefill/spec.rs`, for `sparse_prefill::accuracy::one_case`.
//!
//! Lines `SKIP`, `WORST` (the margin to the bounds) and `TIME` go straight to stderr, past the
//! capture of the test harness. Cases of a test run on all cores, so `--test-threads=1` costs
//! little and gives clean times.

#[path = "../../tools/common/cuda.rs"]
mod cuda;

// What the tests are made of.
#[macro_use]
mod session;
mod check;
mod data;
mod decode;
mod latent;
mod memory;
mod oracle;
mod random;
mod spec;

// The tests, by topic.
mod accuracy;
mod cache;
mod determinism;
mod golden;
mod graphs;
mod plan;
mod sanitize;
mod sizes;
mod sparse_decode;
mod sparse_prefill;
mod streams;
mod workspace;
mod wrong_values;
