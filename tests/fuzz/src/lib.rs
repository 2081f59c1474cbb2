//! A target for every decoder of the house: a function that takes any bytes and fails by panicking.
//!
//! The same functions are driven by libFuzzer (`libfuzzer/`, run by `cargo xtask fuzz`) and by an ordinary test with a
//! mutator of its own ([`mutate`]), so that `cargo test` covers them where libFuzzer cannot be built. Both start from
//! [`seeds`], which the real encoders make.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test code: what cannot be is a failure, and a panic is how a target tells"
)]

pub mod mutate;
pub mod seeds;
pub mod target;

/// A target's function.
pub type Target = fn(&[u8]);

/// Every target, by name.
pub const TARGETS: [(&str, Target); 14] = [
    ("archive_gate", target::archive_gate),
    ("channel", target::channel),
    ("config", target::config),
    ("escape", target::escape),
    ("frame", target::frame),
    ("launch", target::launch),
    ("lifecycle", target::lifecycle),
    ("manifest", target::manifest),
    ("names", target::names),
    ("numbers", target::numbers),
    ("oip_binary", target::oip_binary),
    ("oip_json", target::oip_json),
    ("sanitise", target::sanitise),
    ("work", target::work),
];
