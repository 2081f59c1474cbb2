//! How a model is doing: what `/v2`, `/metrics` and the status route show. Written by `fleet`, read by everybody.

use std::sync::Arc;

use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::Declared;

/// One served model.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// Its name and version.
    pub model: ModelId,
    /// Where it is in its life.
    pub state: State,
    /// Its declaration, from the first time on that a worker has verified it.
    pub declared: Option<Arc<Declared>>,
    /// The worker now serving it.
    pub worker: Option<WorkerStatus>,
    /// Worker starts, the first included.
    pub starts: u64,
    /// How the last worker ended, and when.
    pub last_exit: Option<LastExit>,
    /// Layers that the operator goes without.
    pub waived: Vec<Waiver>,
    /// Whether its workers may make machine code, as the operator's config says.
    pub run_time_code: RunTimeCode,
}

/// Where a model is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A worker is on its way.
    Starting,
    /// Requests are taken.
    Ready,
    /// The last worker died; the next one comes after a pause.
    BackingOff,
    /// Given up, with the reason.
    Failed(String),
    /// The server is going down.
    Draining,
}

/// A live worker.
#[derive(Debug, Clone)]
pub struct WorkerStatus {
    /// Its id.
    pub worker: WorkerId,
    /// Its process id as the launcher sees it.
    pub pid: u32,
    /// Batches that it has been given.
    pub batches: u64,
    /// Its cage, as read from the kernel from outside; empty until read.
    pub cage: Vec<Reading>,
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

impl State {
    /// The word in status and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing-off",
            Self::Failed(_) => "failed",
            Self::Draining => "draining",
        }
    }
}
