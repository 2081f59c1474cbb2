//! Every number that is published. Labels are names that were checked ([`ModelId`]) or words of our own.

use std::sync::Arc;
use std::time::Duration;

use casemate_ipc::id::ModelId;
use casemate_ipc::layer::{Layer, Reading};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::refusal::Kind;
use crate::status::State;

/// The registry and what is in it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

/// The numbers of one model that every request moves, looked up once: a look-up by labels copies their texts.
#[derive(Debug, Clone)]
pub struct Served {
    metrics: Metrics,
    labels: Model,
    ok: Counter,
    duration: Histogram,
    queue: Histogram,
    run: Histogram,
    batch: Histogram,
}

/// A request that is being answered; counted until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct InFlight(Gauge);

/// The numbers of one worker, to be written without a look-up.
#[derive(Debug, Default)]
pub struct WorkerNumbers {
    /// 1 while it serves.
    pub ready: Gauge,
    /// Batches that it was given.
    pub batches: Counter,
    /// Batches that it has.
    pub busy: Gauge,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    duration: Family<Model, Histogram>,
    queue: Family<Model, Histogram>,
    run: Family<Model, Histogram>,
    batch: Family<Model, Histogram>,
    in_flight: Gauge,
    bytes_in: Counter,
    bytes_out: Counter,
    refused: Family<Code, Counter>,
    worker_starts: Family<Model, Counter>,
    worker_exits: Family<Exit, Counter>,
    worker_ready: Family<OfWorker, Gauge>,
    worker_batches: Family<OfWorker, Counter>,
    worker_busy: Family<OfWorker, Gauge>,
    log_dropped: Family<Model, Counter>,
    state: Family<InState, Gauge>,
    violations: Family<Breach, Counter>,
    refusals: Family<AtStep, Counter>,
    opened: Family<Model, Counter>,
    in_force: Family<OfLayer, Gauge>,
    landlock: Family<Model, Gauge>,
    models: Family<Belonging, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Belonging {
    model: String,
    version: String,
    tenant: String,
    spawn: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    model: String,
    version: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exit {
    model: String,
    version: String,
    cause: &'static str,
}

/// By its place among the model's workers: ids grow without end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWorker {
    model: String,
    version: String,
    worker: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    model: String,
    version: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Breach {
    model: String,
    version: String,
    layer: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtStep {
    model: String,
    version: String,
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLayer {
    model: String,
    version: String,
    layer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

// === impl Metrics ===

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        r.register("casemate", "This build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self(Arc::new(Inner {
            requests: add(r, "requests", "Inferences by outcome: ok, or why not", Family::default()),
            duration: seconds(r, "request_duration", "From a request's head to its answer"),
            queue: seconds(r, "queue_duration", "From a request's admission until its batch left"),
            run: seconds(r, "run_duration", "Runs of a model, as the front sees them"),
            batch: add(r, "batch_rows", "Rows in a run", Family::new_with_constructor(|| Histogram::new(ROWS))),
            in_flight: add(
                r,
                "requests_in_flight",
                "Inferences being read, waiting, run or answered",
                Gauge::default(),
            ),
            bytes_in: bytes(r, "request", "Bodies of requests", Counter::default()),
            bytes_out: bytes(r, "response", "Bodies of answers to inferences", Counter::default()),
            refused: add(r, "refused", "Requests refused before a model was known", Family::default()),
            worker_starts: add(r, "worker_starts", "Workers that were started", Family::default()),
            worker_exits: add(r, "worker_exits", "Workers that ended, by cause", Family::default()),
            worker_ready: add(
                r,
                "worker_ready",
                "1 for a worker that serves, by its place among the workers of its model",
                Family::default(),
            ),
            worker_batches: add(r, "worker_batches", "Batches that the worker in a place was given", Family::default()),
            worker_busy: add(r, "worker_busy", "Batches that the worker in a place has now", Family::default()),
            log_dropped: bytes(
                r,
                "worker_log_dropped",
                "Printed by workers beyond what the log takes",
                Family::default(),
            ),
            state: add(r, "model_state", "1 for the state that a model is in, 0 for the others", Family::default()),
            violations: add(r, "violations", "What layers refused or ended, by layer and cause", Family::default()),
            refusals: add(r, "model_refusals", "Models that their worker refused, by its step", Family::default()),
            opened: add(r, "breaker_opened", "Times that deaths of workers opened the breaker", Family::default()),
            in_force: add(
                r,
                "layer_in_force",
                "1 for a layer that the kernel confirms from outside for every serving worker, 0 where it does not",
                Family::default(),
            ),
            landlock: add(
                r,
                "landlock_abi",
                "The lowest Landlock version around a serving worker; 0 for none",
                Family::default(),
            ),
            models: add(r, "model", "1 for each model, with its tenant and how its workers start", Family::default()),
            registry,
        }))
    }

    /// An inference was begun; hold on to the value while it lasts.
    pub fn request_begun(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight(self.0.in_flight.clone())
    }

    /// What every request of one model moves.
    pub fn served(&self, model: &ModelId) -> Served {
        let labels = Model::of(model);
        Served {
            ok: self.0.requests.get_or_create_owned(&labels.outcome("ok")),
            duration: self.0.duration.get_or_create_owned(&labels),
            queue: self.0.queue.get_or_create_owned(&labels),
            run: self.0.run.get_or_create_owned(&labels),
            batch: self.0.batch.get_or_create_owned(&labels),
            metrics: self.clone(),
            labels,
        }
    }

    /// A request was refused before a model was known, or because there is none.
    pub fn refused(&self, kind: Kind) {
        self.0.refused.get_or_create(&Code { code: kind.code() }).inc();
    }

    /// The body of a request was read.
    pub fn bytes_in(&self, bytes: u64) {
        self.0.bytes_in.inc_by(bytes);
    }

    /// The body of an answer was made.
    pub fn bytes_out(&self, bytes: u64) {
        self.0.bytes_out.inc_by(bytes);
    }

    /// A worker was asked for.
    pub fn worker_started(&self, model: &ModelId) {
        self.0.worker_starts.get_or_create(&Model::of(model)).inc();
    }

    /// A worker ended. `cause` is one of the words of [`crate::status::LastExit`].
    pub fn worker_ended(&self, model: &ModelId, cause: &'static str) {
        let Model { model, version } = Model::of(model);
        self.0.worker_exits.get_or_create(&Exit { model, version, cause }).inc();
    }

    /// The numbers of the worker in a place.
    pub fn worker(&self, model: &ModelId, place: usize) -> WorkerNumbers {
        let Model { model, version } = Model::of(model);
        let labels = OfWorker { model, version, worker: place as u64 };
        WorkerNumbers {
            ready: self.0.worker_ready.get_or_create_owned(&labels),
            batches: self.0.worker_batches.get_or_create_owned(&labels),
            busy: self.0.worker_busy.get_or_create_owned(&labels),
        }
    }

    /// A layer refused or ended something. Both are words of our own.
    pub fn violated(&self, model: &ModelId, layer: &'static str, cause: &'static str) {
        let Model { model, version } = Model::of(model);
        self.0.violations.get_or_create(&Breach { model, version, layer, cause }).inc();
    }

    /// A worker refused its model at this step.
    pub fn model_refused(&self, model: &ModelId, step: &'static str) {
        let Model { model, version } = Model::of(model);
        self.0.refusals.get_or_create(&AtStep { model, version, step }).inc();
    }

    /// Deaths of a model's workers opened its breaker.
    pub fn breaker_opened(&self, model: &ModelId) {
        self.0.opened.get_or_create(&Model::of(model)).inc();
    }

    /// Its workers serve, in these cages: what is in force is so for all of them.
    pub fn caged(&self, model: &ModelId, cage: &[Reading], landlock_abi: Option<u32>) {
        for reading in cage {
            self.0.in_force.get_or_create_owned(&of_layer(model, reading.layer)).set(i64::from(reading.in_force));
        }
        self.0.landlock.get_or_create(&Model::of(model)).set(landlock_abi.map_or(0, i64::from));
    }

    /// The last one is gone; a layer of nobody is neither in force nor missing.
    pub fn uncaged(&self, model: &ModelId) {
        for layer in Layer::ALL {
            self.0.in_force.remove(&of_layer(model, layer));
        }
        self.0.landlock.remove(&Model::of(model));
    }

    /// A worker printed more than the log takes.
    pub fn log_dropped(&self, model: &ModelId, bytes: u64) {
        self.0.log_dropped.get_or_create(&Model::of(model)).inc_by(bytes);
    }

    /// A model is that tenant's, and its workers start so.
    pub fn model_of(&self, model: &ModelId, tenant: &str, spawn: &'static str) {
        let Model { model, version } = Model::of(model);
        let belonging = Belonging { model, version, tenant: tenant.to_owned(), spawn };
        self.0.models.get_or_create_owned(&belonging).set(1);
    }

    /// A model is in this state now.
    pub fn model_state(&self, model: &ModelId, now: &State) {
        for state in STATES {
            let Model { model, version } = Model::of(model);
            let gauge = self.0.state.get_or_create_owned(&InState { model, version, state });
            gauge.set(i64::from(state == now.name()));
        }
    }

    /// All of it, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if text::encode(&mut out, &self.0.registry).is_err() {
            // Only a writer can fail, and a String does not; half a page would look like lost series.
            out.clear();
        }
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Served {
    /// An inference has its answer.
    pub fn done(&self, outcome: Result<(), Kind>, took: Duration) {
        match outcome {
            Ok(()) => self.ok.inc(),
            Err(kind) => self.metrics.0.requests.get_or_create(&self.labels.outcome(kind.code())).inc(),
        };
        self.duration.observe(took.as_secs_f64());
    }

    /// A request waited so long for its batch.
    pub fn waited(&self, wait: Duration) {
        self.queue.observe(wait.as_secs_f64());
    }

    /// A batch of so many rows came back from a worker.
    pub fn ran(&self, rows: u64, took: Duration) {
        self.batch.observe(rows as f64);
        self.run.observe(took.as_secs_f64());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Model {
    fn of(id: &ModelId) -> Self {
        Self { model: id.name.as_str().to_owned(), version: id.version.as_str().to_owned() }
    }

    fn outcome(&self, outcome: &'static str) -> Outcome {
        Outcome { model: self.model.clone(), version: self.version.clone(), outcome }
    }
}

fn of_layer(model: &ModelId, layer: Layer) -> OfLayer {
    let Model { model, version } = Model::of(model);
    OfLayer { model, version, layer: layer.name() }
}

// === registering ===

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(format!("casemate_{name}"), help, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Family<Model, Histogram> {
    let metric: Family<Model, Histogram> = Family::new_with_constructor(|| Histogram::new(SECONDS));
    registry.register_with_unit(format!("casemate_{name}"), help, Unit::Seconds, metric.clone());
    metric
}

fn bytes<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(format!("casemate_{name}"), help, Unit::Bytes, metric.clone());
    metric
}

/// The words of [`State::name`].
const STATES: [&str; 6] = ["starting", "ready", "backing-off", "open", "failed", "draining"];
/// From a tenth of a millisecond, a tiny model's run, to half a minute.
const SECONDS: [f64; 17] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Batches are powers of two more often than not.
const ROWS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_appears_under_its_name() {
        let metrics = Metrics::new();
        let model = ModelId { name: "digits".parse().unwrap(), version: "1.2".parse().unwrap() };
        let running = metrics.request_begun();
        let served = metrics.served(&model);
        served.done(Ok(()), Duration::from_millis(3));
        served.done(Err(Kind::WorkerDied), Duration::from_millis(3));
        metrics.refused(Kind::Invalid);
        served.waited(Duration::from_millis(1));
        served.ran(3, Duration::from_millis(1));
        metrics.bytes_in(10);
        metrics.bytes_out(20);
        metrics.worker_started(&model);
        metrics.worker_ended(&model, "oom");
        let worker = metrics.worker(&model, 1);
        worker.ready.set(1);
        worker.batches.inc();
        worker.busy.set(2);
        metrics.log_dropped(&model, 5);
        metrics.violated(&model, "seccomp", "syscall");
        metrics.model_refused(&model, "verify");
        metrics.breaker_opened(&model);
        let reading = |layer, in_force| Reading { layer, in_force, evidence: String::new() };
        metrics.caged(&model, &[reading(Layer::Seccomp, true), reading(Layer::OwnIdentity, false)], Some(7));
        metrics.model_of(&model, "team", "zygote");
        metrics.model_state(&model, &State::Starting);
        metrics.model_state(&model, &State::Ready);
        let text = metrics.encode();
        let of = r#"model="digits",version="1.2""#;
        for line in [
            format!("casemate_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
            format!("casemate_requests_total{{{of},outcome=\"ok\"}} 1"),
            format!("casemate_requests_total{{{of},outcome=\"worker_died\"}} 1"),
            format!("casemate_request_duration_seconds_count{{{of}}} 2"),
            format!("casemate_queue_duration_seconds_count{{{of}}} 1"),
            format!("casemate_run_duration_seconds_count{{{of}}} 1"),
            format!("casemate_batch_rows_sum{{{of}}} 3.0"),
            "casemate_requests_in_flight 1".into(),
            "casemate_request_bytes_total 10".into(),
            "casemate_response_bytes_total 20".into(),
            "casemate_refused_total{code=\"invalid\"} 1".into(),
            format!("casemate_worker_starts_total{{{of}}} 1"),
            format!("casemate_worker_exits_total{{{of},cause=\"oom\"}} 1"),
            format!("casemate_worker_ready{{{of},worker=\"1\"}} 1"),
            format!("casemate_worker_batches_total{{{of},worker=\"1\"}} 1"),
            format!("casemate_worker_busy{{{of},worker=\"1\"}} 2"),
            format!("casemate_worker_log_dropped_bytes_total{{{of}}} 5"),
            format!("casemate_violations_total{{{of},layer=\"seccomp\",cause=\"syscall\"}} 1"),
            format!("casemate_model_refusals_total{{{of},step=\"verify\"}} 1"),
            format!("casemate_breaker_opened_total{{{of}}} 1"),
            format!("casemate_layer_in_force{{{of},layer=\"seccomp\"}} 1"),
            format!("casemate_layer_in_force{{{of},layer=\"own-identity\"}} 0"),
            format!("casemate_landlock_abi{{{of}}} 7"),
            format!("casemate_model{{{of},tenant=\"team\",spawn=\"zygote\"}} 1"),
            format!("casemate_model_state{{{of},state=\"ready\"}} 1"),
            format!("casemate_model_state{{{of},state=\"starting\"}} 0"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.lines().filter(|l| l.starts_with("casemate_model_state{")).count(), STATES.len());
        metrics.uncaged(&model);
        assert!(!metrics.encode().contains("casemate_layer_in_force{"));
        drop(running);
        assert!(metrics.encode().contains("casemate_requests_in_flight 0"));
    }

    #[test]
    fn every_state_has_a_series() {
        let text = String::new;
        let (pausing, open, failed) = (State::BackingOff(text()), State::Open(text()), State::Failed(text()));
        let all = [State::Starting, State::Ready, pausing, open, failed, State::Draining];
        assert_eq!(all.map(|state| state.name()), STATES);
    }
}
