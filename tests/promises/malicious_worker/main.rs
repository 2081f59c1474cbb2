//! SECURITY.md, "What a worker cannot do to the front": workers with no cage around them. The real front runs over a
//! launcher that is this test, and its workers are threads of this test, which can send descriptors, cut files and hold
//! pipes open. Every liar answers honestly first, which is the control.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

mod answers;
mod declarations;
mod floods;
mod liar;
mod mutants;
mod sharing;
