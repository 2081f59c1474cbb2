//! Tries out, on a child that then ends, what the launcher and the front put on themselves: both filters, Landlock, empty
//! capability sets. Tried and not asked about: a container may know a call and refuse it all the same.

mod birth;

use std::fs::File;
use std::io::{self, Read, Write};

use casemate_lockdown::{FrontError, Requirements, confine_launcher, lock_front, seal_front};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;
use thiserror::Error;

use crate::fork::{self, BirthError};
use crate::jail::Step;
use crate::sys::process::exit_now;

pub use birth::{BearingError, try_birth};

/// What could not be put on.
#[derive(Debug, Error)]
pub enum TrialError {
    /// No child could be made, or it could not be heard.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// Landlock.
    #[error("{0}")]
    Landlock(String),
    /// Another layer, by its name.
    #[error("{0}")]
    Layer(String),
}

/// Puts on a child what the launcher and the front put on themselves, with Landlock or without.
pub fn try_front(landlock: bool) -> Result<(), TrialError> {
    let (hears, speaks) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| BirthError::Wire(errno.into()))?;
    let mut child = fork::fork(CloneFlags::empty(), move |gate| {
        if let Err(failure) = Step::Begin.take(|| gate.wait()) {
            return failure;
        }
        let Err(refusal) = put_on(landlock) else { exit_now(0) };
        // If nobody hears it, the exit code says that something was refused.
        let _ = File::from(speaks).write_all(refusal.to_string().as_bytes());
        exit_now(if matches!(refusal, TrialError::Landlock(_)) { LANDLOCK } else { LAYER })
    })?;
    let tried = child.ready().and_then(|()| child.run(|| {}));
    if tried.is_err() {
        child.abandon();
    }
    let ended = waitpid(child.pid, None);
    tried?;
    let mut said = String::new();
    File::from(hears).read_to_string(&mut said).map_err(BirthError::Wire)?;
    match ended {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, LANDLOCK)) => Err(TrialError::Landlock(said)),
        Ok(WaitStatus::Exited(..)) => Err(TrialError::Layer(said)),
        Ok(other) => Err(TrialError::Layer(format!("a process that confined itself ended otherwise: {other:?}"))),
        Err(errno) => Err(BirthError::Wire(io::Error::from(errno)).into()),
    }
}

/// What a trial ended with.
const LANDLOCK: i32 = 2;
const LAYER: i32 = 3;

/// Runs in the child.
fn put_on(landlock: bool) -> Result<(), TrialError> {
    let layer = |error: &dyn std::error::Error| TrialError::Layer(error.to_string());
    let _confined = confine_launcher().map_err(|error| layer(&error))?;
    let requirements = Requirements { empty_root: false, capabilities: true, landlock };
    let (locked, _) = lock_front(&requirements).map_err(|error| match error {
        FrontError::Landlock(error) => TrialError::Landlock(error.to_string()),
        other => layer(&other),
    })?;
    let _sealed = seal_front(locked).map_err(|error| layer(&error))?;
    Ok(())
}
