//! One model as the operator wants it served.

use casemate_ipc::id::{TenantName, Version};
use casemate_ipc::launch::{GraphPolicy, RunTimeCode};
use casemate_ipc::work::{MAX_BATCH_DELAY_US, MAX_BATCH_SIZE, MAX_DEADLINE_MS};

use crate::tenant::Spawn;

/// What is said about one model, or about all that nothing is said about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Which versions to serve.
    pub versions: Versions,
    /// Threads that one operator may use.
    pub threads: u32,
    /// Batches that one worker runs at once, over one copy of the weights.
    pub instances: u32,
    /// Worker processes.
    pub workers: u32,
    /// CPUs, by number, that they keep to; all that there are where there is none.
    pub cores: Vec<u32>,
    /// Bytes of memory that a worker may take for its data.
    pub memory_bytes: u64,
    /// Whether machine code may be made while the model runs.
    pub run_time_code: RunTimeCode,
    /// Thousandths of a CPU's time that a worker may use; nothing where it is not bounded.
    pub cpu_millis: Option<u32>,
    /// Which operators it may use.
    pub graph: GraphPolicy,
    /// Bounds on what its manifest asks for.
    pub caps: Caps,
    /// Whose it is; nothing where it is a tenant of its own.
    pub tenant: Option<TenantName>,
    /// How its workers come to be.
    pub spawn: Spawn,
}

/// The operator's bounds on what a manifest asks for: of the two the smaller holds. As large as can be where nothing is
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Most rows in one run.
    pub batch_size: u32,
    /// Longest that a request may wait for company, in milliseconds.
    pub batch_delay_ms: u64,
    /// Longest that a request may take, in milliseconds.
    pub deadline_ms: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { batch_size: MAX_BATCH_SIZE, batch_delay_ms: MAX_BATCH_DELAY_US / 1000, deadline_ms: MAX_DEADLINE_MS }
    }
}

/// Which versions of a model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versions {
    /// The newest in the store.
    Latest,
    /// All that are in the store.
    All,
    /// These; one that is missing is an error.
    Listed(Vec<Version>),
}
