//! `cargo xtask test` and `cargo xtask bench`: the whole workspace, measured against running programs.

use std::ffi::OsString;

use crate::checkout::Checkout;
use crate::program::{self, ProgramError};

/// The test runner writes to our terminal itself, and its exit code becomes ours.
pub(crate) fn test(checkout: &Checkout, args: &[OsString]) -> Result<(), ProgramError> {
    // The tests start real programs, and `cargo test` builds only those of the package under test.
    step(checkout, &["build", "--workspace", "--bins"], &[])?;
    step(checkout, &["test", "--workspace"], args)
}

/// The test that compares the documents with what is compiled in, told to write instead.
pub(crate) fn write_documents(checkout: &Checkout) -> Result<(), ProgramError> {
    let mut cargo = checkout.cargo();
    cargo.args(["test", "--quiet", "-p", "casemate-tests", "--test", "documents"]).env("CASEMATE_WRITE_DOCUMENTS", "1");
    program::announce(&cargo);
    program::run(&mut cargo)
}

/// Benches compare ratios within one run, so they need the programs as they are shipped.
pub(crate) fn bench(checkout: &Checkout, args: &[OsString]) -> Result<(), ProgramError> {
    step(checkout, &["build", "--release", "--workspace", "--bins"], &[])?;
    step(checkout, &["run", "--release", "-p", "casemate-benches", "--"], args)
}

fn step(checkout: &Checkout, fixed: &[&str], args: &[OsString]) -> Result<(), ProgramError> {
    let mut cargo = checkout.cargo();
    cargo.args(fixed).args(args);
    program::announce(&cargo);
    program::run(&mut cargo)
}
