//! A tenant's zygote: started like a worker, warmed up, then told to bear workers, one after the other.
//!
//! What it answers is not believed: the child that it speaks of must be one that this launcher has and does not know yet.
//! The newborn's maps, its limit on namespaces, its tracing and its belongings come from here; the zygote has no part in them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use casemate_ipc::seqpacket::{self, Channel, ChannelError, PacketBuffer};
use casemate_ipc::zygote::{Cradle, FIRST_UNBORN, FromNewborn, FromZygote, ToZygote};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use thiserror::Error;

use crate::cgroup::{CgroupError, Leaf};
use crate::fork;
use crate::jail::identity::Identity;
use crate::jail::rlimit::Ceilings;
use crate::jail::{namespaces, nested};
use crate::sys::process::{self, Forked, exit_now, handle_of, send_signal};
use crate::trace::Tracer;

/// A zygote that runs.
#[derive(Debug)]
pub struct Zygote {
    /// Its process.
    pub pid: Pid,
    /// The same, to send it signals.
    pub pidfd: OwnedFd,
    /// The launcher's end of its channel.
    pub channel: Channel<ToZygote, FromZygote>,
    /// Its control group, where there is one. Its workers have their own.
    pub leaf: Option<Leaf>,
    /// Who it is.
    pub identity: Identity,
    /// Who its workers will be, and by which number its user namespace knows each. Every one is used once.
    pub unborn: VecDeque<(u32, Identity)>,
    /// Births that it still has.
    pub births: u32,
    /// Since when it runs.
    pub since: Instant,
    /// Whether it has said that it is warm.
    pub warm: bool,
    /// Whom it was told to bear, until that one gets what belongs to it.
    pub expected: Option<Expected>,
}

/// A worker on its way: nobody stands and waits for it.
#[derive(Debug)]
pub struct Expected {
    /// The launcher's end of the newborn's wire.
    wire: Channel<Cradle, FromNewborn>,
    /// The newborn, once its zygote has spoken of it.
    child: Option<(Pid, OwnedFd)>,
    /// Whether it has said that it waits for its cradle.
    waits: bool,
    /// When it must have said so.
    until: Instant,
}

/// What a worker gets from its launcher.
#[derive(Debug)]
pub struct Dowry<'a> {
    /// Its descriptors, in the order of `casemate_ipc::zygote::fds`.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Its control group, where there is one.
    pub leaf: Option<&'a Leaf>,
    /// What it may use.
    pub ceilings: Ceilings,
    /// Whether its user namespace can be closed for others inside it.
    pub alone: bool,
}

