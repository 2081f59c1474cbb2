//! The loop.
//!
//! Closed: so many connections, each of which sends its next request when its last one is answered; it measures how much a
//! server can do. Open: requests at a constant rate, whatever became of the ones before, and a latency that counts from the
//! time at which its request was due, so that a server that stands still spoils all the requests of that time (without
//! "coordinated omission"); it measures what users of a given number feel.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use thiserror::Error;

use crate::connection::{Connection, Step, Turn};
use crate::request::Request;

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The server.
    pub to: SocketAddr,
    /// What is sent.
    pub request: &'a Request,
    /// How often.
    pub pace: Pace,
    /// How long requests are sent.
    pub lasts: Duration,
    /// How long an answer may take before its connection is given up.
    pub limit: Duration,
}

/// How often a request is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// One after the other, on so many connections at once; each sends one at least, however short the time is.
    Closed {
        /// How many.
        connections: usize,
    },
    /// At a constant rate.
    Open {
        /// The rate.
        per_second: f64,
        /// How many connections there are at most; more requests than that wait here, and their latency counts.
        connections: usize,
    },
}

/// What became of one request.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was due, however long a connection for it took to open; in a closed loop, when it was sent.
    pub due: Instant,
    /// From then until its whole answer, or until there could be none.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer of this status.
    Answered(u16),
    /// Without one.
    Unanswered(ErrorKind),
}

/// Why a load ended early.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The server is not there.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The kernel did not let us wait for connections.
    #[error("cannot wait for connections")]
    Wait(#[from] Errno),
    /// A rate or a number of connections that is none.
    #[error("a load needs at least one connection, and a rate above 0")]
    Pace,
}

/// Runs a load to its end, or until `each` has enough.
pub fn run(plan: &Plan<'_>, each: &mut dyn FnMut(&Sample) -> ControlFlow<()>) -> Result<(), LoadError> {
    let lines = match plan.pace {
        Pace::Closed { connections } => connections,
        Pace::Open { per_second, connections } if per_second.is_finite() && per_second > 0.0 => connections,
        Pace::Open { .. } => 0,
    };
    if lines == 0 {
        return Err(LoadError::Pace);
    }
    // Of this thread alone: the kernel would otherwise wake it up to 50 µs late.
    set_timerslack(1)?;
    let begun = Instant::now();
    let all = Loop {
        plan,
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        lines: (0..lines).map(|_| None).collect(),
        // The last is taken first, so that few connections are opened where few are enough.
        idle: (0..lines).rev().collect(),
        schedule: Schedule { begun, end: begun + plan.lasts, made: 0, waiting: VecDeque::new() },
        scratch: vec![0; SCRATCH],
        reached: false,
        each,
        enough: false,
    };
    all.run()
}

/// Bytes read at once.
const SCRATCH: usize = 64 << 10;
/// How often it is looked for answers that are too late.
const GLANCE: Duration = Duration::from_millis(50);
/// Events taken at once.
const EVENTS: usize = 256;

struct Loop<'a> {
    plan: &'a Plan<'a>,
    epoll: Epoll,
    lines: Vec<Option<Connection>>,
    idle: Vec<usize>,
    schedule: Schedule,
    scratch: Vec<u8>,
    /// Whether any connection was ever open.
    reached: bool,
    each: &'a mut dyn FnMut(&Sample) -> ControlFlow<()>,
    enough: bool,
}

/// When requests are due.
#[derive(Debug)]
struct Schedule {
    begun: Instant,
    end: Instant,
    made: u64,
    /// Due, and not sent yet.
    waiting: VecDeque<Instant>,
}

/// When a request is due; nothing where it is whenever it is sent.
#[derive(Debug, Clone, Copy)]
struct Due(Option<Instant>);

