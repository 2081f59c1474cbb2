//! How a model is doing: what `/v2`, `/metrics` and the status route show. Written by `fleet`, read by everybody.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use casemate_ipc::convolution::Convolution;
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::{Declared, Inside};
use serde::Serialize;

pub mod tally;

use self::tally::Tally;

/// One served model.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// Its name and version.
    pub model: ModelId,
    /// Where it is in its life.
    pub state: State,
    /// Its declaration, from the first time on that a worker has verified it.
    pub declared: Option<Arc<Declared>>,
    /// A place for each of its workers, in their order.
    pub seats: Vec<SeatStatus>,
    /// Batches that each worker runs at once.
    pub instances: u32,
    /// Worker starts, the first included.
    pub starts: u64,
    /// How the last worker ended, and when.
    pub last_exit: Option<LastExit>,
    /// Layers that the operator goes without.
    pub waived: Vec<Waiver>,
    /// Whether its workers may make machine code, as the operator's config says.
    pub run_time_code: RunTimeCode,
    /// Convolutions that ran without oneDNN's code; of a worker's saying, and within the bounds of the type.
    /// Shared: there can be thousands, and a status is copied for everybody who asks.
    pub convolutions: Arc<Vec<Convolution>>,
    /// Whether it has a `model.shapes` that its last worker does without, because a zygote bore that.
    pub shapes_left_aside: bool,
    /// Whose it is.
    pub tenant: String,
    /// How its workers come to be: `exec` or `zygote`.
    pub spawn: &'static str,
    /// What was refused, or ended, since this front started.
    pub violations: Violations,
    /// The breaker of its bytes, once they are known.
    pub breaker: Option<BreakerStatus>,
    /// What its workers printed. Counts only: clients can read a status, and a model's text is for the operator.
    pub output: OutputStatus,
}

/// Where a model is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A worker is on its way.
    Starting,
    /// Requests are taken.
    Ready,
    /// The last worker died, or there could be none, for this reason; the next one comes after a pause.
    BackingOff(String),
    /// Its bytes killed too many workers: requests are answered at once, for a while, with the reason.
    Open(String),
    /// Given up, with the reason.
    Failed(String),
    /// The server is going down.
    Draining,
}

/// A place for a worker.
#[derive(Debug, Clone)]
pub struct SeatStatus {
    /// Where it is in its life.
    pub state: State,
    /// The worker in it, from its start to its end.
    pub worker: Option<WorkerStatus>,
}

/// A live worker.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Its id.
    pub worker: WorkerId,
    /// Its process id as the launcher sees it.
    pub pid: u32,
    /// Its uid on the host, where it has one of its own.
    pub uid: Option<u32>,
    /// Batches that it has been given, and has now.
    pub tally: Arc<Tally>,
    /// Its cage, as read from the kernel from outside; empty until read.
    pub cage: Vec<Reading>,
    /// Its cage as it saw it from inside, before its model was loaded.
    pub inside: Option<Inside>,
    /// From the request to start it until it was ready, in microseconds.
    pub ready_us: u64,
}

/// How a worker ended.
#[derive(Debug, Clone)]
pub struct LastExit {
    /// Which one.
    pub worker: Option<WorkerId>,
    /// A stable word: `oom`, `syscall`, `signal`, `deadline`, `refused`, `protocol`, `cage`, `exit`, `spawn`, `stopped`.
    pub cause: &'static str,
    /// For the operator: signal, system call by name and number, step and reason.
    pub detail: String,
    /// Seconds since the epoch.
    pub at: u64,
}

/// What was refused, or ended, for one model.
#[derive(Debug, Clone, Default)]
pub struct Violations {
    /// How many, by guard and cause: words of our own.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// The last of them, the newest at the end; at most [`Violations::KEPT`].
    pub last: VecDeque<Seen>,
}