/// Why a zygote bore no worker.
#[derive(Debug, Error)]
pub enum BearError {
    /// The zygote is gone, or does not speak.
    #[error("the zygote: {0}")]
    Zygote(ChannelError),
    /// It closed its channel.
    #[error("the zygote is gone")]
    Gone,
    /// Nothing was heard in time.
    #[error("nothing was heard of {0} within {seconds} s", seconds = .1.as_secs())]
    Slow(&'static str, Duration),
    /// It could not make a process.
    #[error("the zygote could not bear: {0}")]
    Barren(Errno),
    /// It said something else than it was asked.
    #[error("the zygote gave another answer than to a birth: {0}")]
    Answer(String),
    /// It spoke of a process that it cannot have borne.
    #[error("the zygote speaks of process {0}, which is not a new child of this launcher")]
    Stranger(u32),
    /// A wire or a handle.
    #[error("{what}: {source}")]
    Own {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Its control group.
    #[error("control group: {0}")]
    Cgroup(#[from] CgroupError),
    /// The newborn's maps, or the limit on its namespaces.
    #[error("who the newborn is, and what it can hold: {0}")]
    Fetters(io::Error),
    /// The newborn's wire.
    #[error("the newborn: {0}")]
    Newborn(ChannelError),
    /// The newborn is gone.
    #[error("the newborn is gone")]
    Stillborn,
    /// A step that it could not take.
    #[error("the newborn's step {step}: {errno}")]
    Step {
        /// Which.
        step: String,
        /// The kernel's answer.
        errno: Errno,
    },
}

/// What a birth may take; it takes milliseconds. The launcher's loop goes on meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a newborn may take for its own steps, once it has its cradle. They take milliseconds too, and the loop stands still
/// for them; nothing of a zygote, or of a model, has a part in them.
const STEPS: Duration = Duration::from_secs(5);
/// Tells a handle of a traced process that signals wait for its tracer.
const BREATH: u8 = 20;

impl Zygote {
    /// Tells it to bear a worker, if it can and nobody is expected already. What comes of it is heard by [`Self::hear`].
    pub fn expect(&mut self) -> Result<(), BearError> {
        if !self.warm || self.births == 0 || self.expected.is_some() {
            return Ok(());
        }
        let own = |source| BearError::Own { what: "a wire", source };
        let (wire, theirs) = seqpacket::pair::<Cradle, FromNewborn>().map_err(own)?;
        wire.set_nonblocking().map_err(own)?;
        let word = ToZygote::Bear { clock: namespaces::has_time() };
        self.channel.send_with(&word, &[theirs.as_fd()]).map_err(BearError::Zygote)?;
        self.expected = Some(Expected { wire, child: None, waits: false, until: Instant::now() + PATIENCE });
        Ok(())
    }

    /// Whether a newborn waits for what belongs to it.
    pub fn is_ripe(&self) -> bool {
        self.expected.as_ref().is_some_and(|expected| expected.waits)
    }

    /// Hears of the one that is expected: what its zygote said, if it said something, and what the newborn says. An error ends
    /// the expectation, and the newborn, if there is one.
    pub fn hear(&mut self, said: Option<FromZygote>, tracer: &mut Tracer) -> Result<(), BearError> {
        let Some(expected) = &mut self.expected else {
            return said.map_or(Ok(()), |said| Err(BearError::Answer(format!("{said:?}"))));
        };
        let heard = expected.hear(self.pid, said, tracer);
        if heard.is_err() {
            self.forget();
        }
        heard
    }

    /// Expects nobody any more. A newborn that is there ends.
    pub fn forget(&mut self) {
        // One that nothing was heard of ends with its wire. Whoever waits for processes sees the end of either.
        if let Some((_, pidfd)) = self.expected.take().and_then(|expected| expected.child) {
            let _ = send_signal(&pidfd, Signal::SIGKILL);
        }
    }

    /// The same where nobody wants it any more. Not before its zygote has answered, or the answer would be one to nothing.
    pub fn let_go(&mut self) {
        if self.expected.as_ref().is_some_and(|expected| expected.child.is_some()) {
            self.forget();
        }
    }

    /// Makes a worker of the newborn that waits. The next of its unborn identities is used up, whatever comes of it.
    pub fn bear(&mut self, dowry: &Dowry<'_>, tracer: &mut Tracer) -> Result<(Pid, OwnedFd), BearError> {
        let Some(Expected { wire, child: Some((pid, pidfd)), waits: true, .. }) = self.expected.take() else {
            return Err(BearError::Stillborn);
        };
        let unborn = self.unborn.pop_front();
        self.births = self.births.saturating_sub(1);
        let settled = self.settle((pid, &pidfd), unborn.map(|(inner, _)| inner), &wire, dowry, tracer);
        if settled.is_err() {
            // Whoever waits for processes sees its end.
            let _ = send_signal(&pidfd, Signal::SIGKILL);
        }
        settled.map(|()| (pid, pidfd))
    }

    /// What is worth waiting for.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // A newborn may speak before its zygote does; until then there is nothing to be done about it.
        let newborn = self.expected.as_ref().filter(|expected| expected.child.is_some() && !expected.waits);
        [self.channel.as_fd()].into_iter().chain(newborn.map(|expected| expected.wire.as_fd()))
    }

    /// When the one that is expected must have come.
    pub fn due(&self) -> Option<Instant> {
        self.expected.as_ref().filter(|expected| !expected.waits).map(|expected| expected.until)
    }

    /// Ends it. What it bore lives on.
    pub fn end(&self) {
        let _ = send_signal(&self.pidfd, Signal::SIGKILL);
    }

    /// Everything between a birth and a worker.
    fn settle(
        &self,
        (pid, pidfd): (Pid, &OwnedFd),
        unborn: Option<u32>,
        wire: &Channel<Cradle, FromNewborn>,
        dowry: &Dowry<'_>,
        tracer: &mut Tracer,
    ) -> Result<(), BearError> {
        fetter((&self.pidfd, pid, pidfd), unborn, dowry.alone).map_err(BearError::Fetters)?;
        // As for a worker that was exec'd.
        let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), crate::spawn::SACRIFICE);
        tracer.trace(pid);
        let doors = dowry.leaf.map(Leaf::doors).transpose()?.unwrap_or_default();
        let seed = random().map_err(|source| BearError::Own { what: "/dev/urandom", source })?;
        // Namespaces of its own are what makes a newborn: the kernel counts its threads apart.
        let ceilings = dowry.ceilings.list(true).into_iter();
        let ceilings = ceilings.map(|ceiling| (ceiling.resource as u32, ceiling.most)).collect();
        let cradle = Cradle { doors: u8::try_from(doors.len()).unwrap_or(u8::MAX), ceilings, seed };
        let descriptors: Vec<BorrowedFd<'_>> =
            dowry.descriptors.iter().copied().chain(doors.iter().map(AsFd::as_fd)).collect();
        wire.send_with(&cradle, &descriptors).map_err(BearError::Newborn)?;
        await_words(wire, tracer, "the newborn")?;
        match wire.receive(&mut PacketBuffer::default()).map_err(BearError::Newborn)? {
            None => Ok(()),
            Some(FromNewborn::Failed { step, errno }) => Err(failed(step, errno)),
            Some(FromNewborn::Waits) => Err(BearError::Stillborn),
        }
    }
}

