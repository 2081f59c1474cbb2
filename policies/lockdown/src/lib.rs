//! Carries the compiled policies and applies them: the one door into the cage.
//!
//! A worker goes through it once, in this order, and each step consumes the proof of the one before:
//!
//! 1. [`confine`], its first act: one thread, no new privileges, not dumpable, default signal handlers, `worker-warm`.
//!    From here on there is no program to start and no network to reach.
//! 2. [`lock`], after the trusted warm-up and still on one thread: the root swapped for an empty one, every capability
//!    gone, Landlock without a grant. Landlock and capabilities bind a thread and what it starts, so this comes before the
//!    thread pools.
//! 3. [`seal`], after the thread pools: `worker-serve` on all threads. Only a [`Sealed`] worker reads a model.
//!
//! A zygote has two: [`confine_zygote`], its first act, and [`settle_zygote`], after its warm-up. What it bears goes through
//! the worker's three, from the first one on; Landlock comes there, since it would forbid a newborn to mount its root.
//!
//! The front has two: [`lock_front`], before its runtime starts a thread, and [`seal_front`], once the runtime stands and
//! before a client is heard. The launcher has one, [`confine_launcher`], before it starts a front; what it starts inherits
//! that filter.
//!
//! Every layer is read back from the kernel after it was put on; a layer that the operator waived by name is left out and
//! reported as missing. Nothing here falls back by itself.

#![deny(unsafe_code)]

pub mod policy;

mod error;
mod files;
mod heap;
#[expect(unsafe_code)]
mod prctl;
mod privileges;
mod report;
mod role;
mod root;
#[expect(unsafe_code)]
mod signals;
mod syscalls;

pub use error::{ConfineError, FrontError, LauncherError, LockError, SealError};
pub use files::FilesError;
pub use privileges::PrivilegeError;
pub use report::{Report, Requirements};
pub use role::{Role, RunTimeCode, Stage};
pub use root::{EMPTY_FOLDER, RootError, lay_empty_folder};
pub use syscalls::InstallError;

/// A worker that can start no program and reach no network; it has read nothing that it may not trust.
#[derive(Debug)]
#[must_use = "a worker that is only confined may not read a model"]
pub struct Confined(RunTimeCode);

/// A worker without files, capabilities or paths; it may start its threads now.
#[derive(Debug)]
#[must_use = "a worker that is only locked may not read a model"]
pub struct Locked(RunTimeCode);

/// A worker under the serving filter, on every thread: what reading a model asks for.
#[derive(Debug)]
#[must_use = "the proof that untrusted bytes may be read"]
pub struct Sealed {
    no_exec_gain: bool,
}

impl Sealed {
    /// Whether the kernel itself refuses to make a page executable that was not, beside the filter.
    pub fn no_exec_gain(&self) -> bool {
        self.no_exec_gain
    }
}

/// A front that opens nothing by path and holds no privilege; it may start its threads now.
#[derive(Debug)]
#[must_use = "a front that is only locked may not hear the network"]
pub struct FrontLocked(());

/// A front under its filter, on every thread.
#[derive(Debug)]
#[must_use = "the proof that the network may be heard"]
pub struct FrontSealed(());

/// A launcher under its filter.
#[derive(Debug)]
#[must_use = "the proof that a front may be started"]
pub struct LauncherConfined(());

/// A zygote that can start no program and reach no network.
#[derive(Debug)]
#[must_use = "a zygote that is only confined may not bear"]
pub struct ZygoteConfined(());

/// A zygote without files, with one capability that means something in its own user namespace alone.
#[derive(Debug)]
#[must_use = "the proof that workers may be born"]
pub struct ZygoteSettled(());

/// The worker's first act. Fails with more than one thread.
pub fn confine() -> Result<Confined, ConfineError> {
    confine_with(RunTimeCode::Refused)
}

/// The same for a worker that may make machine code, in its warm-up or later, where `code` says so. The choice goes with the proof:
/// the last filter is the one that belongs to it.
pub fn confine_with(code: RunTimeCode) -> Result<Confined, ConfineError> {
    privileges::prove_one_thread().map_err(ConfineError::Threads)?;
    privileges::no_new_privs().map_err(ConfineError::NoNewPrivs)?;
    privileges::non_dumpable().map_err(ConfineError::Dumpable)?;
    signals::reset().map_err(ConfineError::Signals)?;
    // A second lock on the door that the filters close: where the kernel knows it, pages never become executable.
    if code == RunTimeCode::Refused {
        prctl::refuse_exec_gain();
    }
    let [warm, _] = Stage::of_worker(code);
    syscalls::install(warm).map_err(ConfineError::Filter)?;
    Ok(Confined(code))
}

/// After the warm-up, before any other thread starts. The last thing it does is to make the allocator ready for the last
/// filter, in a thread that has ended when this returns.
pub fn lock(confined: Confined, requirements: &Requirements) -> Result<(Locked, Report), LockError> {
    let Confined(code) = confined;
    // The order: swapping the root needs a capability and is refused under Landlock; Landlock binds one thread alone.
    if requirements.empty_root {
        root::swap().map_err(LockError::Root)?;
    }
    if requirements.capabilities {
        privileges::empty_every_set().map_err(LockError::Capabilities)?;
    }
    let landlock = match requirements.landlock {
        true => Some(files::restrict(Role::Worker).map_err(LockError::Landlock)?),
        false => None,
    };
    privileges::prove_one_thread().map_err(LockError::Threads)?;
    let report = Report::read(requirements, landlock).map_err(LockError::Report)?;
    heap::prime().map_err(LockError::Heap)?;
    Ok((Locked(code), report))
}

