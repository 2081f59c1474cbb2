//! Tries out, on two children that then end, what a zygote needs of this host beyond a worker's jail: a sibling with
//! namespaces inside its own, a clock for it, and where libc keeps a thread's number.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::layer::Waiver;
use casemate_ipc::zygote::FIRST_UNBORN;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, read, write};
use thiserror::Error;

use crate::fork::{self, BirthError, Nascent};
use crate::host::Host;
use crate::jail::identity::{Dry, Identity, Pool, anywhere, uids_of_processes};
use crate::jail::rlimit::Ceilings;
use crate::jail::{Jail, namespaces};
use crate::library::Library;
use crate::owner::Owner;
use crate::sys::control::number_place;
use crate::sys::process::{self, Forked, close_from, exit_now, handle_of};
use crate::zygote::fetter;

/// What a zygote would lack.
#[derive(Debug, Error)]
pub enum BearingError {
    /// All of it.
    #[error("it needs namespaces, which this host lacks")]
    NoNamespaces,
    /// Uids: one for itself and one for each that it bears.
    #[error(transparent)]
    Dry(#[from] Dry),
    /// One uid alone.
    #[error("one uid alone is free, and a zygote needs another for each of its workers")]
    Uids,
    /// Its jail, or the wire to it.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// Where libc keeps its thread's number.
    #[error("where libc keeps a thread's number: {0}; the kernel needs CONFIG_CHECKPOINT_RESTORE")]
    Place(Errno),
    /// A clock for the next child.
    #[error("a clock of its own for a worker: {0}")]
    Clock(Errno),
    /// The sibling.
    #[error("a worker with namespaces inside its zygote's: {0}; user.max_user_namespaces may be too low")]
    Sibling(Errno),
    /// The sibling's maps, or the limit on its namespaces.
    #[error("who a worker is, and what it can hold: {0}")]
    Fetters(io::Error),
    /// It said nothing.
    #[error("a process that was to bear another one ended without a word")]
    Silent,
}

/// What both may take, in milliseconds; they take some ten.
const PATIENCE: u16 = 20_000;

/// How often a host that is short of something is asked again: what an earlier server had may still be going.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// Goes through a birth, up to where the newborn would take its own steps.
pub fn try_birth(config: &Config, owner: Owner, library: &Library, host: &Host) -> Result<(), BearingError> {
    for _ in 0..TRIES {
        match once(config, owner, library, host) {
            Err(error) if error.is_shortage() => sleep(PAUSE),
            tried => return tried,
        }
    }
    once(config, owner, library, host)
}

impl BearingError {
    /// Whether the host may have it a moment later.
    fn is_shortage(&self) -> bool {
        match self {
            // Whoever is slow has had its time.
            Self::NoNamespaces | Self::Dry(_) | Self::Uids | Self::Birth(BirthError::Slow) => false,
            Self::Birth(error) => error.passes(),
            Self::Place(errno) | Self::Clock(errno) | Self::Sibling(errno) => fork::is_short(*errno),
            Self::Fetters(error) => {
                error.raw_os_error().is_none_or(|errno| !fork::is_forbidden(Errno::from_raw(errno)))
            }
            Self::Silent => true,
        }
    }
}

fn once(config: &Config, owner: Owner, library: &Library, host: &Host) -> Result<(), BearingError> {
    if host.lacks(Waiver::Namespaces) {
        return Err(BearingError::NoNamespaces);
    }
    let mut pool = Pool::new(owner.is_root().then(|| config.identities.clone()), anywhere());
    let strangers = uids_of_processes();
    let identity = pool.take(&strangers, Instant::now())?;
    let unborn: Vec<u32> = pool.reserve(1, &strangers, Instant::now()).into_iter().filter_map(Identity::own).collect();
    if identity.own().is_some() && unborn.is_empty() {
        return Err(BearingError::Uids);
    }
    let wire = |errno: Errno| BirthError::Wire(errno.into());
    let (hears, speaks) = pipe2(OFlag::O_CLOEXEC).map_err(wire)?;
    let (waits, lets) = pipe2(OFlag::O_CLOEXEC).map_err(wire)?;
    let descriptors = [waits.as_fd(), speaks.as_fd(), speaks.as_fd()];
    let memory_bytes = config.limits.worker_memory_mib << 20;
    let jail = Jail {
        library,
        namespaces: true,
        alone: !host.lacks(Waiver::NoNestedNamespaces),
        calm: !host.lacks(Waiver::Speculation),
        entry: None,
        identity,
        cores: &[],
        ceilings: Ceilings { threads: 1, instances: 1, memory_bytes, mapped_bytes: library.bytes(), cpu_millis: None },
        descriptors: &descriptors,
        bears: true,
    };
    // Looked up out here: there is no /proc in there.
    let clock = namespaces::has_time();
    let mut zygote = fork::fork(jail.flags(), |gate| match jail.enter(gate) {
        Ok(()) => act_as_zygote(clock),
        Err(failure) => failure,
    })?;
    let tried = jailed(&mut zygote, identity, &unborn).and_then(|()| {
        drop(speaks);
        let newborn = hear(hears)?;
        // Whatever comes of it: it is ours, and nobody else waits for it.
        let fettered = settle(&zygote, newborn, !unborn.is_empty(), jail.alone);
        let _ = waitpid(newborn, None);
        fettered
    });
    drop(lets);
    zygote.abandon();
    let _ = waitpid(zygote.pid, None);
    tried
}

fn jailed(zygote: &mut Nascent, identity: Identity, unborn: &[u32]) -> Result<(), BearingError> {
    zygote.ready()?;
    namespaces::map(zygote.pid, identity, unborn).map_err(BirthError::Identity)?;
    Ok(zygote.run(|| {})?)
}

/// What its launcher does for a newborn; and then its end.
fn settle(zygote: &Nascent, newborn: Pid, own: bool, alone: bool) -> Result<(), BearingError> {
    let fettered = handle_of(newborn)
        .map_err(io::Error::from)
        .and_then(|handle| fetter((&zygote.pidfd, newborn, &handle), own.then_some(FIRST_UNBORN), alone));
    // A child that has not been waited for, so the number is its own.
    let _ = kill(newborn, Signal::SIGKILL);
    fettered.map_err(BearingError::Fetters)
}

/// A word of the first child: which step, and its errno; or whom it bore.
fn hear(pipe: OwnedFd) -> Result<Pid, BearingError> {
    let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut watched, PollTimeout::from(PATIENCE)) {
            Ok(1..) => break,
            Err(Errno::EINTR) => {}
            _ => return Err(BirthError::Slow.into()),
        }
    }
    let mut word = [0; 1 + size_of::<i32>()];
    File::from(pipe).read_exact(&mut word).map_err(|_| BearingError::Silent)?;
    let [step, number @ ..] = word;
    let number = i32::from_le_bytes(number);
    match step {
        BORN if number > 1 => Ok(Pid::from_raw(number)),
        PLACE => Err(BearingError::Place(Errno::from_raw(number))),
        CLOCK => Err(BearingError::Clock(Errno::from_raw(number))),
        SIBLING => Err(BearingError::Sibling(Errno::from_raw(number))),
        _ => Err(BearingError::Silent),
    }
}

