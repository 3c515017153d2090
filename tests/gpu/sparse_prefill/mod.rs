//! Sparse prefill.

mod call;
mod check;
mod data;
mod oracle;
mod spec;

// The tests, by topic.
mod accuracy;
mod determinism;
mod golden;
mod graphs;
mod sanitize;
mod sizes;
mod wrong_values;
