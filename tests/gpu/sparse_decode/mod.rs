//! Sparse decode. A context that cannot run it yet (its query says so) skips these tests, whatever
//! `FLASHMLA_REQUIRE_GPU` says: that is about a missing GPU.

mod call;
mod check;
mod data;
mod oracle;
mod spec;

/// The session of a test, or the end of the test where its backend is missing or lacks the operation.
macro_rules! sparse_or_skip {
    ($wants:ident) => {{
        let session = session_or_skip!($wants);
        if !$crate::sparse_decode::check::is_supported(&session) {
            return;
        }
        session
    }};
}

// The tests, by topic.
mod accuracy;
mod dense;
mod determinism;
mod golden;
mod graphs;
mod plan;
mod sanitize;
mod scales;
mod sizes;
mod streams;
mod workspace;
mod wrong_values;
