//! A child that becomes another program, and the two words that pass before it does: the parent lets it begin, and hears
//! which step failed. Silence, ended by the exec itself, means that it runs.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use thiserror::Error;

use crate::jail::{Failure, Step};
use crate::sys::process::{self, Forked};

/// A child that waits to begin.
#[derive(Debug)]
pub struct Nascent {
    /// The child.
    pub pid: Pid,
    /// The child, to send it signals.
    pub pidfd: OwnedFd,
    wire: UnixStream,
}

/// The child's end of the wire.
#[derive(Debug)]
pub struct Gate(UnixStream);

/// Why there is no new program.
#[derive(Debug, Error)]
pub enum BirthError {
    /// No process could be made.
    #[error("making a process: {0}")]
    Fork(Errno),
    /// The wire to it failed.
    #[error("speaking to the new process: {0}")]
    Wire(io::Error),
    /// The kernel refused the identity that the child was to have.
    #[error("giving the new process its identity: {0}")]
    Identity(io::Error),
    /// The child could not take a step.
    #[error("{0}")]
    Step(Failure),
    /// The child neither failed nor became its program.
    #[error("the new process did not get anywhere within {} s", PATIENCE.as_secs())]
    Slow,
}

/// What a child has for all its steps. They take milliseconds; a host that is out of memory may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Forks. The child runs `child`, which returns only if a step failed, and ends there.
pub fn fork(namespaces: CloneFlags, child: impl FnOnce(&Gate) -> Failure) -> Result<Nascent, BirthError> {
    fork_into(namespaces, None, child)
}

/// The same, with a child that is born in a control group of version 2.
pub fn fork_into(
    namespaces: CloneFlags,
    group: Option<BorrowedFd<'_>>,
    child: impl FnOnce(&Gate) -> Failure,
) -> Result<Nascent, BirthError> {
    let (ours, theirs) = UnixStream::pair().map_err(BirthError::Wire)?;
    match process::fork(namespaces, group).map_err(BirthError::Fork)? {
        Forked::Parent { pid, pidfd } => Ok(Nascent { pid, pidfd, wire: ours }),
        Forked::Child => {
            // A copy that stayed open would keep the child from seeing its parent's end.
            drop(ours);
            let gate = Gate(theirs);
            // The stack of the child is a copy of the parent's: a panic must not climb back into the parent's work.
            let failure = catch_unwind(AssertUnwindSafe(|| child(&gate)));
            let failure = failure.unwrap_or(Failure { step: Step::Begin, errno: Errno::ENOTRECOVERABLE });
            let _ = (&gate.0).write_all(&failure.to_bytes());
            process::exit_now(127);
        }
    }
}

// === impl Gate ===

impl Gate {
    /// Waits until the parent has done its part. Meanwhile the parent may write this process's maps and trace it; a
    /// process that is not dumpable belongs to root, and to nobody else.
    pub fn wait(&self) -> Result<(), Errno> {
        set_dumpable(true)?;
        let spoken = self.speak();
        set_dumpable(false)?;
        spoken.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPIPE)))
    }

    fn speak(&self) -> io::Result<()> {
        (&self.0).write_all(&[READY])?;
        // The end instead of a word means that the parent is gone.
        (&self.0).read_exact(&mut [0])
    }
}

// === impl Nascent ===

impl Nascent {
    /// Waits until the child can be mapped and traced.
    pub fn ready(&self) -> Result<(), BirthError> {
        let mut word = [0];
        self.wire.set_read_timeout(Some(PATIENCE)).map_err(BirthError::Wire)?;
        (&self.wire).read_exact(&mut word).map_err(BirthError::Wire)
    }

    /// Lets the child begin, and waits until it runs its program. `meanwhile` is called now and then: a traced child can
    /// be stopped by any signal, and only its tracer lets it go on.
    pub fn run(&mut self, mut meanwhile: impl FnMut()) -> Result<(), BirthError> {
        self.wire.write_all(&[READY]).map_err(BirthError::Wire)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut watched = [PollFd::new(self.wire.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, PollTimeout::from(20_u8)) {
                Ok(0) | Err(Errno::EINTR) => meanwhile(),
                Ok(_) => return self.verdict(),
                Err(errno) => return Err(BirthError::Wire(errno.into())),
            }
            if Instant::now() > deadline {
                return Err(BirthError::Slow);
            }
        }
    }

    /// Ends a child that is of no use. Whoever waits for processes sees its end.
    pub fn abandon(&self) {
        let _ = process::send_signal(&self.pidfd, Signal::SIGKILL);
    }

    fn verdict(&mut self) -> Result<(), BirthError> {
        let mut told = Vec::new();
        self.wire.read_to_end(&mut told).map_err(BirthError::Wire)?;
        match Failure::from_bytes(&told) {
            None => Ok(()),
            Some(failure) => Err(BirthError::Step(failure)),
        }
    }
}

impl BirthError {
    /// Whether the host may have more to give later.
    pub fn passes(&self) -> bool {
        match self {
            Self::Fork(errno) | Self::Step(Failure { errno, .. }) => is_short(*errno),
            Self::Wire(_) | Self::Slow => true,
            Self::Identity(_) => false,
        }
    }
}

/// Whether the host was short of something that may come back. ENOSPC is what the kernel answers beyond
/// `user.max_user_namespaces`.
pub fn is_short(errno: Errno) -> bool {
    use Errno::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM, ENOSPC};
    matches!(errno, EAGAIN | EINTR | EMFILE | ENFILE | ENOMEM | ENOSPC)
}

/// Whether the kernel says that it does not allow something, or does not know it: it will say so the next time.
pub fn is_forbidden(errno: Errno) -> bool {
    use Errno::{EACCES, EINVAL, ENOSYS, EOPNOTSUPP, EPERM};
    matches!(errno, EACCES | EINVAL | ENOSYS | EOPNOTSUPP | EPERM)
}

const READY: u8 = b'r';
