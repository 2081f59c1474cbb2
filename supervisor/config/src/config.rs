//! The checked config; [`Config::parse`] is its only constructor.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_ipc::id::ModelName;
use casemate_ipc::launch::{Geometry, RunTimeCode};
use casemate_ipc::layer::Waiver;
use thiserror::Error;

use crate::limits::{LimitError, Limits};
use crate::listen::{self, ListenError};
use crate::model::{ModelConfig, Versions};
use crate::raw::{Raw, RawModel, RawSandbox, RawVersions};

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The model store, absolute.
    pub store: PathBuf,
    /// The inference API.
    pub inference: SocketAddr,
    /// Layers that the operator goes without.
    pub waived: Vec<Waiver>,
    /// Who the processes are, where the launcher is root.
    pub identities: Identities,
    /// The limits in force.
    pub limits: Limits,
    /// What is said about single models.
    pub models: BTreeMap<ModelName, ModelConfig>,
    /// Serve only those.
    pub only_listed: bool,
}

/// Who the processes are, where the launcher is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identities {
    /// Uid and gid of the front.
    pub front: u32,
    /// First uid and gid for workers.
    pub worker_first: u32,
    /// How many.
    pub worker_count: u32,
    /// How long a worker's uid stays unused after its end.
    pub rest: Duration,
}

/// Why a text is not a config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, a value of another type.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// The store's path.
    #[error("store = {0:?} must be an absolute path")]
    Store(String),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The uids.
    #[error("sandbox.{key}: {why}")]
    Identity {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A word that is none.
    #[error("models.{model}.versions = {word:?}; write \"latest\", \"all\" or a list")]
    Versions {
        /// Which model.
        model: ModelName,
        /// What was written.
        word: String,
    },
    /// A model's own limit.
    #[error("models.{model}.{key} = {found} must be {least} to {most}")]
    Model {
        /// Which model.
        model: ModelName,
        /// Which key.
        key: &'static str,
        /// What was written.
        found: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// A model's CPUs.
    #[error("models.{model}.cpus = {found} must be 0 (as many as there are) or {CPUS_LEAST} to {CPUS_MOST}")]
    Cpus {
        /// Which model.
        model: ModelName,
        /// What was written.
        found: f64,
    },
}

/// Least CPU time of a worker: less would not get it through its start.
const CPUS_LEAST: f64 = 0.05;
const CPUS_MOST: f64 = 1024.0;

/// Slots of an arena: one batch runs while the next is being written.
pub const SLOTS: u32 = 2;

impl Config {
    /// Reads a config file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text)?;
        let store = PathBuf::from(&raw.store);
        if !store.is_absolute() {
            return Err(ConfigError::Store(raw.store));
        }
        let limits = Limits::from_raw(&raw.limits)?;
        let models = raw.models.into_iter().map(|(name, model)| {
            let checked = check_model(&name, model, &limits)?;
            Ok((name, checked))
        });
        let mut waived = raw.sandbox.accept_missing.clone();
        waived.sort_unstable();
        waived.dedup();
        Ok(Self {
            store,
            inference: listen::loopback("inference", &raw.listen.inference)?,
            waived,
            identities: check_identities(&raw.sandbox)?,
            models: models.collect::<Result<_, ConfigError>>()?,
            limits,
            only_listed: raw.only_listed,
        })
    }

    /// What is said about a model, or the defaults.
    pub fn model(&self, name: &ModelName) -> ModelConfig {
        self.models.get(name).cloned().unwrap_or_else(|| defaults(&self.limits))
    }

    /// The request arena of every worker.
    pub fn requests(&self) -> Geometry {
        Geometry { slots: SLOTS, slot_bytes: slot(self.limits.request_bytes) }
    }

    /// The response arena of every worker.
    pub fn responses(&self) -> Geometry {
        Geometry { slots: SLOTS, slot_bytes: slot(self.limits.response_bytes) }
    }

    /// Whether the operator goes without a layer.
    pub fn waives(&self, waiver: Waiver) -> bool {
        self.waived.contains(&waiver)
    }

    /// The store's folder.
    pub fn store(&self) -> &Path {
        &self.store
    }
}

