//! What is kept of a model between two starts of its workers: the frozen copy of its file, and the SHA-256 of that.
//!
//! A start looks at the store's file all the same, by the same checks; as long as the kernel says that it is the one that was
//! copied, it is not read again. The copy is the memory that its workers have mapped.
//!
//! A child of the launcher counts the SHA-256, while the worker's program starts. It reads the frozen copy and parses nothing.
//! The worker waits for it before its lock, and does not begin without it.
//!
//! **What is kept, and for how long:** one copy for each version of a model, of files larger than [`SMALL`]; as long as a worker
//! of it runs or waits to be born, and then for [`LINGER`]. Copies that no worker has had for [`SOON`] are [`IDLE_BYTES`] at most, all
//! together; those that do not fit go, the others stay.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use casemate_ipc::digest;
use casemate_ipc::id::ModelId;
use casemate_ipc::shm::map::Frozen;
use casemate_ipc::shm::seal::{self, SealError, Sealing};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl::{set_dumpable, set_name, set_no_new_privs, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::{Pid, setsid, write};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::jail;
use crate::log;
use crate::models::{Mark, Original, StoreError};
use crate::sys::process::{self, Forked, exit_now, send_signal};
use crate::trace::{End, Ended, Tracer};

/// The copies, and the children that count.
#[derive(Debug, Default)]
pub struct Keeper {
    kept: BTreeMap<ModelId, Kept>,
    counts: Vec<Count>,
    next: u64,
}

/// What one worker is given.
#[derive(Debug)]
pub struct Given {
    /// The model's bytes, frozen, by a descriptor that is no other worker's and can only read.
    pub model: OwnedFd,
    /// The end of a socket over which their SHA-256 comes.
    pub digest: OwnedFd,
}

/// Why a worker cannot be given its model.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The store's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy.
    #[error("the copy of the model: {0}")]
    Copy(#[from] SealError),
    /// Whoever counts.
    #[error("the SHA-256 of the model: {0}")]
    Digest(#[from] io::Error),
}

#[derive(Debug)]
struct Kept {
    mark: Mark,
    copy: OwnedFd,
    bytes: u64,
    /// Which count is its own.
    number: u64,
    sha256: Option<[u8; 32]>,
    /// When a worker of it was last seen.
    used: Instant,
}

/// A child that counts, and who waits for it.
#[derive(Debug)]
struct Count {
    number: u64,
    model: ModelId,
    pid: Pid,
    pidfd: OwnedFd,
    hears: UnixStream,
    promised: Vec<OwnedFd>,
    since: Instant,
    /// When it should long have been done; whoever waits then hears that nothing comes, and the next start counts anew.
    until: Instant,
}

/// Bytes of a file that is copied and counted on the spot, each time: that takes a few milliseconds at most.
pub const SMALL: u64 = 256 << 10;
/// How long a copy outlives its last worker.
pub const LINGER: Duration = Duration::from_secs(120);
/// How long it does so whatever its size: a front that starts a worker again waits ten seconds at most.
pub const SOON: Duration = Duration::from_secs(15);
/// Bytes of all copies that no worker has, and has had for [`SOON`].
pub const IDLE_BYTES: u64 = 1 << 30;
/// How long a count may take: this, and a second for each [`SLOW`] bytes.
const COUNT: Duration = Duration::from_secs(60);
/// Bytes that are counted in a second even on a busy machine.
const SLOW: u64 = 16 << 20;

impl Keeper {
    /// A model's bytes, and the promise of their digest.
    pub fn give(&mut self, model: &ModelId, original: Original, tracer: &mut Tracer) -> Result<Given, KeepError> {
        let (ours, digest) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)?;
        let mark = original.mark();
        if let Some(kept) = self.kept.get_mut(model).filter(|kept| kept.mark == mark) {
            kept.used = Instant::now();
            let copy = seal::read_only(&kept.copy)?;
            let (number, sha256) = (kept.number, kept.sha256);
            match (sha256, self.counts.iter_mut().find(|count| count.number == number)) {
                (Some(sha256), _) => say(&ours, &sha256),
                (None, Some(count)) => count.promised.push(ours),
                // Nobody should get here: a count that comes to nothing takes its copy with it.
                (None, None) => {
                    self.kept.remove(model);
                    return Err(io::Error::other("nobody counts it").into());
                }
            }
            return Ok(Given { model: copy, digest });
        }
        // An older copy is not of this file.
        self.kept.remove(model);
        let (begun, settled) = (Instant::now(), mark.is_settled(SystemTime::now()));
        let copy = original.copy()?;
        let readable = seal::read_only(&copy)?;
        // What was copied, whatever the file was when it was looked at.
        let bytes = seal::check(&copy, Sealing::Frozen)?;
        if bytes <= SMALL {
            say(&ours, &Sha256::digest(Frozen::map(&readable)?.bytes()).into());
            return Ok(Given { model: readable, digest });
        }
        let us = begun.elapsed().as_micros();
        log::info("model-copied", &[("model", model), ("bytes", &bytes), ("us", &us)]);
        self.next += 1;
        let number = self.next;
        let (pid, pidfd, hears) = count(&readable)?;
        tracer.watch(pid);
        let since = Instant::now();
        let until = since + COUNT + Duration::from_secs(bytes / SLOW);
        self.counts.push(Count { number, model: model.clone(), pid, pidfd, hears, promised: vec![ours], since, until });
        if settled {
            self.kept.insert(model.clone(), Kept { mark, copy, bytes, number, sha256: None, used: since });
        }
        Ok(Given { model: readable, digest })
    }

    /// A process ended: whether it was one that counts. Who waits for it has its word, or sees that there is none.
    pub fn ended(&mut self, ended: &Ended) -> bool {
        let Some(at) = self.counts.iter().position(|count| count.pid == ended.pid) else { return false };
        let mut count = self.counts.swap_remove(at);
        let mut sha256 = [0; 32];
        let heard = count.hears.read_exact(&mut sha256).is_ok() && ended.end == End::Code(0);
        let us = count.since.elapsed().as_micros();
        if heard {
            count.promised.iter().for_each(|promised| say(promised, &sha256));
            let text = digest::write(&sha256);
            log::info("model-digest", &[("model", &count.model), ("sha256", &text), ("us", &us)]);
        } else {
            let how = format!("{:?}", ended.end);
            log::error("model-digest-failed", &[("model", &count.model), ("how", &how), ("us", &us)]);
        }
        let own = |kept: &&mut Kept| kept.number == count.number;
        match self.kept.get_mut(&count.model).filter(own) {
            Some(kept) if heard => kept.sha256 = Some(sha256),
            Some(_) => drop(self.kept.remove(&count.model)),
            None => {}
        }
        true
    }

    /// Lets go of what nobody has used for long, and of what is too much. `lives` says whether a model has a worker, or will.
    pub fn sweep(&mut self, now: Instant, lives: impl Fn(&ModelId) -> bool) {
        let mut idle = Vec::new();
        for (model, kept) in &mut self.kept {
            // While it is counted somebody holds it anyway, and who starts its worker again meanwhile joins that count.
            if lives(model) || kept.sha256.is_none() {
                kept.used = now;
            } else {
                idle.push((kept.used, kept.bytes, model.clone()));
            }
        }
        // The last used first.
        idle.sort_unstable_by(|left, right| right.cmp(left));
        let mut all = 0_u64;
        for (used, bytes, model) in idle {
            let with = all.saturating_add(bytes);
            // A model that rests between two tries has its copy, however large that is.
            if now < used + SOON {
                continue;
            }
            if now < used + LINGER && with <= IDLE_BYTES {
                all = with;
                continue;
            }
            self.kept.remove(&model);
            log::info("model-copy-dropped", &[("model", &model), ("bytes", &bytes)]);
        }
        for count in self.counts.iter().filter(|count| now >= count.until) {
            let _ = send_signal(&count.pidfd, Signal::SIGKILL);
        }
    }

    /// When [`Self::sweep`] has something to do.
    pub fn due(&self, now: Instant, lives: impl Fn(&ModelId) -> bool) -> Option<Instant> {
        let idle = self.kept.iter().filter(|(model, kept)| !lives(model) && kept.sha256.is_some());
        let swept = idle.map(|(_, kept)| if now < kept.used + SOON { kept.used + SOON } else { kept.used + LINGER });
        let counted = self.counts.iter().map(|count| count.until).filter(|until| now < *until);
        swept.chain(counted).min()
    }

    /// Whether nobody counts.
    pub fn none(&self) -> bool {
        self.counts.is_empty()
    }

    /// Ends all that count.
    pub fn end_all(&self) {
        for count in &self.counts {
            let _ = send_signal(&count.pidfd, Signal::SIGKILL);
        }
    }
}

impl KeepError {
    /// Whether a later try could end otherwise.
    pub const fn passes(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}

/// The one packet. Whoever is gone by now does not need it; there is always room for a first one.
fn say(promised: &OwnedFd, sha256: &[u8; 32]) {
    let _ = send(promised.as_raw_fd(), sha256, MsgFlags::MSG_NOSIGNAL);
}

/// A child that counts the SHA-256 of frozen memory, says it, and ends.
fn count(frozen: &OwnedFd) -> io::Result<(Pid, OwnedFd, UnixStream)> {
    let (hears, speaks) = UnixStream::pair()?;
    // Its word is read once it has ended.
    hears.set_nonblocking(true)?;
    match process::fork(CloneFlags::empty(), None)? {
        Forked::Parent { pid, pidfd } => Ok((pid, pidfd, hears)),
        Forked::Child => {
            // The stack of the child is a copy of the parent's: a panic must not climb back into the parent's work.
            let counted = catch_unwind(AssertUnwindSafe(|| count_here(frozen, &speaks)));
            exit_now(i32::from(!matches!(counted, Ok(Ok(())))))
        }
    }
}

/// Runs in the child, with two descriptors and nothing that it could do with a privilege.
fn count_here(frozen: &OwnedFd, speaks: &UnixStream) -> Result<(), Box<dyn std::error::Error>> {
    // A session of its own, as every worker has: where the kernel shares CPUs out by sessions, the launcher's is not to pay.
    setsid()?;
    jail::place(&[frozen.as_fd(), speaks.as_fd()])?;
    process::close_from(2)?;
    set_dumpable(false)?;
    set_no_new_privs()?;
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    set_pdeathsig(Signal::SIGKILL)?;
    // How `ps` tells it from the launcher, once it is all that.
    let _ = set_name(c"casemate-digest");
    let sha256: [u8; 32] = Sha256::digest(Frozen::map(io::stdin())?.bytes()).into();
    match write(io::stdout(), &sha256)? {
        32 => Ok(()),
        _ => Err(Errno::EIO.into()),
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
