//! What this host and this user can give, tried out before anything starts. A layer that is missing ends it here, with the
//! words that the operator may write to go without; a layer that is there is put on, whatever the operator wrote.

use casemate_config::Config;
use casemate_ipc::layer::Waiver;
use nix::sys::wait::waitpid;
use thiserror::Error;

use crate::fork::{self, BirthError};
use crate::jail::identity::{Identity, Pool, anywhere, uids_of_processes};
use crate::jail::rlimit::Ceilings;
use crate::jail::{Jail, namespaces};
use crate::library::Library;
use crate::owner::Owner;
use crate::sys::process::{exit_now, landlock_version};
use crate::trial::{TrialError, try_front};

/// What workers get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Layers that this host lacks and the operator goes without.
    pub missing: Vec<Waiver>,
    /// The Landlock version; 0 where there is none.
    pub landlock: u32,
}

/// A layer that is missing here.
#[derive(Debug)]
pub struct Lack {
    /// What would have to be accepted.
    pub waiver: Waiver,
    /// What was found.
    pub why: String,
}

/// Why workers cannot be caged here.
#[derive(Debug, Error)]
pub enum HostError {
    /// Layers are missing, and the operator has not said to go without.
    #[error("{}", explain(lacks, all))]
    Lacks {
        /// Those that are not accepted.
        lacks: Vec<Lack>,
        /// All that would have to be accepted, with those that are.
        all: Vec<Waiver>,
    },
    /// As root each worker must get its own user.
    #[error("workers cannot get users of their own: {0}; sandbox.worker_uid_first must be a range that exists here")]
    Uids(BirthError),
    /// The launcher and the front must be able to confine themselves; there is no waiver.
    #[error("this host does not let the server confine itself: {0}; a container's seccomp profile may refuse it")]
    Own(#[from] TrialError),
}

/// Tries everything out, once.
pub fn probe(config: &Config, owner: Owner, library: &Library) -> Result<Host, HostError> {
    let mut lacks = Vec::new();
    let mut landlock = landlock_version().unwrap_or(0);
    let why = match try_front(landlock > 0) {
        Err(TrialError::Landlock(why)) => {
            landlock = 0;
            try_front(false)?;
            why
        }
        other => other.map(|()| "this kernel has no Landlock, or was started without it (lsm=)".to_owned())?,
    };
    if landlock == 0 {
        lacks.push(Lack { waiver: Waiver::Landlock, why });
    }
    if !owner.is_root() {
        let why = "the launcher is not root, so workers run under its own uid".to_owned();
        lacks.push(Lack { waiver: Waiver::OwnIdentity, why });
    }
    match try_jail(config, owner, library) {
        Ok(()) => {}
        // Never with root's own uid inside: that would be a worker that owns the host's files.
        Err(error @ BirthError::Identity(_)) if owner.is_root() => return Err(HostError::Uids(error)),
        Err(error) => lacks.push(Lack { waiver: Waiver::Namespaces, why: format!("{error}{}", hint(&error)) }),
    }
    let mut missing: Vec<Waiver> = lacks.iter().map(|lack| lack.waiver).collect();
    missing.sort_unstable();
    lacks.retain(|lack| !config.waives(lack.waiver));
    if lacks.is_empty() { Ok(Host { missing, landlock }) } else { Err(HostError::Lacks { lacks, all: missing }) }
}

impl Host {
    /// Whether a layer is missing, and accepted to be.
    pub fn lacks(&self, waiver: Waiver) -> bool {
        self.missing.contains(&waiver)
    }
}

/// Makes a jail as for a worker, and leaves it.
fn try_jail(config: &Config, owner: Owner, library: &Library) -> Result<(), BirthError> {
    let range = owner.is_root().then(|| config.identities.clone());
    let identity = Pool::new(range, anywhere()).take(&uids_of_processes()).unwrap_or(Identity::Shared);
    let ceilings = Ceilings { threads: 1, memory_bytes: config.limits.worker_memory_mib << 20 };
    let jail = Jail { library, namespaces: true, identity, ceilings, descriptors: &[] };
    let mut child = fork::fork(jail.flags(), |gate| match jail.enter(gate) {
        Ok(()) => exit_now(0),
        Err(failure) => failure,
    })?;
    let tried = child.ready().and_then(|()| {
        namespaces::map(child.pid, identity).map_err(BirthError::Identity)?;
        child.run(|| {})
    });
    child.abandon();
    let _ = waitpid(child.pid, None);
    tried
}

/// What an operator can do where not even a process could be made; a step that failed brings its own words.
const fn hint(error: &BirthError) -> &'static str {
    match error {
        BirthError::Fork(_) => {
            "; user namespaces may be switched off (user.max_user_namespaces), or refused by a container's seccomp profile"
        }
        _ => "",
    }
}

fn explain(lacks: &[Lack], all: &[Waiver]) -> String {
    let said: Vec<_> = lacks.iter().map(|lack| format!("{}: {}", lack.waiver, lack.why)).collect();
    let names: Vec<_> = all.iter().map(|waiver| format!("{:?}", waiver.name())).collect();
    format!(
        "this host cannot put on every layer of the cage. {}. To go without, write sandbox.accept_missing = [{}]",
        said.join(". "),
        names.join(", ")
    )
}
