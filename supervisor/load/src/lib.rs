//! A load generator: one request, sent again and again over HTTP/1.1, in a closed loop or an open one.
//!
//! One thread waits for all connections at once, so that the generator takes little of the machine that it measures, and
//! takes the same whatever server answers. [`generator`] is the loop, [`connection`] one connection of it, [`answer`] reads
//! heads; [`tally`] counts what came of it, in a [`histogram`].

#![forbid(unsafe_code)]

pub mod answer;
pub mod generator;
pub mod histogram;
pub mod request;
pub mod tally;

mod connection;

pub use generator::{LoadError, Outcome, Pace, Plan, Sample, run};
pub use histogram::Histogram;
pub use request::Request;
pub use tally::Tally;
