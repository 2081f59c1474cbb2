//! Starts a front: the one process that hears the network, with no privilege and three descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use casemate_config::Config;
use casemate_ipc::launch::{LaunchReply, LaunchRequest};
use casemate_ipc::seqpacket::{self, Channel};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, setsid};

use crate::fork::{self, BirthError};
use crate::jail::identity::become_powerless;
use crate::jail::{self, Failure, Step};
use crate::listen::Listener;
use crate::program::Program;
use crate::trace::Tracer;

/// A front that runs.
#[derive(Debug)]
pub struct Front {
    /// Its process.
    pub pid: Pid,
    /// The same, to send it signals.
    pub pidfd: OwnedFd,
    /// The launcher's end of its channel.
    pub channel: Channel<LaunchReply, LaunchRequest>,
    /// Since when.
    pub born: Instant,
}

/// What every front is started with.
#[derive(Debug)]
pub struct FrontPlan {
    /// The program.
    pub program: Program,
    /// The listening socket.
    pub listener: Listener,
    /// The config's text, frozen.
    pub text: OwnedFd,
    /// Its uid and gid, where the launcher is root.
    pub identity: Option<u32>,
    /// Connections that it may have to hold.
    pub connections: u64,
}

impl FrontPlan {
    /// The plan for this config.
    pub fn new(program: Program, listener: Listener, text: OwnedFd, config: &Config, as_root: bool) -> Self {
        let identity = as_root.then_some(config.identities.front);
        Self { program, listener, text, identity, connections: config.limits.connections }
    }

    /// Starts one. It is traced like a worker: if its filter ends it, the log tells which call it was.
    pub fn start(&self, tracer: &mut Tracer) -> Result<Front, BirthError> {
        let (ours, theirs) = seqpacket::pair::<LaunchReply, LaunchRequest>().map_err(BirthError::Wire)?;
        ours.set_nonblocking().map_err(BirthError::Wire)?;
        let null = File::open("/dev/null").map_err(BirthError::Wire)?;
        let (log, theirs) = (io::stderr(), theirs.into_socket());
        let descriptors =
            [null.as_fd(), log.as_fd(), log.as_fd(), theirs.as_fd(), self.listener.socket.as_fd(), self.text.as_fd()];
        let mut child = fork::fork(CloneFlags::empty(), |gate| {
            let steps = || -> Result<std::convert::Infallible, Failure> {
                Step::Begin.take(|| gate.wait())?;
                Step::Session.take(setsid)?;
                Step::Identity.take(|| self.identity.map_or(Ok(()), become_powerless))?;
                Step::Descriptors.take(|| jail::place(&descriptors))?;
                Step::Limits.take(|| self.allow_connections())?;
                Step::NoNewPrivileges.take(set_no_new_privs)?;
                Step::ParentDeath.take(|| set_pdeathsig(Signal::SIGKILL))?;
                Step::Signals.take(jail::default_signals)?;
                Step::Exec.take(|| self.program.exec())
            };
            match steps() {
                Err(failure) => failure,
                Ok(never) => match never {},
            }
        })?;
        tracer.watch(child.pid);
        let started = child.ready().and_then(|()| {
            tracer.trace(child.pid);
            child.run(|| tracer.pump())
        });
        if let Err(error) = started {
            child.abandon();
            return Err(error);
        }
        Ok(Front { pid: child.pid, pidfd: child.pidfd, channel: ours, born: Instant::now() })
    }

    /// A descriptor for each connection and some beside; as many as the host allows, if that is fewer.
    fn allow_connections(&self) -> Result<(), Errno> {
        const BESIDE: u64 = 1024;
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = soft.max(self.connections.saturating_add(BESIDE)).min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    }
}
