//! The cell: one model, locked down before its first byte is read.
//!
//! [`phases`] is the trip from birth to serving. [`boot`] checks what the worker was born with, [`warm`] does the trusted
//! work that the cage would not allow later, [`crew`] are the threads beside the first one, [`model`] proves the bytes,
//! [`engine`] runs them, [`serve`] carries batches in and out. [`zygote`] is what bears workers in place of a launcher's exec,
//! and [`newborn`] what those do first. [`probe`] tries to get out, for the tests of the cage.

#![deny(unsafe_code)]

pub mod boot;
pub mod crew;
pub mod engine;
pub mod model;
pub mod newborn;
pub mod phases;
pub mod probe;
pub mod serve;
pub mod warm;
pub mod zygote;
