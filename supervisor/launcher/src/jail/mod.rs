//! The jail that a worker is born into, step by step. What the worker itself puts on afterwards is in `policies/lockdown`.
//!
//! The order matters. Libraries are taken hold of while the child may still look at the host's folders, and put in place
//! once it is its own user, since a file in its root needs an owner that its user namespace knows. The limit on files
//! comes after the last file is written, capabilities go last of all that needs them.

pub mod identity;
pub mod namespaces;
pub mod nested;
pub mod rlimit;
pub mod rootfs;

mod step;

use std::convert::Infallible;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, setsid};

pub use step::{Failure, Step};

use crate::cgroup::Entry;
use crate::fork::Gate;
use crate::library::Library;
use crate::program::Program;
use crate::sys::control::{forbid_speculation, own_core};
use crate::sys::process;
use identity::Identity;
use rlimit::Ceilings;

/// What a child needs to know to become a worker.
#[derive(Debug)]
pub struct Jail<'a> {
    /// The program and the files that it needs.
    pub library: &'a Library,
    /// Whether this host can give it namespaces and a root of its own.
    pub namespaces: bool,
    /// Whether its user namespace can be closed for others inside it.
    pub alone: bool,
    /// Whether speculation can be turned off.
    pub calm: bool,
    /// Its control group, where there is one.
    pub entry: Option<&'a Entry>,
    /// Who it is.
    pub identity: Identity,
    /// CPUs that it keeps to; all of the launcher's where there is none.
    pub cores: &'a [u32],
    /// What it may use.
    pub ceilings: Ceilings,
    /// Its descriptors, from 0 on.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Whether it is a zygote's, whose workers will be made inside of it.
    pub bears: bool,
}

impl Jail<'_> {
    /// The namespaces that the child is made with.
    pub fn flags(&self) -> CloneFlags {
        match (self.namespaces, self.bears) {
            (false, _) => CloneFlags::empty(),
            (true, false) => namespaces::all(),
            (true, true) => namespaces::of_zygote(),
        }
    }

    /// Takes every step but the last one. Runs in the child.
    pub fn enter(&self, gate: &Gate) -> Result<(), Failure> {
        Step::Begin.take(|| gate.wait())?;
        // Before it takes any memory.
        Step::Cgroup.take(|| self.entry.map_or(Ok(()), Entry::enter))?;
        Step::Session.take(setsid)?;
        Step::Cores.take(|| keep_to(self.cores))?;
        if self.namespaces {
            Step::Propagation.take(namespaces::keep_mounts_apart)?;
            let files = Step::Libraries.take(|| rootfs::take_hold(self.library))?;
            Step::Identity.take(identity::become_inner)?;
            // A zygote's workers have user namespaces inside its own; each of those is closed.
            if self.alone && !self.bears {
                Step::NestedNamespaces.take(nested::forbid)?;
            }
            Step::Root.take(|| rootfs::build(self.library, &files, self.bears))?;
            Step::Pivot.take(rootfs::enter)?;
            Step::HostName.take(namespaces::name)?;
        } else {
            Step::Identity.take(|| self.identity.become_bare())?;
        }
        Step::Descriptors.take(|| place(self.descriptors))?;
        Step::Limits.take(|| self.ceilings.apply(self.counted_alone(), self.bears))?;
        if self.calm {
            Step::Speculation.take(forbid_speculation)?;
        }
        Step::CoreScheduling.take(keep_to_a_core)?;
        if self.namespaces {
            Step::Capabilities.take(identity::keep_two_capabilities)?;
        }
        // Also set on the launcher, and inherited: a second look costs nothing.
        Step::NoNewPrivileges.take(set_no_new_privs)?;
        // After the identity, since a change of identity clears it.
        Step::ParentDeath.take(|| set_pdeathsig(Signal::SIGKILL))?;
        Step::Signals.take(default_signals)
    }

    /// Becomes the worker.
    pub fn exec(&self, program: &Program) -> Result<Infallible, Failure> {
        Step::Exec.take(|| program.exec())
    }

    /// Whether the kernel counts this worker's threads apart from other processes.
    fn counted_alone(&self) -> bool {
        self.namespaces || matches!(self.identity, Identity::Own(_))
    }
}

/// Binds it to some CPUs. Not a wall: it holds for what runs there, and nobody there gives a way to change it.
fn keep_to(cores: &[u32]) -> Result<(), Errno> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(usize::try_from(*core).unwrap_or(usize::MAX)))?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// A core of its own while it runs, where the kernel can do that. The mark is a worker's own and so a model's: nobody else's
/// requests reach it.
fn keep_to_a_core() -> Result<(), Errno> {
    match own_core() {
        // A kernel without it, or a CPU whose cores run one thread each.
        Err(Errno::EINVAL | Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// Gives a child exactly these descriptors, from 0 on; the rest goes with the exec.
pub(crate) fn place(descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let count = i32::try_from(descriptors.len()).map_err(|_| Errno::EMFILE)?;
    // Out of the way first: a descriptor that stands where another one belongs would be closed by it.
    let mut moved = Vec::new();
    for fd in descriptors {
        moved.push(process::duplicate_above(fd, count)?);
    }
    for (number, fd) in (0..).zip(&moved) {
        process::place(fd, number)?;
    }
    process::close_from_on_exec(count.cast_unsigned())
}

/// The launcher blocks what it reads from a descriptor, Rust's start ignores SIGPIPE, and who started the launcher may have
/// ignored or blocked any other; a new program inherits all of it, and what it is must not depend on how the launcher was started.
pub(crate) fn default_signals() -> Result<(), Errno> {
    process::default_signals()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
