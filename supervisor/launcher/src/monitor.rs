//! The launcher's one loop: requests in, ends of processes out.
//!
//! A front that asks what the table does not allow, or that dies, takes its workers with it: they were its own, and what it
//! knew of them is gone. A fresh front starts with none.

mod error;
mod serving;

use std::fmt::Display;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use casemate_config::Config;
use casemate_ipc::id::ModelId;
use casemate_ipc::launch::{LaunchReply, LaunchRequest};
use casemate_ipc::seqpacket::{ChannelError, PacketBuffer};
use casemate_lockdown::LauncherConfined;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use error::MonitorError;

use crate::front::FrontPlan;
use crate::heard;
use crate::log;
use crate::origin::Images;
use crate::permit::{Facts, Permits, Verdict};
use crate::spawn::{Arenas, Spawner};
use crate::sys::process::send_signal;
use crate::trace::{Circumstances, End, Ended, Tracer, name_of};
use crate::workers::{Answer, Workers, refuse};
use serving::{Broken, Serving};

/// The launcher at work.
#[derive(Debug)]
pub struct Monitor {
    config: Config,
    // Before the spawner, which holds the folder that their groups lie in.
    workers: Workers,
    spawner: Spawner,
    plan: FrontPlan,
    signals: SignalFd,
    tracer: Tracer,
    permits: Permits,
    front: Option<Serving>,
    quick_deaths: u32,
    again: Option<Instant>,
    stopping: Option<Instant>,
}

/// A front that lives longer has not failed to start.
const QUICK: Duration = Duration::from_secs(10);
const QUICK_DEATHS_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// What a front has to end in beside the time for its requests.
const GRACE: Duration = Duration::from_secs(5);
/// How long a front that closed its channel may take to end by itself.
const LEAVING: Duration = Duration::from_secs(1);
/// How long a front may leave a reply in its socket's way.
const UNREAD: u16 = 5_000;