impl Expected {
    fn hear(&mut self, zygote: Pid, said: Option<FromZygote>, tracer: &mut Tracer) -> Result<(), BearError> {
        match said {
            Some(FromZygote::Born { pid }) if self.child.is_none() => {
                let pid = is_new_child(pid, zygote, tracer).ok_or(BearError::Stranger(pid))?;
                let handle =
                    handle_of(pid).map_err(|errno| BearError::Own { what: "a handle", source: errno.into() })?;
                tracer.watch(pid);
                self.child = Some((pid, handle));
            }
            Some(FromZygote::Barren { errno }) => return Err(BearError::Barren(Errno::from_raw(errno))),
            Some(FromZygote::Unfit { why }) => return Err(BearError::Answer(why)),
            Some(other) => return Err(BearError::Answer(format!("{other:?}"))),
            None => {}
        }
        if self.child.is_some() && !self.waits {
            match self.wire.receive(&mut PacketBuffer::default()) {
                Ok(Some(FromNewborn::Waits)) => self.waits = true,
                Ok(Some(FromNewborn::Failed { step, errno })) => return Err(failed(step, errno)),
                Ok(None) => return Err(BearError::Stillborn),
                Err(ChannelError::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(BearError::Newborn(error)),
            }
        }
        match (self.waits || Instant::now() < self.until, &self.child) {
            (true, _) => Ok(()),
            (false, None) => Err(BearError::Slow("the zygote", PATIENCE)),
            (false, Some(_)) => Err(BearError::Slow("the newborn", PATIENCE)),
        }
    }
}

impl BearError {
    /// Whether a later try could end otherwise. What the kernel does not allow, it does not allow the next time.
    pub fn passes(&self) -> bool {
        match self {
            Self::Step { errno, .. } | Self::Barren(errno) => !fork::is_forbidden(*errno),
            // Also what a process leaves that died meanwhile: a place in /proc that is gone.
            Self::Fetters(error) => {
                error.raw_os_error().is_none_or(|errno| !fork::is_forbidden(Errno::from_raw(errno)))
            }
            Self::Zygote(_) | Self::Gone | Self::Slow(..) | Self::Answer(_) | Self::Stranger(_) => true,
            Self::Own { .. } | Self::Cgroup(_) | Self::Newborn(_) | Self::Stillborn => true,
        }
    }

