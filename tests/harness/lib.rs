//! Whole-system tests: the harness that runs a Casemate in a temporary folder.

pub mod forge;
pub mod models;
