//! `casemate-launcher --config FILE`: the privileged parent of the server's processes. With `--check`, `--doctor`,
//! `--explain` or `--rehearse` it serves nobody, answers, and ends.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use casemate_launcher::owner::Owner;
use casemate_launcher::startup::{self, StartError, Task};
use casemate_launcher::{inquiry, log};

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
    let hardened = startup::harden();
    if arguments.task == Task::Doctor {
        return Ok(inquiry::say(&inquiry::checkup(&arguments.config, Owner::current(), hardened))?);
    }
    hardened?;
    let (path, owner) = (&arguments.config, Owner::current());
    match arguments.task {
        Task::Serve => startup::prepare(path, owner)?.serve(),
        Task::Check => {
            startup::prepare(path, owner)?;
            log::info("checked", &[("config", &path.display())]);
            Ok(())
        }
        // Answered above: it tells also what keeps the launcher itself from starting.
        Task::Doctor => Ok(()),
        Task::Explain(model) => Ok(inquiry::say(&inquiry::explain(path, owner, model)?)?),
        Task::Rehearse => Ok(inquiry::rehearse(startup::prepare(path, owner)?)?),
    }
}
