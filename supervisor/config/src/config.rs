//! The checked config; [`Config::parse`] is its only constructor.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use casemate_ipc::cores;
use casemate_ipc::id::ModelName;
use casemate_ipc::launch::{Geometry, GraphPolicy, RunTimeCode};
use casemate_ipc::layer::Waiver;
use thiserror::Error;

pub use crate::identities::Identities;
use crate::limits::{LimitError, Limits};
use crate::listen::{self, ListenError};
use crate::model::{Caps, ModelConfig, Versions};
use crate::raw::{Raw, RawGraph, RawModel, RawPolicy, RawVersions};
use crate::tenant::{Renewal, Spawn, Tenant};

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The model store, absolute.
    pub store: PathBuf,
    /// The inference API.
    pub inference: SocketAddr,
    /// Whether a request may ask where its time went.
    pub trace: bool,
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
    /// Which operators models may use of which nothing else is said.
    pub graph: GraphPolicy,
    /// How workers come to be of which nothing else is said.
    pub spawn: Spawn,
    /// How zygotes are renewed.
    pub renewal: Renewal,
}

/// Why a text is not a config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, a value of another type.
    #[error(transparent)]
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
    /// When zygotes are renewed.
    #[error("sandbox.{key} = {found} must be {least} to {most}")]
    Renewal {
        /// Which key.
        key: &'static str,
        /// What was written.
        found: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
    /// A model that may make code, from a zygote.
    #[error(
        "models.{0}: spawn = \"zygote\" and run_time_code = \"allowed\" do not go together: a worker that may make code has \
         addresses of its own"
    )]
    ZygoteCode(ModelName),
    /// A word that is none.
    #[error("models.{model}.versions = {word:?}; write \"latest\", \"all\" or a list")]
    Versions {
        /// Which model.
        model: ModelName,
        /// What was written.
        word: String,
    },
    /// An operator's name that is none.
    #[error(
        "extra_ops: {0:?} is no operator's name, such as \"aten::relu\" or \"quantized::*\"; at most {MAX_EXTRA_OPS} are allowed"
    )]
    ExtraOp(String),
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
    /// A model's CPUs by number.
    #[error("models.{model}.cores names CPU {core}{why}")]
    Cores {
        /// Which model.
        model: ModelName,
        /// Which CPU.
        core: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More threads than one worker may have.
    #[error("models.{model}: {instances} instances of {threads} threads each; a worker may have {THREADS_MOST} in all")]
    Threads {
        /// Which model.
        model: ModelName,
        /// Instances of one worker.
        instances: u32,
        /// Threads of each.
        threads: u32,
    },
    /// A model's CPU time.
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
/// Most operators that `extra_ops` may name.
pub const MAX_EXTRA_OPS: usize = 64;

/// Most batches that one worker runs at once.
pub const INSTANCES_MOST: u64 = 64;
/// Most workers of one model that serve at once.
pub const WORKERS_MOST: u64 = 16;
/// Most threads of one worker where it has several instances.
const THREADS_MOST: u32 = 256;

impl Config {
    /// Reads a config file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text)?;
        let store = PathBuf::from(&raw.store);
        if !store.is_absolute() {
            return Err(ConfigError::Store(raw.store));
        }
        let limits = Limits::from_raw(&raw.limits)?;
        let graph = check_graph(raw.graph)?;
        let spawn = raw.sandbox.spawn;
        let models = raw.models.into_iter().map(|(name, model)| {
            let checked = check_model(&name, model, defaults(&limits, &graph, spawn))?;
            Ok((name, checked))
        });
        let mut waived = raw.sandbox.accept_missing.clone();
        waived.sort_unstable();
        waived.dedup();
        Ok(Self {
            store,
            inference: listen::loopback("inference", &raw.listen.inference)?,
            trace: raw.listen.trace,
            waived,
            identities: Identities::check(&raw.sandbox)?,
            models: models.collect::<Result<_, ConfigError>>()?,
            limits,
            only_listed: raw.only_listed,
            graph,
            spawn,
            renewal: Renewal::check(&raw.sandbox)?,
        })
    }

    /// What is said about a model, or the defaults.
    pub fn model(&self, name: &ModelName) -> ModelConfig {
        self.models.get(name).cloned().unwrap_or_else(|| self.any())
    }

    /// What holds for a model of which nothing is said.
    pub fn any(&self) -> ModelConfig {
        defaults(&self.limits, &self.graph, self.spawn)
    }

    /// Whose a model is.
    pub fn tenant(&self, name: &ModelName) -> Tenant {
        let named = self.models.get(name).and_then(|model| model.tenant.clone());
        named.map_or_else(|| Tenant::Alone(name.clone()), Tenant::Named)
    }

    /// The request arena of a worker of one instance.
    pub fn requests(&self) -> Geometry {
        Geometry { slots: slots(1), slot_bytes: slot(self.limits.request_bytes) }
    }

    /// The response arena of a worker of one instance.
    pub fn responses(&self) -> Geometry {
        Geometry { slots: slots(1), slot_bytes: slot(self.limits.response_bytes) }
    }

    /// The request arena of a worker of this model.
    pub fn requests_of(&self, model: &ModelConfig) -> Geometry {
        Geometry { slots: slots(model.instances), ..self.requests() }
    }

    /// The response arena of a worker of this model.
    pub fn responses_of(&self, model: &ModelConfig) -> Geometry {
        Geometry { slots: slots(model.instances), ..self.responses() }
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

/// Slots of an arena: one for each batch that runs, and one for the next that is being written.
const fn slots(instances: u32) -> u32 {
    instances.saturating_add(1)
}

/// A slot's bytes: what may come, room to align each tensor, whole pages.
fn slot(bytes: u64) -> u64 {
    const PAGE: u64 = 4096;
    (bytes + 2 * PAGE).next_multiple_of(PAGE)
}

fn defaults(limits: &Limits, graph: &GraphPolicy, spawn: Spawn) -> ModelConfig {
    let threads = u32::try_from(limits.threads).unwrap_or(1);
    ModelConfig {
        versions: Versions::Latest,
        threads,
        instances: 1,
        workers: 1,
        cores: Vec::new(),
        memory_bytes: limits.worker_memory_mib << 20,
        run_time_code: RunTimeCode::Refused,
        cpu_millis: one_cpu_each(threads, 1),
        graph: graph.clone(),
        caps: Caps::default(),
        tenant: None,
        spawn,
    }
}

/// What is written must be a bound that a manifest could ask for.
fn check_caps(name: &ModelName, raw: &RawModel) -> Result<Caps, ConfigError> {
    let any = Caps::default();
    let bounded = |key, found: Option<u64>, least, most| match found {
        Some(found) if !(least..=most).contains(&found) => {
            Err(ConfigError::Model { model: name.clone(), key, found, least, most })
        }
        found => Ok(found.unwrap_or(most)),
    };
    let batch_size = bounded("max_batch_size", raw.max_batch_size.map(u64::from), 1, any.batch_size.into())?;
    Ok(Caps {
        batch_size: u32::try_from(batch_size).unwrap_or(any.batch_size),
        batch_delay_ms: bounded("max_batch_delay_ms", raw.max_batch_delay_ms, 0, any.batch_delay_ms)?,
        deadline_ms: bounded("deadline_ms", raw.deadline_ms, 1, any.deadline_ms)?,
    })
}

/// What a model needs to keep its threads busy, and no more.
const fn one_cpu_each(threads: u32, instances: u32) -> Option<u32> {
    Some(threads.saturating_mul(instances).saturating_mul(1000))
}

fn check_cores(name: &ModelName, cores: Vec<u32>) -> Result<Vec<u32>, ConfigError> {
    let fault = |core, why| Err(ConfigError::Cores { model: name.clone(), core, why });
    let mut seen = BTreeSet::new();
    for core in &cores {
        if *core > cores::MOST {
            return fault(*core, "; 1023 is the last that can be named");
        }
        if !seen.insert(*core) {
            return fault(*core, " twice");
        }
    }
    Ok(cores)
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

/// Names as the gate compares them: printable, short, few.
fn check_graph(raw: RawGraph) -> Result<GraphPolicy, ConfigError> {
    let RawGraph { policy, extra_ops } = raw;
    let sound = |name: &String| {
        let body = name.strip_suffix('*').unwrap_or(name);
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
        (3..=128).contains(&name.len()) && body.len() >= 3 && body.chars().all(word)
    };
    if let Some(name) = extra_ops.iter().find(|name| !sound(name)).or(extra_ops.get(MAX_EXTRA_OPS)) {
        return Err(ConfigError::ExtraOp(name.chars().take(64).collect()));
    }
    Ok(GraphPolicy { open: policy == RawPolicy::Open, extra_ops })
}

fn check_model(name: &ModelName, raw: RawModel, defaults: ModelConfig) -> Result<ModelConfig, ConfigError> {
    let within = |key: &'static str, found: u64, least: u64, most: u64| {
        if (least..=most).contains(&found) {
            Ok(found)
        } else {
            Err(ConfigError::Model { model: name.clone(), key, found, least, most })
        }
    };
    let bounded = |key: &'static str, limit: &str, found: u64| {
        let (least, most) = Limits::TABLE.iter().find(|l| l.name == limit).map_or((1, 1), |l| (l.least, l.most));
        within(key, found, least, most)
    };
    let caps = check_caps(name, &raw)?;
    let ModelConfig { mut versions, mut threads, mut memory_bytes, mut cpu_millis, mut graph, mut spawn, .. } =
        defaults;
    let (instances, workers) = (raw.instances.unwrap_or(1), raw.workers.unwrap_or(1));
    within("instances", instances.into(), 1, INSTANCES_MOST)?;
    within("workers", workers.into(), 1, WORKERS_MOST)?;
    if let Some(written) = raw.graph {
        graph = check_graph(written)?;
    }
    if let Some(written) = raw.threads {
        bounded("threads", "threads", written.into())?;
        threads = written;
    }
    if instances > 1 && threads.saturating_mul(instances) > THREADS_MOST {
        return Err(ConfigError::Threads { model: name.clone(), instances, threads });
    }
    if raw.threads.is_some() || instances > 1 {
        cpu_millis = one_cpu_each(threads, instances);
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
    let (tenant, cores, run_time_code) = (raw.tenant, check_cores(name, raw.cores)?, raw.run_time_code);
    match (raw.spawn, run_time_code) {
        (Some(Spawn::Zygote), RunTimeCode::Allowed) => return Err(ConfigError::ZygoteCode(name.clone())),
        // What is said for all holds for those that it can hold for.
        (None, RunTimeCode::Allowed) => spawn = Spawn::Exec,
        (None, RunTimeCode::Refused) => {}
        (Some(written), _) => spawn = written,
    }
    Ok(ModelConfig {
        versions,
        threads,
        instances,
        workers,
        cores,
        memory_bytes,
        cpu_millis,
        run_time_code,
        graph,
        caps,
        tenant,
        spawn,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            "store = \"/s\"\n[models.a]\nmax_batch_size = 0",
            "store = \"/s\"\n[models.a]\nmax_batch_size = 4097",
            "store = \"/s\"\n[models.a]\nmax_batch_delay_ms = 1001",
            "store = \"/s\"\n[models.a]\ndeadline_ms = 0",
            "store = \"/s\"\n[models.a]\ncpus = 0.01",
            "store = \"/s\"\n[models.a]\ncpus = -1",
            "store = \"/s\"\n[models.a]\ncpus = nan",
            "store = \"/s\"\n[models.a]\ncpus = inf",
            "store = \"/s\"\n[models.a]\ncpus = 1025",
            "store = \"/s\"\n[sandbox]\nuid_rest_s = 604801",
            "store = \"/s\"\n[graph]\npolicy = \"off\"",
            "store = \"/s\"\n[graph]\nextra_ops = [\"*\"]",
            "store = \"/s\"\n[graph]\nextra_ops = [\"aten::a b\"]",
            "store = \"/s\"\n[models.a.graph]\narchive = false",
            "store = \"/s\"\n[models.a]\ntenant = \"a/b\"",
            "store = \"/s\"\n[models.a]\ntenant = \"\"",
            "store = \"/s\"\n[models.a]\nspawn = \"fork\"",
            "store = \"/s\"\n[models.a]\nspawn = \"zygote\"\nrun_time_code = \"allowed\"",
            "store = \"/s\"\n[sandbox]\nspawn = true",
            "store = \"/s\"\n[sandbox]\nzygote_births = 0",
            "store = \"/s\"\n[sandbox]\nzygote_births = 201",
            "store = \"/s\"\n[sandbox]\nzygote_age_s = 9",
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
        let (cpu_millis, graph, caps) = (Some(4000), GraphPolicy::default(), Caps::default());
        let (instances, workers, cores) = (1, 1, Vec::new());
        let expected = ModelConfig {
            versions,
            threads: 4,
            instances,
            workers,
            cores,
            memory_bytes,
            cpu_millis,
            run_time_code,
            graph,
            caps,
            tenant: None,
            spawn: Spawn::Exec,
        };
        assert_eq!(model, expected);
        let text = "store = \"/s\"\n[models.a]\nmax_batch_size = 4\nmax_batch_delay_ms = 0\ndeadline_ms = 500";
        let capped = Config::parse(text).unwrap().model(&"a".parse().unwrap()).caps;
        assert_eq!(capped, Caps { batch_size: 4, batch_delay_ms: 0, deadline_ms: 500 });
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

    #[test]
    fn instances_and_workers_have_bounds_and_say_them() {
        let of = |lines: &str| {
            let config = Config::parse(&format!("store = \"/s\"\n[models.a]\n{lines}"));
            config.map(|config| (config.model(&"a".parse().unwrap()), config))
        };
        let (model, config) = of("instances = 3\nworkers = 2\nthreads = 2\ncores = [2, 0, 1]").unwrap();
        assert_eq!((model.instances, model.workers, &*model.cores), (3, 2, &[2, 0, 1][..]));
        assert_eq!(model.cpu_millis, Some(6000), "a CPU for each thread of each instance");
        assert_eq!((config.requests_of(&model).slots, config.responses_of(&model).slots), (4, 4));
        assert_eq!((config.requests().slots, config.any().instances, config.any().workers), (2, 1, 1));
        assert_eq!(of("instances = 64\nworkers = 16\ncores = [1023]").unwrap().0.instances, 64);
        for (lines, says) in [
            ("instances = 0", "models.a.instances = 0 must be 1 to 64"),
            ("instances = 65", "models.a.instances = 65 must be 1 to 64"),
            ("workers = 0", "models.a.workers = 0 must be 1 to 16"),
            ("workers = 17", "models.a.workers = 17 must be 1 to 16"),
            ("instances = 2\nthreads = 200", "models.a: 2 instances of 200 threads each; a worker may have 256 in all"),
            ("cores = [1, 1]", "models.a.cores names CPU 1 twice"),
            ("cores = [1024]", "models.a.cores names CPU 1024; 1023 is the last that can be named"),
        ] {
            assert_eq!(of(lines).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_model_has_a_tenant_and_a_way_to_start() {
        let text = "store = \"/s\"\n[sandbox]\nspawn = \"zygote\"\n[models.a]\ntenant = \"t\"\n[models.b]\ntenant = \"t\"\nspawn = \
                    \"exec\"\n[models.c]\nrun_time_code = \"allowed\"";
        let config = Config::parse(text).unwrap();
        let of = |name: &str| {
            let name = name.parse().unwrap();
            (config.tenant(&name), config.model(&name).spawn)
        };
        let named = Tenant::Named("t".parse().unwrap());
        assert_eq!(of("a"), (named.clone(), Spawn::Zygote));
        assert_eq!(of("b"), (named.clone(), Spawn::Exec));
        assert_eq!(of("c").1, Spawn::Exec, "what may make code has addresses of its own");
        let alone = of("t");
        assert_eq!(alone, (Tenant::Alone("t".parse().unwrap()), Spawn::Zygote));
        assert_ne!(alone.0, named, "a model is no tenant by its name");
        assert_eq!(Config::parse("store = \"/s\"").unwrap().any().spawn, Spawn::Exec);
    }

    #[test]
    fn the_policy_on_operators_is_strict_and_a_model_may_have_its_own() {
        let of = |text: &str, model: &str| {
            Config::parse(&format!("store = \"/s\"\n{text}")).unwrap().model(&model.parse().unwrap()).graph
        };
        assert_eq!(of("", "a"), GraphPolicy::default());
        let text = "[graph]\npolicy = \"open\"\n[models.a]\ngraph = { extra_ops = [\"quantized::*\"] }";
        assert_eq!(of(text, "a"), GraphPolicy { open: false, extra_ops: vec!["quantized::*".into()] });
        assert_eq!(of(text, "b"), GraphPolicy { open: true, extra_ops: Vec::new() });
    }
}
