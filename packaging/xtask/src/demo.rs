//! `cargo xtask demo`: from a bare checkout to `casemate demo`, which serves a model and shows what the cage holds.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::TaskError;
use crate::checkout::Checkout;
use crate::program::{self, ProgramError};

/// The four programs of an installation; the command finds the other three beside itself.
const PACKAGES: [&str; 4] = ["casemate-cli", "casemate-launcher", "casemate-front", "casemate-worker"];

/// Returns only where the demo could not be started: it takes our place, so that signals reach it and not a parent.
pub(crate) fn run(checkout: &Checkout, args: &[OsString]) -> Result<(), TaskError> {
    let mut build = checkout.cargo();
    build.args(["build", "--release"]).args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    program::announce(&build);
    program::run(&mut build)?;

    let casemate = checkout.release_dir()?.join("casemate");
    let mut demo = Command::new(&casemate);
    demo.arg("demo").args(args);
    program::announce(&demo);
    let cause = demo.exec();
    Err(ProgramError::Start { program: casemate.display().to_string(), cause }.into())
}