/// One of them. Arguments and addresses are in the log only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Seconds since the epoch.
    pub at: u64,
    /// What stopped it: a layer's name, `supervision` or `archive`.
    pub layer: &'static str,
    /// What it was.
    pub cause: &'static str,
    /// The worker.
    pub worker: Option<WorkerId>,
    /// Its process id.
    pub pid: Option<u32>,
    /// The system call's name and number, where it was one.
    pub call: Option<(&'static str, i64)>,
    /// Where it was called from: one of the worker's own files and an offset, or a word.
    pub origin: Option<String>,
}

/// A breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BreakerStatus {
    /// What it says.
    pub state: BreakerState,
    /// Deaths in a row that count now.
    pub deaths: u32,
    /// Where it is open: until when, in seconds since the epoch.
    pub until: Option<u64>,
}

/// What a breaker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Workers start and serve.
    Closed,
    /// None does, for a while.
    Open,
    /// They do, and the next death opens it again.
    HalfOpen,
}

/// Counts of what workers printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OutputStatus {
    /// Lines.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes of these that did not reach the log.
    pub dropped: u64,
}

impl Violations {
    /// As many are kept one by one.
    pub const KEPT: usize = 8;

    /// One more.
    pub fn add(&mut self, seen: Seen) {
        let count = self.counts.entry((seen.layer, seen.cause)).or_default();
        *count = count.saturating_add(1);
        if self.last.len() >= Self::KEPT {
            self.last.pop_front();
        }
        self.last.push_back(seen);
    }
}

impl ModelStatus {
    /// The first worker that serves; otherwise the first one that is there at all.
    pub fn worker(&self) -> Option<&WorkerStatus> {
        let serving = self.seats.iter().find(|seat| seat.state == State::Ready && seat.worker.is_some());
        serving.or_else(|| self.seats.iter().find(|seat| seat.worker.is_some()))?.worker.as_ref()
    }
}

impl State {
    /// That of a model, from its places: one that serves is enough, and all must have been given up for it to be.
    pub fn of_all(seats: &[SeatStatus]) -> Self {
        let rank = |state: &Self| match state {
            Self::Ready => 0,
            Self::Starting => 1,
            Self::BackingOff(_) => 2,
            Self::Open(_) => 3,
            Self::Draining => 4,
            Self::Failed(_) => 5,
        };
        seats.iter().map(|seat| &seat.state).min_by_key(|state| rank(state)).cloned().unwrap_or(Self::Starting)
    }

    /// The word in status and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff(_) => "backing-off",
            Self::Open(_) => "open",
            Self::Failed(_) => "failed",
            Self::Draining => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_that_serves_is_enough() {
        let of = |states: &[State]| {
            let seats: Vec<_> = states.iter().map(|s| SeatStatus { state: s.clone(), worker: None }).collect();
            State::of_all(&seats)
        };
        let (failed, pausing) = (State::Failed("no".into()), State::BackingOff("died".into()));
        assert_eq!(of(&[failed.clone(), State::Ready, State::Starting]), State::Ready);
        assert_eq!(of(&[pausing.clone(), State::Starting]), State::Starting);
        assert_eq!(of(&[failed.clone(), pausing.clone()]), pausing);
        assert_eq!(of(&[failed.clone(), failed.clone()]), failed);
        assert_eq!(of(&[State::Draining, failed]), State::Draining);
    }

    #[test]
    fn all_violations_are_counted_and_the_last_few_kept() {
        let mut violations = Violations::default();
        for at in 0..100 {
            let cause = if at % 2 == 0 { "syscall" } else { "abort" };
            let (worker, pid, call, origin) = (None, None, None, None);
            violations.add(Seen { at, layer: "seccomp", cause, worker, pid, call, origin });
        }
        assert_eq!(violations.counts, [(("seccomp", "abort"), 50), (("seccomp", "syscall"), 50)].into());
        let kept: Vec<u64> = violations.last.iter().map(|seen| seen.at).collect();
        assert_eq!(kept, (92..100).collect::<Vec<_>>());
    }
}