    /// Whether a fresh zygote may do better.
    pub const fn is_of_zygote(&self) -> bool {
        matches!(
            self,
            Self::Zygote(_) | Self::Gone | Self::Slow(..) | Self::Barren(_) | Self::Answer(_) | Self::Stranger(_)
        )
    }
}

fn failed(step: String, errno: i32) -> BearError {
    BearError::Step { step, errno: Errno::from_raw(errno) }
}

/// Waits until there is something to be heard. A traced process can be stopped by any signal meanwhile, and only its tracer
/// lets it go on.
fn await_words(fd: impl AsFd, tracer: &mut Tracer, whom: &'static str) -> Result<(), BearError> {
    let deadline = Instant::now() + STEPS;
    loop {
        let mut watched = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, BREATH) {
            Ok(0) | Err(Errno::EINTR) => tracer.pump(),
            Ok(_) => return Ok(()),
            Err(errno) => return Err(BearError::Own { what: "poll", source: errno.into() }),
        }
        if Instant::now() > deadline {
            return Err(BearError::Slow(whom, STEPS));
        }
    }
}

/// The process, if it is a child of this one that nothing is known of yet, and that this zygote bore: it is still in its session,
/// which nobody can enter from elsewhere. It has not been waited for, so the number cannot mean another process.
fn is_new_child(pid: u32, zygote: Pid, tracer: &Tracer) -> Option<Pid> {
    let pid = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 1)?);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let ours = line("PPid:") == Some(std::process::id().to_string().as_str());
    let whole = line("Tgid:") == Some(pid.to_string().as_str());
    // As whoever mounted this /proc counts; further in there are other numbers behind it.
    let session = line("NSsid:").and_then(|line| line.split_whitespace().next());
    let its = session == Some(zygote.to_string().as_str());
    (ours && whole && its && !tracer.knows(pid)).then_some(pid)
}

/// Says who the newborn is, and lets its user namespace hold no others. Both are allowed only to somebody inside: of the
/// zygote's namespace for the one, of the newborn's for the other. So a child of this launcher goes there, one after the
/// other, and ends.
pub fn fetter((zygote, pid, newborn): (&OwnedFd, Pid, &OwnedFd), unborn: Option<u32>, alone: bool) -> io::Result<()> {
    match process::fork(CloneFlags::empty(), None)? {
        Forked::Child => {
            let done = setns(zygote, CloneFlags::CLONE_NEWUSER)
                .map_err(io::Error::from)
                .and_then(|()| namespaces::map_newborn(pid, unborn))
                .and_then(|()| if alone { close(newborn) } else { Ok(()) });
            exit_now(done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0))
        }
        Forked::Parent { pid, .. } => match waitpid(pid, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("the process that was to see to it ended otherwise: {other:?}"))),
        },
    }
}

fn close(newborn: &OwnedFd) -> io::Result<()> {
    setns(newborn, CloneFlags::CLONE_NEWUSER)?;
    Ok(nested::forbid()?)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Who a zygote's workers will be, as its user namespace numbers them.
pub fn numbered(identities: Vec<Identity>) -> VecDeque<(u32, Identity)> {
    (FIRST_UNBORN..).zip(identities).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_today_is_forbidden_tomorrow() {
        let step = |errno| failed("identity".to_owned(), errno).passes();
        assert!(step(libc::EAGAIN) && step(libc::ENOMEM) && step(libc::ENOSPC));
        assert!(!step(libc::EPERM) && !step(libc::EINVAL) && !step(libc::EACCES));
        let fetters = |errno| BearError::Fetters(io::Error::from_raw_os_error(errno)).passes();
        assert!(fetters(libc::ENOMEM) && !fetters(libc::EPERM) && !fetters(libc::EINVAL));
        // One that was killed in between.
        assert!(fetters(libc::ESRCH) && fetters(libc::ENOENT) && step(libc::EPIPE));
        assert!(BearError::Barren(Errno::ENOSPC).passes() && !BearError::Barren(Errno::EPERM).passes());
        assert!(BearError::Gone.passes() && BearError::Stillborn.passes());
    }
}