const BORN: u8 = b'b';
const PLACE: u8 = b'p';
const CLOCK: u8 = b'c';
const SIBLING: u8 = b's';

/// Runs in the child, which has three descriptors that it can name: one to wait at, and one, twice, to speak into.
fn act_as_zygote(clock: bool) -> ! {
    // The wire to its launcher too: so it looks like a child that became its program.
    let _ = close_from(3);
    let (step, number) = match bear(clock) {
        Ok(pid) => (BORN, pid.as_raw()),
        Err((step, errno)) => (step, errno as i32),
    };
    let word: Vec<u8> = [step].into_iter().chain(number.to_le_bytes()).collect();
    let _ = write(io::stderr(), &word);
    // Its user namespace can be entered as long as it is there.
    let _ = read(io::stdin(), &mut [0]);
    exit_now(0)
}

fn bear(clock: bool) -> Result<Pid, (u8, Errno)> {
    const CLONE_NEWTIME: i32 = 0x80;
    // Its memory is the launcher's, and not yet of its own user namespace, as that of a program that was started there would be:
    // its launcher, where it is no root, may look into neither of the two unless they say so.
    set_dumpable(true).map_err(|errno| (SIBLING, errno))?;
    number_place().map_err(|errno| (PLACE, errno))?;
    if clock {
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME)).map_err(|errno| (CLOCK, errno))?;
    }
    match process::fork(namespaces::of_newborn() | CloneFlags::CLONE_PARENT, None) {
        Ok(Forked::Parent { pid, .. }) => Ok(pid),
        Err(errno) => Err((SIBLING, errno)),
        Ok(Forked::Child) => {
            // Until its launcher has done with it.
            let _ = read(io::stdin(), &mut [0]);
            exit_now(0)
        }
    }
}
