//! The archive gate: reads a TorchScript archive in safe Rust before libtorch sees a byte of it.
//!
//! [`judge`] takes bytes and gives a [`Report`] or a [`Refusal`]; it opens nothing and writes nothing. In this order:
//!
//! [`zip`] the records, as miniz will find them → [`layout`] what each is for → [`code`] the source's text →
//! [`pickle`] the objects, with [`tensor`] bounds → [`policy`] the operators.
//!
//! It keeps out what is malformed, too large or plainly forbidden. It is no wall: an operator that is allowed may still
//! have a mistake in its C++, which is what the cage is for.

#![forbid(unsafe_code)]

pub mod code;
mod cursor;
pub mod judge;
pub mod layout;
pub mod pickle;
pub mod policy;
pub mod refusal;
pub mod report;
pub mod tensor;
pub mod zip;

pub use judge::judge;
pub use policy::{Level, Policy};
pub use refusal::Refusal;
pub use report::Report;
