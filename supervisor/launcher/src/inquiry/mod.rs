//! A launcher that is asked instead of told to serve: by `casemate doctor`, `sandbox explain` and `sandbox prove`.
//!
//! Its answers come from what serving itself rests on: the same checks of the config and the store, the same trial of a
//! jail, the same compiled policy, workers that are started as any other. Nothing here is called while serving.

mod cgroup;
mod devices;
mod doctor;
mod explain;
mod files;
mod identities;
mod kernel;
mod namespaces;
mod never;
mod raise;
mod rehearse;
mod stage;
mod survey;
mod zygote;

use std::io::{self, Write};
use std::path::PathBuf;

use casemate_ipc::id::ModelName;
use casemate_ipc::inquiry::{Finding, State};
use casemate_ipc::shm::seal::SealError;
use nix::errno::Errno;
use serde::Serialize;
use thiserror::Error;

pub use doctor::checkup;
pub use explain::explain;
pub use rehearse::rehearse;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum InquiryError {
    /// It could not be written, most often because nobody reads it any more.
    #[error("answering: {0}")]
    Say(#[source] io::Error),
    /// It could not be put into words.
    #[error("answering: {0}")]
    Words(#[from] serde_json::Error),
    /// A call of the loop around rehearsing workers.
    #[error("{step}: {errno}")]
    Call {
        /// Which.
        step: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// It is about a model that is not served.
    #[error("no model {name} is in {}", store.display())]
    NoModel {
        /// Which.
        name: ModelName,
        /// The store.
        store: PathBuf,
    },
    /// The memory that a worker shares with its front.
    #[error("arenas: {0}")]
    Arenas(#[from] SealError),
}

/// Says one answer: a line of JSON on stdout.
pub fn say(answer: &impl Serialize) -> Result<(), InquiryError> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).map_err(InquiryError::Say)
}

fn finding(group: &str, name: &str, value: impl Into<String>, state: State) -> Finding {
    Finding { group: group.to_owned(), name: name.to_owned(), value: value.into(), state, raise: None }
}

fn raised(finding: Finding, raise: impl Into<String>) -> Finding {
    Finding { raise: Some(raise.into()), ..finding }
}
