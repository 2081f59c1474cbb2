//! What a model declares about itself: `STORE/<model>/<version>/model.toml`, beside `model.pt`.
//!
//! `casemate model add` writes it; the worker reads it after it is locked down and tells the front, once, what it says.
//! Read in two types, after ripgrep's flags: [`raw`] is what was written, [`Manifest`] what it means.

#![forbid(unsafe_code)]

pub mod manifest;
pub mod raw;

pub use manifest::{Batching, Format, Limits, Manifest, ManifestError, Output};

/// Largest manifest, in bytes.
pub const MAX_BYTES: u64 = 256 * 1024;
/// The manifest's file name in a model's folder.
pub const FILE: &str = "model.toml";
