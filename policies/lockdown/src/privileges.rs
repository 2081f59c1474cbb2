//! What a process may do by what it is: threads, `no_new_privs`, dumpable, cores, capabilities. Each is read back.

use std::thread;
use std::time::{Duration, Instant};

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl as safe;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::prctl;

/// Why a privilege is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// There is a second thread: it would stay outside a layer.
    #[error("there is more than one thread")]
    ManyThreads,
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] Errno),
    /// The kernel agreed, and says that it is not so.
    #[error("{0} was set and does not read back")]
    NotInForce(&'static str),
    /// The kernel refused to read or change a capability set.
    #[error("{set:?}: {source}")]
    Set {
        /// Which set.
        set: CapSet,
        /// Its answer.
        #[source]
        source: CapsError,
    },
    /// A set that was emptied holds something.
    #[error("{0:?} is not empty")]
    NotEmpty(CapSet),
}

/// `unshare(CLONE_THREAD)` does nothing with one thread and fails with two: a proof that needs no `/proc`.
pub(crate) fn prove_one_thread() -> Result<(), PrivilegeError> {
    match unshare(CloneFlags::CLONE_THREAD) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL) => Err(PrivilegeError::ManyThreads),
        Err(errno) => Err(errno.into()),
    }
}

/// The same after a thread that has been waited for: the kernel counts it for a moment longer.
pub(crate) fn await_one_thread() -> Result<(), PrivilegeError> {
    let until = Instant::now() + GOING;
    loop {
        match prove_one_thread() {
            Err(PrivilegeError::ManyThreads) if Instant::now() < until => thread::sleep(Duration::from_micros(50)),
            proved => return proved,
        }
    }
}

/// What a thread needs to go, on a machine that has no time.
const GOING: Duration = Duration::from_secs(5);

pub(crate) fn no_new_privs() -> Result<(), PrivilegeError> {
    safe::set_no_new_privs()?;
    if has_no_new_privs()? { Ok(()) } else { Err(PrivilegeError::NotInForce("no_new_privs")) }
}

pub(crate) fn has_no_new_privs() -> Result<bool, PrivilegeError> {
    Ok(safe::get_no_new_privs()?)
}

pub(crate) fn non_dumpable() -> Result<(), PrivilegeError> {
    safe::set_dumpable(false)?;
    if is_non_dumpable()? { Ok(()) } else { Err(PrivilegeError::NotInForce("non-dumpable")) }
}

pub(crate) fn is_non_dumpable() -> Result<bool, PrivilegeError> {
    Ok(!safe::get_dumpable()?)
}

/// A core would hold every client's data.
pub(crate) fn no_core() -> Result<(), PrivilegeError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if getrlimit(Resource::RLIMIT_CORE)? == (0, 0) { Ok(()) } else { Err(PrivilegeError::NotInForce("core limit 0")) }
}

/// All five sets empty and the securebits locked, so that no uid 0 and no exec brings one back. Needs CAP_SETPCAP.
pub(crate) fn empty_every_set() -> Result<(), PrivilegeError> {
    // First, since all of this needs the capability that goes last.
    prctl::set_securebits(prctl::SECUREBITS_LOCKED)?;
    for capability in 0..=LAST_CAPABILITY {
        if prctl::bounding_holds(capability)? == Some(true) {
            prctl::drop_from_bounding(capability)?;
        }
    }
    empty_held_sets()?;
    if prctl::securebits()? != prctl::SECUREBITS_LOCKED {
        return Err(PrivilegeError::NotInForce("securebits"));
    }
    for capability in 0..=LAST_CAPABILITY {
        if prctl::bounding_holds(capability)? == Some(true) {
            return Err(PrivilegeError::NotEmpty(CapSet::Bounding));
        }
    }
    Ok(())
}

/// One capability left, and no way to another: what a zygote needs in its own user namespace, for the clocks of its workers.
pub(crate) fn keep_one(kept: Capability) -> Result<(), PrivilegeError> {
    prctl::set_securebits(prctl::SECUREBITS_LOCKED)?;
    for capability in 0..=LAST_CAPABILITY {
        if prctl::bounding_holds(capability)? == Some(true) {
            prctl::drop_from_bounding(capability)?;
        }
    }
    let failed = |set| move |source| PrivilegeError::Set { set, source };
    let left = |set| {
        if matches!(set, CapSet::Permitted | CapSet::Effective) {
            CapsHashSet::from_iter([kept])
        } else {
            CapsHashSet::new()
        }
    };
    // The effective set before the permitted one, which it is a part of.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &left(set)).map_err(failed(set))?;
    }
    for set in HELD_SETS {
        if caps::read(None, set).map_err(failed(set))? != left(set) {
            return Err(PrivilegeError::NotEmpty(set));
        }
    }
    if prctl::securebits()? == prctl::SECUREBITS_LOCKED {
        Ok(())
    } else {
        Err(PrivilegeError::NotInForce("securebits"))
    }
}

/// The four sets that a process holds, empty: every process may do that to itself.
pub(crate) fn empty_held_sets() -> Result<(), PrivilegeError> {
    let failed = |set| move |source| PrivilegeError::Set { set, source };
    for set in HELD_SETS {
        caps::clear(None, set).map_err(failed(set))?;
    }
    for set in HELD_SETS {
        if !caps::read(None, set).map_err(failed(set))?.is_empty() {
            return Err(PrivilegeError::NotEmpty(set));
        }
    }
    Ok(())
}

/// Whether all five sets are empty, whoever saw to it.
pub(crate) fn holds_no_capability() -> Result<bool, PrivilegeError> {
    for set in HELD_SETS {
        if !caps::read(None, set).map_err(|source| PrivilegeError::Set { set, source })?.is_empty() {
            return Ok(false);
        }
    }
    for capability in 0..=LAST_CAPABILITY {
        if prctl::bounding_holds(capability)? == Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A capability set is 64 bits wide; the kernel says which of them it knows.
const LAST_CAPABILITY: u8 = 63;

/// The ambient set first: it is a part of the permitted one.
const HELD_SETS: [CapSet; 4] = [CapSet::Ambient, CapSet::Inheritable, CapSet::Permitted, CapSet::Effective];
