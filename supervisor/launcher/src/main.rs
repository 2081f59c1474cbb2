//! `casemate-launcher --config FILE [--check]`: the privileged parent of the server's processes.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use casemate_launcher::log;
use casemate_launcher::owner::Owner;
use casemate_launcher::startup::{self, StartError};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error("failed", &[("error", &error)]);
            ExitCode::from(error.code())
        }
    }
}

fn run() -> Result<(), StartError> {
    // Before `harden`, which leaves the folder that a relative path starts from.
    let arguments = startup::arguments(std::env::args_os())?;
    startup::harden()?;
    let ready = startup::prepare(&arguments.config, Owner::current())?;
    if arguments.check {
        log::info("checked", &[("config", &arguments.config.display())]);
        return Ok(());
    }
    ready.serve()
}