impl Monitor {
    /// Blocks the signals that are read from a descriptor from here on.
    pub fn new(config: Config, spawner: Spawner, plan: FrontPlan, as_root: bool) -> Result<Self, MonitorError> {
        let fault = |step| move |errno| MonitorError::Call { step, errno };
        let heard = heard::signals();
        heard.thread_block().map_err(fault("blocking signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&heard, flags).map_err(fault("signalfd"))?;
        Ok(Self {
            signals,
            tracer: Tracer::new(Images::of(&spawner.library)),
            permits: Permits::new(config.limits.starts_per_minute),
            workers: Workers::new(&config, as_root),
            front: None,
            quick_deaths: 0,
            again: Some(Instant::now()),
            stopping: None,
            config,
            spawner,
            plan,
        })
    }

    /// Runs until a signal says stop and the front has ended.
    pub fn run(mut self, _confined: &LauncherConfined) -> Result<(), MonitorError> {
        let mut buffer = PacketBuffer::default();
        let ended = loop {
            match self.turn(&mut buffer) {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Whoever is left dies with the launcher anyway; like this their ends are its own doing.
        self.kill_all();
        self.workers.end_others();
        self.bury();
        ended
    }

    /// Sees the last workers off, so that nothing of them stays behind; not for long, since nobody needs them gone to end.
    fn bury(&mut self) {
        let until = Instant::now() + LEAVING;
        while !self.workers.none() && Instant::now() < until {
            self.tracer.pump();
            while let Some(ended) = self.tracer.next_ended() {
                self.workers.ended(&ended);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// One turn of the loop; `true` when all is over.
    fn turn(&mut self, buffer: &mut PacketBuffer) -> Result<bool, MonitorError> {
        let (signalled, spoken) = self.wait()?;
        if signalled {
            self.hear_signals();
        }
        self.tracer.pump();
        while let Some(ended) = self.tracer.next_ended() {
            if self.front.as_ref().is_some_and(|serving| serving.front.pid == ended.pid) {
                // What it still had to say is of no interest: its workers go with it.
                if self.front_ended(&ended)? {
                    return Ok(true);
                }
            } else {
                self.worker_ended(&ended);
            }
        }
        if spoken && let Err(Broken(why)) = self.hear_front(buffer) {
            self.end_front(&why);
        }
        self.tend_zygotes();
        let now = Instant::now();
        if self.stopping.is_some_and(|until| now >= until) {
            return Err(MonitorError::Disorder("it took longer than limits.drain_ms allows"));
        }
        if let Some(serving) = self.front.as_mut().filter(|serving| serving.left.is_some_and(|until| now >= until)) {
            let _ = send_signal(&serving.front.pidfd, Signal::SIGKILL);
            serving.left = Some(now + LEAVING);
        }
        if self.stopping.is_some() && self.front.is_none() {
            return Ok(true);
        }
        if self.again.is_some_and(|at| now >= at) {
            self.again = None;
            self.start_front()?;
        }
        Ok(false)
    }

    /// Waits for something to do: whether a signal came, and whether the front spoke.
    fn wait(&self) -> Result<(bool, bool), MonitorError> {
        let left = self.front.as_ref().and_then(|serving| serving.left);
        let renewal = self.workers.due(&self.config).filter(|_| self.stopping.is_none());
        let due = [self.stopping, self.again, left, renewal].into_iter().flatten().min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let hears = self.front.as_ref().filter(|serving| serving.left.is_none());
        watched.extend(hears.map(|serving| PollFd::new(serving.front.channel.as_fd(), PollFlags::POLLIN)));
        // They only wake this loop: whoever tends them asks each.
        if self.stopping.is_none() {
            watched.extend(self.workers.sources().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(MonitorError::Call { step: "poll", errno }),
        }
        let ready = |at: usize| watched.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        Ok((ready(0), hears.is_some() && ready(1)))
    }

    fn hear_signals(&mut self) {
        while let Ok(Some(heard)) = self.signals.read_signal() {
            let number = heard.ssi_signo.cast_signed();
            if number == libc::SIGCHLD {
                continue;
            }
            log::info("stopping", &[("signal", &number)]);
            // A second one means: now.
            let patience = match self.stopping {
                None => Duration::from_millis(self.config.limits.drain_ms) + GRACE,
                Some(_) => Duration::ZERO,
            };
            self.stopping = Some(Instant::now() + patience);
            if let Some(serving) = &self.front {
                let _ = send_signal(&serving.front.pidfd, Signal::SIGTERM);
            }
        }
    }

    // === the front ===

    fn start_front(&mut self) -> Result<(), MonitorError> {
        match self.plan.start(&mut self.tracer) {
            Ok(front) => {
                log::info("front-started", &[("pid", &front.pid)]);
                self.front = Some(Serving { front, first: self.workers.next(), left: None });
                if let Err(Broken(why)) = self.send_catalogue() {
                    self.end_front(&why);
                }
                Ok(())
            }
            Err(error) => {
                log::error("front-not-started", &[("error", &error)]);
                self.pause_front(Duration::ZERO)
            }
        }
    }

    fn send_catalogue(&self) -> Result<(), Broken> {
        let models = self.spawner.store.models();
        for model in models {
            self.reply(&LaunchReply::Model { model: model.clone() }, &[])?;
        }
        let models = u32::try_from(models.len()).unwrap_or(u32::MAX);
        self.reply(&LaunchReply::Catalogue { models, waived: self.spawner.host.missing.clone() }, &[])
    }

    /// Ends a front that broke the protocol.
    fn end_front(&mut self, why: &str) {
        if let Some(serving) = &mut self.front {
            serving.left = Some(Instant::now());
            log::error("front-broken", &[("pid", &serving.front.pid), ("why", &why)]);
        }
        self.workers.kill_all();
    }

    /// The front is gone; `true` if that was the end of the whole server.
    fn front_ended(&mut self, ended: &Ended) -> Result<bool, MonitorError> {
        let lived = self.front.take().map_or(Duration::ZERO, |serving| serving.front.born.elapsed());
        self.workers.kill_all();
        let in_order = ended.end == End::Code(0);
        if self.stopping.is_some() {
            let disorder = MonitorError::Disorder("it failed while it drained");
            return if in_order { Ok(true) } else { Err(disorder) };
        }
        let (cause, lived_ms) = (ended.cause(ALONE), lived.as_millis());
        let mut fields: Vec<(&str, &dyn Display)> = vec![("pid", &ended.pid), ("how", &cause), ("lived_ms", &lived_ms)];
        let refused = ended.denied.as_ref().map(|denied| (name_of(denied.number), format!("{:x?}", denied.args)));
        if let Some((call, arguments)) = &refused {
            fields.extend([("call", call as &dyn Display), ("arguments", arguments)]);
        }
        log::error("front-gone", &fields);
        self.pause_front(lived)?;
        Ok(false)
    }

    /// Lets some time pass before the next front, the more the quicker the last ones died.
    fn pause_front(&mut self, lived: Duration) -> Result<(), MonitorError> {
        self.quick_deaths = if lived < QUICK { self.quick_deaths + 1 } else { 1 };
        if self.quick_deaths >= QUICK_DEATHS_MAX {
            return Err(MonitorError::FrontKeepsDying);
        }
        self.again = Some(Instant::now() + FIRST_PAUSE * 2_u32.pow(self.quick_deaths - 1));
        Ok(())
    }

    fn hear_front(&mut self, buffer: &mut PacketBuffer) -> Result<(), Broken> {
        // One request a turn, so that ends of processes are seen in between.
        let Some(serving) = self.front.as_mut().filter(|serving| serving.left.is_none()) else { return Ok(()) };
        match serving.front.channel.receive_with::<2>(buffer) {
            Ok(Some((request, fds))) => self.obey(&request, fds),
            // Its own end comes next. Killed at once it could not say how.
            Ok(None) => self.front_left(),
            Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::ConnectionReset => self.front_left(),
            Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(Broken(error.to_string())),
        }
    }

    fn front_left(&mut self) -> Result<(), Broken> {
        if let Some(serving) = &mut self.front {
            serving.left = Some(Instant::now() + LEAVING);
        }
        Ok(())
    }

    fn obey(&mut self, request: &LaunchRequest, fds: Vec<OwnedFd>) -> Result<(), Broken> {
        let facts = self.facts(request, fds.len());
        match (self.permits.judge(request, facts, Instant::now()), request) {
            (Verdict::Broken(why), _) => Err(Broken(why.to_owned())),
            (Verdict::Allowed, LaunchRequest::Start { model }) => self.start_worker(model, fds),
            (Verdict::Allowed, LaunchRequest::Kill { worker }) => {
                // One that is gone has had its `Exited` already.
                self.workers.kill(*worker);
                Ok(())
            }
            (Verdict::Allowed, LaunchRequest::Attest { worker }) => {
                let readings = self.workers.attest(*worker);
                self.reply(&LaunchReply::Attested { worker: *worker, readings }, &[])
            }
            (Verdict::NotNow(why), LaunchRequest::Start { model }) => self.answer(&refuse(model, &why, true)),
            (Verdict::NotNow(_), _) => Ok(()),
        }
    }

    fn facts(&self, request: &LaunchRequest, descriptors: usize) -> Facts {
        let model = match request {
            LaunchRequest::Start { model } => Some(model),
            LaunchRequest::Kill { .. } | LaunchRequest::Attest { .. } => None,
        };
        let given = self.front.as_ref().map_or(0..0, |serving| serving.first..self.workers.next());
        Facts {
            descriptors,
            stopping: self.stopping.is_some(),
            model_known: model.is_some_and(|model| self.spawner.store.models().contains(model)),
            workers: model.map_or(0, |model| self.workers.of(model)),
            serving: model.map_or(1, |model| self.config.model(&model.name).workers),
            worker_given: match request {
                LaunchRequest::Kill { worker } | LaunchRequest::Attest { worker } => given.contains(&worker.0),
                LaunchRequest::Start { .. } => false,
            },
        }
    }

    fn answer(&self, answer: &Answer) -> Result<(), Broken> {
        let descriptors: Vec<BorrowedFd<'_>> = answer.descriptors.iter().map(AsFd::as_fd).collect();
        self.reply(&answer.reply, &descriptors)
    }

    /// Sends a reply. A front that leaves its replies unread for seconds is not one that works.
    fn reply(&self, reply: &LaunchReply, fds: &[BorrowedFd<'_>]) -> Result<(), Broken> {
        let Some(serving) = self.front.as_ref().filter(|serving| serving.left.is_none()) else { return Ok(()) };
        let channel = &serving.front.channel;
        loop {
            match channel.send_with(reply, fds) {
                Ok(()) => return Ok(()),
                Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::WouldBlock => {}
                // It is gone, or about to be; the end of its channel says so next.
                Err(ChannelError::Socket(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Broken(format!("it cannot be answered: {error}"))),
            }
            let mut room = [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut room, UNREAD) == Ok(0) {
                return Err(Broken("it does not read its replies".to_owned()));
            }
        }
    }

    fn start_worker(&mut self, model: &ModelId, fds: Vec<OwnedFd>) -> Result<(), Broken> {
        let settings = self.config.model(&model.name);
        let arenas =
            Arenas::check(fds, &self.config, &settings).map_err(|error| Broken(format!("an arena: {error}")))?;
        let around = (&self.spawner, &self.config);
        match self.workers.start(around, model, arenas, &mut self.tracer) {
            Some(answer) => self.answer(&answer),
            None => Ok(()),
        }
    }

    /// Sees to the zygotes, and answers those starts that waited for one.
    fn tend_zygotes(&mut self) {
        let answers = match self.stopping {
            Some(_) => self.workers.refuse_waiting(),
            None => self.workers.tend((&self.spawner, &self.config), &mut self.tracer),
        };
        for answer in answers {
            if let Err(Broken(why)) = self.answer(&answer) {
                self.end_front(&why);
            }
        }
    }

    fn worker_ended(&mut self, ended: &Ended) {
        let Some((worker, cause)) = self.workers.ended(ended) else { return };
        // A worker of an earlier front is none of this one's.
        if self.front.as_ref().is_some_and(|serving| worker.0 >= serving.first)
            && let Err(Broken(why)) = self.reply(&LaunchReply::Exited { worker, cause }, &[])
        {
            self.end_front(&why);
        }
    }

    fn kill_all(&mut self) {
        if let Some(serving) = &self.front {
            let _ = send_signal(&serving.front.pidfd, Signal::SIGKILL);
        }
        self.workers.kill_all();
    }
}

/// For the log of a front's end, which nobody asks for.
const ALONE: Circumstances = Circumstances { asked: false, out_of_memory: false };