/// After the thread pools, before the first untrusted byte. Every thread must have come to rest: one that still has to
/// register itself with libc, or that ends with an alternate signal stack to give back, is killed under the last filter,
/// and the process with it.
pub fn seal(locked: Locked) -> Result<Sealed, SealError> {
    let Locked(code) = locked;
    // The last filter allows no call that could ask, so the read-back comes first: the warm-up's filter is in force. That
    // the last one is too, on all threads, is what the success of its installation says.
    if prctl::seccomp_mode().map_err(SealError::ReadBack)? != prctl::SECCOMP_MODE_FILTER {
        return Err(SealError::NoFilter);
    }
    // The warm-up's pages of code stay; from here on there are no more.
    if code == RunTimeCode::Warmed {
        prctl::refuse_exec_gain();
    }
    let no_exec_gain = prctl::refuses_exec_gain();
    let [_, serve] = Stage::of_worker(code);
    syscalls::install(serve).map_err(SealError::Filter)?;
    Ok(Sealed { no_exec_gain })
}

/// The front's first act: before its runtime starts a thread, after every socket and descriptor that it is born with is in
/// hand and every file has been read. Its `empty_root` is the launcher's business, and not looked at.
pub fn lock_front(requirements: &Requirements) -> Result<(FrontLocked, Report), FrontError> {
    privileges::prove_one_thread().map_err(FrontError::Threads)?;
    privileges::no_new_privs().map_err(FrontError::NoNewPrivs)?;
    privileges::non_dumpable().map_err(FrontError::Dumpable)?;
    privileges::no_core().map_err(FrontError::Core)?;
    signals::reset_crashes().map_err(FrontError::Signals)?;
    prctl::refuse_exec_gain();
    if requirements.capabilities {
        privileges::empty_held_sets().map_err(FrontError::Capabilities)?;
    }
    let landlock = match requirements.landlock {
        true => Some(files::restrict(Role::Front).map_err(FrontError::Landlock)?),
        false => None,
    };
    privileges::prove_one_thread().map_err(FrontError::Threads)?;
    let read = Requirements { empty_root: false, ..*requirements };
    let report = Report::read(&read, landlock).map_err(FrontError::Report)?;
    heap::prime().map_err(FrontError::Heap)?;
    Ok((FrontLocked(()), report))
}

/// Once the runtime stands: its threads at rest, as for [`seal`], its reactor and its signal handlers in place.
pub fn seal_front(locked: FrontLocked) -> Result<FrontSealed, SealError> {
    let FrontLocked(()) = locked;
    // Its filter allows no call that could ask, and there is none before it whose presence would prove anything: that the
    // kernel took it on all threads is what the success of its installation says.
    syscalls::install(Stage::Front).map_err(SealError::Filter)?;
    Ok(FrontSealed(()))
}

/// A zygote's first act, as a worker's, under a filter of its own. Whatever it bears makes no machine code.
pub fn confine_zygote() -> Result<ZygoteConfined, ConfineError> {
    privileges::prove_one_thread().map_err(ConfineError::Threads)?;
    // Asked for all that it bears; the thread that this takes is gone before anybody is born.
    heap::prime().map_err(ConfineError::Heap)?;
    privileges::await_one_thread().map_err(ConfineError::Threads)?;
    privileges::no_new_privs().map_err(ConfineError::NoNewPrivs)?;
    privileges::non_dumpable().map_err(ConfineError::Dumpable)?;
    signals::reset().map_err(ConfineError::Signals)?;
    prctl::refuse_exec_gain();
    syscalls::install(Stage::Zygote).map_err(ConfineError::Filter)?;
    Ok(ZygoteConfined(()))
}

/// The one capability that a zygote keeps, for its workers' clocks; it holds in its own user namespace only.
pub const ZYGOTE_KEEPS: caps::Capability = caps::Capability::CAP_SYS_ADMIN;

/// After its warm-up: the libraries' root goes, and all capabilities but [`ZYGOTE_KEEPS`]. It is one thread,
/// and stays so.
pub fn settle_zygote(confined: ZygoteConfined) -> Result<ZygoteSettled, LockError> {
    let ZygoteConfined(()) = confined;
    root::swap_for_threshold().map_err(LockError::Root)?;
    privileges::keep_one(ZYGOTE_KEEPS).map_err(LockError::Capabilities)?;
    privileges::prove_one_thread().map_err(LockError::Threads)?;
    Ok(ZygoteSettled(()))
}

/// Once the public port is bound and everything that a config can get wrong has been checked, before the first front.
pub fn confine_launcher() -> Result<LauncherConfined, LauncherError> {
    privileges::prove_one_thread().map_err(LauncherError::Threads)?;
    syscalls::install(Stage::Launcher).map_err(LauncherError::Filter)?;
    Ok(LauncherConfined(()))
}
