//! What this host and this user can give, tried out before anything starts. A layer that is missing ends it here, with the
//! words that the operator may write to go without; a layer that is there is put on, whatever the operator wrote.

use std::thread;
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::id::ModelName;
use casemate_ipc::layer::Waiver;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use thiserror::Error;

use crate::cgroup::{CgroupError, Cgroups, Entry, Leaf};
use crate::fork::{self, BirthError};
use crate::jail::identity::{Identity, Pool, anywhere, uids_of_processes};
use crate::jail::rlimit::Ceilings;
use crate::jail::{Failure, Jail, Step, namespaces};
use crate::library::Library;
use crate::owner::Owner;
use crate::sys::process::{exit_now, landlock_version};
use crate::trial::{self, BearingError, try_front};

/// What workers get here.
#[derive(Debug)]
pub struct Host {
    /// Layers that this host lacks and the operator goes without.
    pub missing: Vec<Waiver>,
    /// The Landlock version; 0 where there is none.
    pub landlock: u32,
    /// Where the control groups of workers are.
    pub cgroups: Option<Cgroups>,
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
    /// Not a matter of a layer: as root a worker's own user, for one.
    #[error("no worker can be made: {0}; as root, sandbox.worker_uid_first must be a range that exists here")]
    Uids(Box<dyn std::error::Error>),
    /// A model's workers are to be born of a zygote.
    #[error("{model}: spawn = \"zygote\" cannot be had here: {why}; write spawn = \"exec\"")]
    Zygote {
        /// Which.
        model: ModelName,
        /// What is missing.
        why: BearingError,
    },
    /// The launcher and the front must be able to confine themselves; there is no waiver.
    #[error("this host does not let the server confine itself: {0}; a container's seccomp profile may refuse it")]
    Own(#[from] trial::TrialError),
}

/// Tries everything out, once.
pub fn probe(config: &Config, owner: Owner, library: &Library) -> Result<Host, HostError> {
    let mut lacks = Vec::new();
    let mut landlock = landlock_version().unwrap_or(0);
    let why = match try_front(landlock > 0) {
        Err(trial::TrialError::Landlock(why)) => {
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
    let cgroups = Cgroups::found().map_err(|error| lacks.push(Lack { waiver: Waiver::Cgroup, why: error.to_string() }));
    let mut trial = Trial { config, owner, library, cgroups: cgroups.ok(), namespaces: true, alone: true, calm: true };
    // Each round gives up one layer, so it ends.
    let mut patience = PATIENCE;
    while let Err(error) = trial.run() {
        if patience > 0 && error.is_shortage() {
            patience -= 1;
            thread::sleep(PAUSE);
            continue;
        }
        match trial.give_up(&error) {
            Some(waiver) => lacks.push(Lack { waiver, why: format!("{error}{}", hint(waiver, &error)) }),
            // Never with root's own uid inside: that would be a worker that owns the host's files.
            None => return Err(HostError::Uids(error.into())),
        }
    }
    let cgroups = trial.cgroups;
    let mut missing: Vec<Waiver> = lacks.iter().map(|lack| lack.waiver).collect();
    missing.sort_unstable();
    lacks.retain(|lack| !config.waives(lack.waiver));
    if lacks.is_empty() {
        Ok(Host { missing, landlock, cgroups })
    } else {
        Err(HostError::Lacks { lacks, all: missing })
    }
}

/// How often, and after what pause, a trial is made again that failed for want of something that may come back.
const PATIENCE: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A jail as for a worker, with all that is not known to be missing.
struct Trial<'a> {
    config: &'a Config,
    owner: Owner,
    library: &'a Library,
    cgroups: Option<Cgroups>,
    namespaces: bool,
    alone: bool,
    calm: bool,
}

/// What came of it.
#[derive(Debug, Error)]
enum TrialError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Birth(#[from] BirthError),
}

impl Trial<'_> {
    /// Makes a jail, and leaves it.
    fn run(&self) -> Result<(), TrialError> {
        let Self { config, owner, library, namespaces, alone, calm, .. } = *self;
        let range = owner.is_root().then(|| config.identities.clone());
        let identity = Pool::new(range, anywhere()).take(&uids_of_processes(), Instant::now());
        let identity = identity.unwrap_or(Identity::Shared);
        let memory_bytes = config.limits.worker_memory_mib << 20;
        let ceilings =
            Ceilings { threads: 1, instances: 1, memory_bytes, mapped_bytes: library.bytes(), cpu_millis: Some(1000) };
        let leaf = self.cgroups.as_ref().map(|groups| groups.leaf("trial", ceilings.budget())).transpose()?;
        let entry = leaf.as_ref().map(Leaf::entry).transpose()?;
        let (entry, cores, descriptors) = (entry.as_ref(), &[][..], &[][..]);
        let jail =
            Jail { library, namespaces, alone, calm, entry, identity, cores, ceilings, descriptors, bears: false };
        let born_in = entry.and_then(Entry::born_in);
        let mut child = fork::fork_into(jail.flags(), born_in, |gate| match jail.enter(gate) {
            Ok(()) => exit_now(0),
            Err(failure) => failure,
        })?;
        let tried = child.ready().and_then(|()| {
            if namespaces {
                namespaces::map(child.pid, identity, &[]).map_err(BirthError::Identity)?;
            }
            child.run(|| {})
        });
        child.abandon();
        let _ = waitpid(child.pid, None);
        Ok(tried?)
    }

    /// The layer that a failure speaks of, left out of the next round; nothing if it can be none.
    fn give_up(&mut self, error: &TrialError) -> Option<Waiver> {
        let step = match error {
            TrialError::Cgroup(_) => Some(Step::Cgroup),
            // What the kernel answers for the group that a child is to be born in, and for no namespace.
            TrialError::Birth(BirthError::Fork(Errno::EACCES | Errno::EBUSY | Errno::EOPNOTSUPP | Errno::E2BIG)) => {
                Some(Step::Cgroup)
            }
            TrialError::Birth(BirthError::Step(failure)) => Some(failure.step),
            TrialError::Birth(_) => None,
        };
        match step {
            Some(Step::Cgroup) if self.cgroups.take().is_some() => return Some(Waiver::Cgroup),
            Some(Step::NestedNamespaces) if std::mem::take(&mut self.alone) => return Some(Waiver::NoNestedNamespaces),
            Some(Step::Speculation) if std::mem::take(&mut self.calm) => return Some(Waiver::Speculation),
            _ => {}
        }
        let namespaces = match error {
            TrialError::Birth(BirthError::Identity(_)) => !self.owner.is_root(),
            // A full process table says nothing about namespaces, and neither does a limit that cannot be set.
            TrialError::Birth(BirthError::Fork(_)) => !error.is_shortage(),
            TrialError::Birth(BirthError::Step(failure)) => OF_NAMESPACES.contains(&failure.step),
            TrialError::Birth(_) | TrialError::Cgroup(_) => false,
        };
        (namespaces && std::mem::take(&mut self.namespaces)).then_some(Waiver::Namespaces)
    }
}

/// The steps that only a child with namespaces of its own takes.
const OF_NAMESPACES: [Step; 7] = [
    Step::Propagation,
    Step::Libraries,
    Step::Identity,
    Step::Root,
    Step::Pivot,
    Step::HostName,
    Step::NestedNamespaces,
];

impl TrialError {
    /// Whether the host was short of something for a moment.
    fn is_shortage(&self) -> bool {
        use Errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM};
        match self {
            Self::Birth(BirthError::Fork(errno) | BirthError::Step(Failure { errno, .. })) => {
                matches!(errno, EAGAIN | EINTR | EMFILE | ENFILE | ENOMEM)
            }
            Self::Birth(BirthError::Wire(_) | BirthError::Slow) => true,
            Self::Birth(BirthError::Identity(_)) | Self::Cgroup(_) => false,
        }
    }
}

impl Host {
    /// Whether a layer is missing, and accepted to be.
    pub fn lacks(&self, waiver: Waiver) -> bool {
        self.missing.contains(&waiver)
    }
}

/// What an operator can do where not even a process could be made; a step that failed brings its own words.
const fn hint(waiver: Waiver, error: &TrialError) -> &'static str {
    match (waiver, error) {
        (Waiver::Namespaces, TrialError::Birth(BirthError::Fork(_))) => {
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