/// A slot's bytes: what may come, room to align each tensor, whole pages.
fn slot(bytes: u64) -> u64 {
    const PAGE: u64 = 4096;
    (bytes + 2 * PAGE).next_multiple_of(PAGE)
}

fn defaults(limits: &Limits) -> ModelConfig {
    let threads = u32::try_from(limits.threads).unwrap_or(1);
    ModelConfig {
        versions: Versions::Latest,
        threads,
        memory_bytes: limits.worker_memory_mib << 20,
        run_time_code: RunTimeCode::Refused,
        cpu_millis: one_cpu_each(threads),
    }
}

/// What a model needs to keep its threads busy, and no more.
const fn one_cpu_each(threads: u32) -> Option<u32> {
    Some(threads.saturating_mul(1000))
}

fn check_cpus(name: &ModelName, found: f64) -> Result<Option<u32>, ConfigError> {
    if found == 0.0 {
        return Ok(None);
    }
    if !(CPUS_LEAST..=CPUS_MOST).contains(&found) {
        return Err(ConfigError::Cpus { model: name.clone(), found });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the bounds above")]
    Ok(Some((found * 1000.0).round() as u32))
}

fn check_model(name: &ModelName, raw: RawModel, limits: &Limits) -> Result<ModelConfig, ConfigError> {
    let bounded = |key: &'static str, limit: &str, found: u64| {
        let (least, most) = Limits::TABLE.iter().find(|l| l.name == limit).map_or((1, 1), |l| (l.least, l.most));
        if (least..=most).contains(&found) {
            Ok(found)
        } else {
            Err(ConfigError::Model { model: name.clone(), key, found, least, most })
        }
    };
    let ModelConfig { mut versions, mut threads, mut memory_bytes, mut cpu_millis, .. } = defaults(limits);
    if let Some(written) = raw.threads {
        bounded("threads", "threads", written.into())?;
        threads = written;
        cpu_millis = one_cpu_each(threads);
    }
    if let Some(written) = raw.cpus {
        cpu_millis = check_cpus(name, written)?;
    }
    if let Some(written) = raw.memory_mib {
        memory_bytes = bounded("memory_mib", "worker_memory_mib", written)? << 20;
    }
    match raw.versions {
        None => {}
        Some(RawVersions::List(list)) => versions = Versions::Listed(list),
        Some(RawVersions::Word(word)) => match word.as_str() {
            "latest" => versions = Versions::Latest,
            "all" => versions = Versions::All,
            _ => return Err(ConfigError::Versions { model: name.clone(), word: word.chars().take(32).collect() }),
        },
    }
    Ok(ModelConfig { versions, threads, memory_bytes, cpu_millis, run_time_code: raw.run_time_code })
}

const UID_REST_MOST: u64 = 604_800;

