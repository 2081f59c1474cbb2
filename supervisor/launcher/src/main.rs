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
    startup::harden()?;
    let (path, owner) = (&arguments.config, Owner::current());
    match arguments.task {
        Task::Serve => startup::prepare(path, owner)?.serve(),
        Task::Check => {
            startup::prepare(path, owner)?;
            log::info("checked", &[("config", &path.display())]);
            Ok(())
        }
        Task::Doctor => Ok(inquiry::say(&inquiry::checkup(path, owner))?),
        Task::Explain(model) => Ok(inquiry::say(&inquiry::explain(path, owner, model)?)?),
        Task::Rehearse => Ok(inquiry::rehearse(startup::prepare(path, owner)?)?),
    }
}
