//! The real launcher with a scripted front and a probing worker: what the jail holds, seen from inside and from outside.
//!
//! This one program plays four parts, by the name that it is started under. As `casemate-front` it starts one worker for
//! each model of the store and tells what it hears; as `casemate-worker` it does what its model's bytes say; as
//! `stage` it takes something away from the launcher that it then becomes; under any other name it lays out a folder with copies of itself beside the launcher, and judges.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without the standard harness is no test to clippy"
)]

mod born;
mod front;
mod rig;
mod stage;
mod tests;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    match name.as_str() {
        "casemate-front" => front::main(),
        "casemate-worker" => worker::main(),
        "stage" => stage::main(),
        _ => tests::main(),
    }
}
