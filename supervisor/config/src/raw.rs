//! The config file, field for field. Unknown keys are refused: a misspelt limit must not be a missing one.

use std::collections::BTreeMap;

use casemate_ipc::id::{ModelName, TenantName, Version};
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::Waiver;
use serde::Deserialize;

use crate::tenant::Spawn;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The model store: `STORE/<model>/<version>/{model.pt, model.toml}`.
    pub store: String,
    /// Where to listen.
    #[serde(default)]
    pub listen: RawListen,
    /// The cage.
    #[serde(default)]
    pub sandbox: RawSandbox,
    /// Which operators models may use.
    #[serde(default)]
    pub graph: RawGraph,
    /// Limits by name; see `limits.rs`.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// Models that differ from the defaults, or (where `only_listed`) the models to serve.
    #[serde(default)]
    pub models: BTreeMap<ModelName, RawModel>,
    /// Serve only the models that have a table here, not everything in the store.
    #[serde(default)]
    pub only_listed: bool,
}

/// `[listen]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    /// Address and port of the inference API.
    pub inference: String,
    /// Whether a request may ask where its time went.
    pub trace: bool,
}

/// `[sandbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSandbox {
    /// Layers that this host lacks and the operator goes without.
    pub accept_missing: Vec<Waiver>,
    /// The front's uid and gid, as root.
    pub front_uid: u32,
    /// The first uid (and gid) for workers, as root.
    pub worker_uid_first: u32,
    /// How many uids, counted from the first.
    pub worker_uid_count: u32,
    /// Seconds that a worker's uid stays unused after its end.
    pub uid_rest_s: u64,
    /// How workers come to be, where a model does not say otherwise.
    pub spawn: Spawn,
    /// Most workers that one zygote bears before it is renewed.
    pub zygote_births: u32,
    /// Seconds after which a zygote is renewed.
    pub zygote_age_s: u64,
}

/// `[models.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawModel {
    /// Which versions to serve; the newest where nothing is said.
    pub versions: Option<RawVersions>,
    /// Threads that one operator may use.
    pub threads: Option<u32>,
    /// Batches that one worker runs at once.
    pub instances: Option<u32>,
    /// Worker processes.
    pub workers: Option<u32>,
    /// CPUs, by number, that its workers keep to.
    pub cores: Vec<u32>,
    /// Memory that a worker may use, in MiB.
    pub memory_mib: Option<u64>,
    /// Whether the operator trusts this model so far that machine code may be made while it runs.
    pub run_time_code: RunTimeCode,
    /// CPUs' worth of time that a worker may use; 0 is as many as there are.
    pub cpus: Option<f64>,
    /// Which operators it may use, in place of what is said for all.
    pub graph: Option<RawGraph>,
    /// Most rows in one run, whatever its manifest says.
    pub max_batch_size: Option<u32>,
    /// Longest that a request may wait for company, whatever its manifest says.
    pub max_batch_delay_ms: Option<u64>,
    /// Longest that a request may take, whatever its manifest says.
    pub deadline_ms: Option<u64>,
    /// Whose it is.
    pub tenant: Option<TenantName>,
    /// How its workers come to be.
    pub spawn: Option<Spawn>,
}

/// `[graph]`, and `graph` of a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGraph {
    /// `strict` or `open`.
    pub policy: RawPolicy,
    /// Operators that are allowed whatever the lists say.
    pub extra_ops: Vec<String>,
}

/// How much a model may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RawPolicy {
    /// Only what is on the list.
    #[default]
    Strict,
    /// All but what is denied.
    Open,
}

/// `"latest"`, `"all"`, or a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawVersions {
    /// A word.
    Word(String),
    /// These.
    List(Vec<Version>),
}

impl Default for RawListen {
    fn default() -> Self {
        Self { inference: "127.0.0.1:8080".to_owned(), trace: false }
    }
}

impl Default for RawSandbox {
    /// Above what systemd gives to containers (1,879,048,191) and below 2^31: its documentation lists these as unused.
    fn default() -> Self {
        Self {
            accept_missing: Vec::new(),
            front_uid: 1_879_100_000,
            worker_uid_first: 1_879_100_001,
            worker_uid_count: 4096,
            uid_rest_s: 600,
            spawn: Spawn::Exec,
            zygote_births: 32,
            zygote_age_s: 3600,
        }
    }
}