fn check_identities(raw: &RawSandbox) -> Result<Identities, ConfigError> {
    let fault = |key, why| Err(ConfigError::Identity { key, why });
    let RawSandbox { accept_missing: _, front_uid, worker_uid_first, worker_uid_count, uid_rest_s } = *raw;
    // 65534 is what the kernel shows for every uid that a namespace does not know; u32::MAX means "leave it".
    let reserved = |uid: u32| uid < 1000 || uid == 65_534 || uid == u32::MAX;
    if reserved(front_uid) {
        return fault("front_uid", "uids below 1000, 65534 and 4294967295 belong to others");
    }
    if worker_uid_count == 0 {
        return fault("worker_uid_count", "at least one is needed");
    }
    let Some(last) = worker_uid_first.checked_add(worker_uid_count - 1) else {
        return fault("worker_uid_count", "the range passes the largest uid");
    };
    if reserved(worker_uid_first) || reserved(last) || (worker_uid_first..=last).contains(&65_534) {
        return fault("worker_uid_first", "uids below 1000, 65534 and 4294967295 belong to others");
    }
    if (worker_uid_first..=last).contains(&front_uid) {
        return fault("front_uid", "the front must not share a uid with a worker");
    }
    if uid_rest_s > UID_REST_MOST {
        return fault("uid_rest_s", "a week (604800) is the most");
    }
    let rest = Duration::from_secs(uid_rest_s);
    Ok(Identities { front: front_uid, worker_first: worker_uid_first, worker_count: worker_uid_count, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_safe_ones() {
        let config = Config::parse("store = \"/srv/models\"").unwrap();
        assert_eq!(config.inference.to_string(), "127.0.0.1:8080");
        assert!(config.waived.is_empty());
        assert_eq!(config.identities.rest, Duration::from_secs(600));
        assert_eq!(config.limits, Limits::default());
        let any = config.model(&"any".parse().unwrap());
        assert_eq!((any.versions, any.run_time_code), (Versions::Latest, RunTimeCode::Refused));
    }

    #[test]
    fn every_spoilt_config_is_refused() {
        let bad = [
            "",
            "store = \"relative\"",
            "store = \"/s\"\nstroe = 1",
            "store = \"/s\"\n[listen]\ninference = \"0.0.0.0:80\"",
            "store = \"/s\"\n[sandbox]\naccept_missing = [\"seccomp\"]",
            "store = \"/s\"\n[sandbox]\naccept_missing = [\"no-new-privileges\"]",
            "store = \"/s\"\n[sandbox]\nfront_uid = 0",
            "store = \"/s\"\n[sandbox]\nfront_uid = 1879100001",
            "store = \"/s\"\n[sandbox]\nworker_uid_count = 0",
            "store = \"/s\"\n[sandbox]\nworker_uid_first = 0",
            "store = \"/s\"\n[sandbox]\nworker_uid_first = 4294967290",
            "store = \"/s\"\n[sandbox]\nworker_uid_first = 65000",
            "store = \"/s\"\n[limits]\nqueue = 0",
            "store = \"/s\"\n[limits]\nnone = 1",
            "store = \"/s\"\n[models.\"a/b\"]\nthreads = 1",
            "store = \"/s\"\n[models.a]\nthreads = 0",
            "store = \"/s\"\n[models.a]\nversions = \"newest\"",
            "store = \"/s\"\n[models.a]\nmemory_mib = 1",
            "store = \"/s\"\n[models.a]\nrun_time_code = \"yes\"",
            "store = \"/s\"\n[models.a]\nrun_time_code = true",
            "store = \"/s\"\n[limits]\nrun_time_code = 1",
            "store = \"/s\"\n[models.a]\ncpus = 0.01",
            "store = \"/s\"\n[models.a]\ncpus = -1",
            "store = \"/s\"\n[models.a]\ncpus = nan",
            "store = \"/s\"\n[models.a]\ncpus = inf",
            "store = \"/s\"\n[models.a]\ncpus = 1025",
            "store = \"/s\"\n[sandbox]\nuid_rest_s = 604801",
        ];
        for text in bad {
            assert!(Config::parse(text).is_err(), "{text:?} passed");
        }
    }

    #[test]
    fn a_model_may_differ() {
        let text = "store = \"/s\"\n[models.a]\nversions = [\"1\", \"2\"]\nthreads = 4\nmemory_mib = 128\nrun_time_code = \"allowed\"";
        let model = Config::parse(text).unwrap().model(&"a".parse().unwrap());
        let versions = Versions::Listed(vec!["1".parse().unwrap(), "2".parse().unwrap()]);
        let memory_bytes = 128 << 20;
        let run_time_code = RunTimeCode::Allowed;
        let expected = ModelConfig { versions, threads: 4, memory_bytes, cpu_millis: Some(4000), run_time_code };
        assert_eq!(model, expected);
        let cpus = |line: &str| {
            let text = format!("store = \"/s\"\n[limits]\nthreads = 3\n[models.a]\n{line}");
            Config::parse(&text).unwrap().model(&"a".parse().unwrap()).cpu_millis
        };
        assert_eq!(cpus("cpus = 1"), Some(1000));
        assert_eq!(cpus("cpus = 0.5"), Some(500));
        assert_eq!(cpus("cpus = 0"), None);
        assert_eq!(cpus(""), Some(3000));
        assert_eq!(cpus("threads = 2"), Some(2000));
    }
}
