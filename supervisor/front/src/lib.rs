//! The unprivileged face: HTTP in, shared memory out, workers supervised.
//!
//! Reading the modules downwards is following a request: [`server`] takes connections, [`protocol`] parses, [`pipeline`]
//! admits, batches and answers, [`fleet`] speaks with the workers. The vocabulary lies at the ground.

#![deny(unsafe_code)]

pub mod admit;
pub mod alarm;
pub mod app;
pub mod batch;
pub mod desk;
pub mod fleet;
#[expect(unsafe_code, reason = "one call of libc, which takes a number")]
mod heap;
pub mod metrics;
pub mod pipeline;
pub mod protocol;
pub mod refusal;
pub mod request;
pub mod response;
pub mod server;
pub mod status;
pub mod telemetry;
pub mod trace;
