//! Whole-system tests: the harness that runs a real Casemate in a temporary folder.
//!
//! [`casemate`] starts `casemate-launcher` over a store that the test fills, [`client`] speaks HTTP to it byte by byte,
//! [`forge`] and [`models`] make TorchScript archives without Python, [`zoo`] is the hostile ones, [`pulse`] is a
//! neighbour's steady requests, [`process`] reads `/proc`, [`lack`] takes something away from the host, [`inherited`] is what
//! whoever starts it did to signals, [`stage`] brings the
//! programs where an ordinary user can run them, [`witness`] sees every system call.
//! [`fake_launcher`] starts a real front with workers that are threads of the
//! test ([`puppet`]).

#![allow(clippy::expect_used, reason = "this is test code: what cannot be set up ends the test")]

pub mod casemate;
pub mod client;
pub mod fake_launcher;
pub mod forge;
pub mod inherited;
pub mod lack;
pub mod lag;
pub mod models;
pub mod process;
pub mod pulse;
pub mod puppet;
pub mod stage;
pub mod witness;

#[path = "../adversary/models/mod.rs"]
pub mod zoo;