impl Loop<'_> {
    fn run(mut self) -> Result<(), LoadError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut glance = Instant::now() + GLANCE;
        while !self.enough {
            let now = Instant::now();
            self.schedule.look(self.plan.pace, now);
            while let Some(line) = self.idle.pop() {
                let Some(due) = self.schedule.next(self.plan.pace, now) else {
                    self.idle.push(line);
                    break;
                };
                self.send(line, due)?;
            }
            let over = self.schedule.is_over(self.plan.pace, now);
            if over && self.idle.len() == self.lines.len() {
                break;
            }
            if now >= glance {
                self.give_up(now)?;
                glance = now + GLANCE;
            }
            let until = self.schedule.upcoming(self.plan.pace).map_or(glance, |due| due.min(glance));
            for at in 0..self.wait(&mut events, until.saturating_duration_since(now))? {
                let line = events.get(at).and_then(|event| usize::try_from(event.data()).ok());
                line.map_or(Ok(()), |line| self.look(line))?;
            }
        }
        Ok(())
    }

    fn wait(&self, events: &mut [EpollEvent], most: Duration) -> Result<usize, LoadError> {
        let waited = match self.plan.pace {
            Pace::Closed { .. } => {
                let ms = u16::try_from(most.as_millis()).unwrap_or(u16::MAX);
                self.epoll.wait(events, EpollTimeout::from(ms))
            }
            // epoll itself counts in milliseconds.
            Pace::Open { .. } => {
                let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
                match ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None) {
                    Ok(0) => Ok(0),
                    Ok(_) => self.epoll.wait(events, EpollTimeout::ZERO),
                    Err(errno) => Err(errno),
                }
            }
        };
        match waited {
            Err(Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Sends the next request on a line that has none.
    fn send(&mut self, line: usize, due: Due) -> Result<(), LoadError> {
        let Some(slot) = self.lines.get_mut(line) else { return Ok(()) };
        if slot.is_none() {
            let to = self.plan.to;
            let fresh = Connection::open(to).map_err(|cause| LoadError::Connect(to, cause))?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            self.epoll.add(&fresh, EpollEvent::new(flags, line as u64))?;
            *slot = Some(fresh);
        }
        if let Some(connection) = slot {
            // The time now, and not when this round began: others were sent since.
            connection.begin(due.0, Instant::now());
        }
        self.look(line)
    }

    /// Drives a line, and sends on at once where its answer came and another request is due.
    fn look(&mut self, line: usize) -> Result<(), LoadError> {
        loop {
            let Some(Some(connection)) = self.lines.get_mut(line) else { return Ok(()) };
            let step = connection.drive(self.plan.request.bytes(), &mut self.scratch);
            self.reached |= connection.is_open();
            let now = Instant::now();
            match step {
                Step::Idle | Step::Waits => return Ok(()),
                Step::Unopened { why } => return Err(LoadError::Connect(self.plan.to, why)),
                Step::Done { turn, status, again } => {
                    self.tell(turn, now, Outcome::Answered(status));
                    let next = if self.enough || !again { None } else { self.schedule.next(self.plan.pace, now) };
                    match (next, self.lines.get_mut(line)) {
                        (Some(due), Some(Some(connection))) => connection.begin(due.0, now),
                        _ => {
                            self.rest(line, again);
                            return Ok(());
                        }
                    }
                }
                Step::Broken { turn, why } => {
                    if let Some(turn) = turn {
                        self.tell(turn, now, Outcome::Unanswered(why));
                        self.rest(line, false);
                    } else if let Some(slot) = self.lines.get_mut(line) {
                        // It was at rest, and is among the idle already.
                        *slot = None;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Puts a line among those that are free.
    fn rest(&mut self, line: usize, usable: bool) {
        if let Some(slot) = self.lines.get_mut(line).filter(|_| !usable) {
            *slot = None;
        }
        self.idle.push(line);
    }

    /// Gives up what takes too long; all of it, where the server was never there.
    fn give_up(&mut self, now: Instant) -> Result<(), LoadError> {
        for line in 0..self.lines.len() {
            let turn = self.lines.get(line).and_then(|slot| slot.as_ref()?.turn().copied());
            if let Some(turn) = turn.filter(|turn| now.saturating_duration_since(turn.begun) > self.plan.limit) {
                if !self.reached {
                    return Err(LoadError::Connect(self.plan.to, ErrorKind::TimedOut.into()));
                }
                self.tell(turn, now, Outcome::Unanswered(ErrorKind::TimedOut));
                self.rest(line, false);
            }
        }
        while let Some(due) = self.schedule.waiting.front().copied() {
            let took = now.saturating_duration_since(due);
            if took <= self.plan.limit {
                break;
            }
            self.schedule.waiting.pop_front();
            self.say(&Sample { due, took, outcome: Outcome::Unanswered(ErrorKind::TimedOut) });
        }
        Ok(())
    }

    fn tell(&mut self, turn: Turn, now: Instant, outcome: Outcome) {
        let due = turn.since();
        self.say(&Sample { due, took: now.saturating_duration_since(due), outcome });
    }

    fn say(&mut self, sample: &Sample) {
        self.enough |= (self.each)(sample).is_break();
    }
}

impl Schedule {
    /// Notes what has become due; only an open loop has a clock of its own.
    fn look(&mut self, pace: Pace, now: Instant) {
        while let Some(due) = self.upcoming(pace).filter(|due| *due <= now) {
            self.waiting.push_back(due);
            self.made += 1;
        }
    }

    /// When the next request becomes due, where there is one.
    fn upcoming(&self, pace: Pace) -> Option<Instant> {
        let Pace::Open { per_second, .. } = pace else { return None };
        let due = self.begun + Duration::try_from_secs_f64(self.made as f64 / per_second).ok()?;
        (due < self.end).then_some(due)
    }

    /// The request that a free connection sends now.
    fn next(&mut self, pace: Pace, now: Instant) -> Option<Due> {
        match pace {
            Pace::Closed { connections } => {
                let due = now < self.end || self.made < connections as u64;
                self.made += u64::from(due);
                due.then_some(Due(None))
            }
            Pace::Open { .. } => self.waiting.pop_front().map(|due| Due(Some(due))),
        }
    }

    fn is_over(&self, pace: Pace, now: Instant) -> bool {
        now >= self.end && self.waiting.is_empty() && self.upcoming(pace).is_none()
    }
}
