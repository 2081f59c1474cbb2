//! Whole-system tests: the harness that runs a real Casemate in a temporary folder.
//!
//! [`casemate`] starts `casemate-launcher` over a store that the test fills, [`client`] speaks HTTP to it byte by byte,
//! [`forge`] and [`models`] make TorchScript archives without Python, [`process`] reads `/proc`, [`pulse`] is a neighbour's steady requests,
//! [`zoo`] is the hostile models, [`stage`] brings the programs where an ordinary user can run them.

#![allow(clippy::expect_used, reason = "this is test code: what cannot be set up ends the test")]

pub mod casemate;
pub mod client;
pub mod forge;
pub mod models;
pub mod process;
pub mod pulse;
pub mod stage;

#[path = "../adversary/models/mod.rs"]
pub mod zoo;
