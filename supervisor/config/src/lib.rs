//! What the operator wrote, checked.
//!
//! [`raw`] is the file field for field, [`Config`] what it means; [`limits`] holds every limit of the house with its
//! default, its bounds and its reason. Nothing here opens a file: the launcher reads it, and hands the front the same text.

#![forbid(unsafe_code)]

pub mod config;
mod identities;
pub mod limits;
pub mod listen;
pub mod model;
pub mod raw;
pub mod tenant;

pub use config::{Config, ConfigError};
pub use limits::Limits;
pub use model::{ModelConfig, Versions};
