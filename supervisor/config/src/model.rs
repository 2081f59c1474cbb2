//! One model as the operator wants it served.

use casemate_ipc::id::{TenantName, Version};
use casemate_ipc::launch::{GraphPolicy, RunTimeCode};

use crate::tenant::Spawn;

/// What is said about one model, or about all that nothing is said about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Which versions to serve.
    pub versions: Versions,
    /// Threads that one operator may use.
    pub threads: u32,
    /// Bytes of memory that a worker may take for its data.
    pub memory_bytes: u64,
    /// Whether machine code may be made while the model runs.
    pub run_time_code: RunTimeCode,
    /// Thousandths of a CPU's time that a worker may use; nothing where it is not bounded.
    pub cpu_millis: Option<u32>,
    /// Which operators it may use.
    pub graph: GraphPolicy,
    /// Whose it is; nothing where it is a tenant of its own.
    pub tenant: Option<TenantName>,
    /// How its workers come to be.
    pub spawn: Spawn,
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
