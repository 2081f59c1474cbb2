//! Compiles the seccomp and Landlock policies (TOML) at build time.
//!
//! A *policy* is one file: the calls that one stage of one program may make. A *rule* allows one call; its *clauses*
//! each look at one argument and must all hold. Several rules for one call are alternatives. A *refusal* answers a call
//! with an errno where the default would end the process.
//!
//! The passes, in order: [`rule`] and [`grant`] read a file, [`check`] holds the laws, [`lower`] makes BPF for the target
//! CPU, [`table`] prints what was allowed and why. The shipped binaries hold the bytes and no parser.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod check;
pub mod grant;
pub mod law;
pub mod lower;
pub mod rule;
pub mod symbols;
pub mod table;

mod forbidden;
mod number;

pub use check::{BrokenLaw, CheckedPolicies, check};
pub use lower::{LowerError, Lowered, Target, calls, lower};
