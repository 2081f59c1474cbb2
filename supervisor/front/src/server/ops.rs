//! What operators and probes ask: `/ping`, `/metrics`, and how each model and its cage are doing.

use std::fmt::Write;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use casemate_ipc::id::{ModelName, Version, WorkerId};
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::{Declared, Inside};
use serde::Serialize;
use serde_json::json;

use crate::protocol::answer::{json, with_type};
use crate::protocol::intake::Intake;
use crate::protocol::oip::Target;
use crate::refusal::Refusal;
use crate::status::{
    BreakerStatus, LastExit, ModelStatus, OutputStatus, SeatStatus, Seen, State as ModelState, Violations, WorkerStatus,
};

/// Every route here.
pub fn router() -> Router<Intake> {
    Router::new()
        .route("/ping", get(ping))
        .route("/metrics", get(metrics))
        .route("/casemate/v1/models", get(models))
        .route("/casemate/v1/models/{model}", get(model))
        .route("/casemate/v1/models/{model}/versions/{version}", get(model))
}

/// As TorchServe answers it.
async fn ping(State(intake): State<Intake>) -> Response {
    if intake.pipeline.is_ready() {
        json(StatusCode::OK, &json!({"status": "Healthy"}))
    } else {
        json(StatusCode::INTERNAL_SERVER_ERROR, &json!({"status": "Unhealthy"}))
    }
}

async fn metrics(State(intake): State<Intake>) -> Response {
    with_type(StatusCode::OK, HeaderValue::from_static(OPEN_METRICS), intake.metrics.encode())
}

async fn models(State(intake): State<Intake>) -> Response {
    let statuses = intake.pipeline.statuses();
    json(StatusCode::OK, &Models { models: statuses.iter().map(report).collect() })
}

async fn model(State(intake): State<Intake>, target: Target) -> Result<Response, Refusal> {
    let status = intake.pipeline.status(&target.model, target.version.as_ref())?;
    Ok(json(StatusCode::OK, &report(&status)))
}

/// The media type of `/metrics`.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

// === what is reported of a model ===

#[derive(Debug, Serialize)]
struct Models<'a> {
    models: Vec<Report<'a>>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a ModelName,
    version: &'a Version,
    state: &'static str,
    /// Why it waits, rests or was given up, where it does.
    reason: Option<&'a str>,
    starts: u64,
    last_exit: Option<ExitReport<'a>>,
    /// The first of `workers` that serves.
    worker: Option<WorkerReport<'a>>,
    /// Batches that each worker runs at once.
    instances: u32,
    workers: Vec<SeatReport<'a>>,
    /// Layers that the operator goes without.
    waived: &'a [Waiver],
    /// Whether its workers may make machine code, and so which last filter they are under.
    run_time_code: RunTimeCode,
    /// What `casemate model tune` writes down: a line of `model.shapes` for each.
    convolutions: Vec<String>,
    /// Whether it has a `model.shapes` that does nothing, because a zygote bears its workers.
    shapes_left_aside: bool,
    /// Whose it is; a model without a tenant is one of its own.
    tenant: &'a str,
    /// How its workers come to be.
    spawn: &'static str,
    violations: ViolationsReport<'a>,
    breaker: Option<BreakerStatus>,
    /// Counts only: what a model printed stays in the log, clients can read this.
    output: OutputStatus,
    declared: Option<DeclaredReport<'a>>,
}

#[derive(Debug, Serialize)]
struct ViolationsReport<'a> {
    total: u64,
    counts: Vec<Count>,
    last: Vec<&'a Seen>,
}

#[derive(Debug, Serialize)]
struct Count {
    layer: &'static str,
    cause: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct ExitReport<'a> {
    worker: Option<WorkerId>,
    cause: &'static str,
    detail: &'a str,
    at: u64,
}

#[derive(Debug, Serialize)]
struct SeatReport<'a> {
    state: &'static str,
    reason: Option<&'a str>,
    #[serde(flatten)]
    worker: Option<WorkerReport<'a>>,
}

#[derive(Debug, Serialize)]
struct WorkerReport<'a> {
    id: WorkerId,
    pid: u32,
    uid: Option<u32>,
    batches: u64,
    running: usize,
    ready_us: u64,
    /// As the kernel shows it from outside.
    cage: &'a [Reading],
    /// As the worker saw it, before its model was loaded.
    inside: Option<&'a Inside>,
}

#[derive(Debug, Serialize)]
struct DeclaredReport<'a> {
    sha256: String,
    platform: &'a str,
    inputs: Vec<String>,
    outputs: Vec<String>,
    max_batch_size: u32,
    max_batch_delay_us: u64,
    deadline_ms: u64,
}

fn report(status: &ModelStatus) -> Report<'_> {
    let ModelStatus { model, state, declared, seats, instances, starts, last_exit, waived, run_time_code, .. } = status;
    let ModelStatus { violations, breaker, output, convolutions, shapes_left_aside, tenant, spawn, .. } = status;
    Report {
        name: &model.name,
        version: &model.version,
        state: state.name(),
        reason: reason(state),
        starts: *starts,
        last_exit: last_exit.as_ref().map(|LastExit { worker, cause, detail, at }| ExitReport {
            worker: *worker,
            cause,
            detail,
            at: *at,
        }),
        worker: status.worker().map(worker_report),
        instances: *instances,
        workers: seats.iter().map(seat_report).collect(),
        waived,
        run_time_code: *run_time_code,
        convolutions: convolutions.iter().map(ToString::to_string).collect(),
        shapes_left_aside: *shapes_left_aside,
        tenant,
        spawn,
        violations: violations_report(violations),
        breaker: *breaker,
        output: *output,
        declared: declared.as_deref().map(declaration),
    }
}

const fn reason(state: &ModelState) -> Option<&str> {
    match state {
        ModelState::BackingOff(reason) | ModelState::Failed(reason) | ModelState::Open(reason) => Some(reason.as_str()),
        _ => None,
    }
}

fn seat_report(seat: &SeatStatus) -> SeatReport<'_> {
    let SeatStatus { state, worker } = seat;
    SeatReport { state: state.name(), reason: reason(state), worker: worker.as_ref().map(worker_report) }
}

fn worker_report(status: &WorkerStatus) -> WorkerReport<'_> {
    let WorkerStatus { worker, pid, uid, tally, cage, inside, ready_us } = status;
    WorkerReport {
        id: *worker,
        pid: *pid,
        uid: *uid,
        batches: tally.batches(),
        running: tally.running(),
        ready_us: *ready_us,
        cage,
        inside: inside.as_ref(),
    }
}

fn violations_report(violations: &Violations) -> ViolationsReport<'_> {
    let Violations { counts, last } = violations;
    let count = |((layer, cause), count): (&(&'static str, &'static str), &u64)| Count { layer, cause, count: *count };
    ViolationsReport {
        total: counts.values().fold(0, |sum, count| sum.saturating_add(*count)),
        counts: counts.iter().map(count).collect(),
        last: last.iter().collect(),
    }
}

fn declaration(declared: &Declared) -> DeclaredReport<'_> {
    let hex = declared.sha256.iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing into a String has no way to fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    DeclaredReport {
        sha256: hex,
        platform: &declared.platform,
        inputs: declared.signature.inputs.iter().map(ToString::to_string).collect(),
        outputs: declared.signature.outputs.iter().map(ToString::to_string).collect(),
        max_batch_size: declared.max_batch_size,
        max_batch_delay_us: declared.max_batch_delay_us,
        deadline_ms: declared.deadline_ms,
    }
}

#[cfg(test)]
mod tests {
    use casemate_ipc::id::ModelId;
    use casemate_ipc::layer::Layer;

    use std::sync::Arc;

    use crate::status::BreakerState;
    use crate::status::tally::Tally;

    use super::*;

    #[test]
    fn a_report_says_what_an_operator_looks_for() {
        let mut violations = Violations::default();
        violations.add(Seen {
            at: 5,
            layer: "seccomp",
            cause: "syscall",
            worker: Some(WorkerId(7)),
            pid: Some(42),
            call: Some(("openat", 257)),
            origin: Some("libc.so.6+0x1".into()),
        });
        let tally = Tally::default();
        (0..3).for_each(|_| tally.given(2));
        let status = ModelStatus {
            model: ModelId { name: "digits".parse().unwrap(), version: "2".parse().unwrap() },
            state: ModelState::Failed("5 starts failed".into()),
            declared: None,
            seats: vec![
                SeatStatus { state: ModelState::BackingOff("it died".into()), worker: None },
                SeatStatus {
                    state: ModelState::Ready,
                    worker: Some(WorkerStatus {
                        worker: WorkerId(7),
                        pid: 42,
                        uid: Some(1000),
                        tally: Arc::new(tally),
                        cage: vec![Reading { layer: Layer::EmptyRoot, in_force: true, evidence: "0 entries".into() }],
                        inside: None,
                        ready_us: 9,
                    }),
                },
            ],
            instances: 4,
            starts: 5,
            last_exit: Some(LastExit { worker: None, cause: "spawn", detail: "no".into(), at: 1 }),
            waived: vec![Waiver::Landlock],
            run_time_code: RunTimeCode::Refused,
            convolutions: vec!["conv 8 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1".parse().unwrap()].into(),
            shapes_left_aside: true,
            tenant: "team".into(),
            spawn: "zygote",
            violations,
            breaker: Some(BreakerStatus { state: BreakerState::HalfOpen, deaths: 1, until: None }),
            output: OutputStatus { lines: 1, bytes: 2, dropped: 3 },
        };
        let text = serde_json::to_string(&report(&status)).unwrap();
        for part in [
            r#""name":"digits","version":"2","state":"failed","reason":"5 starts failed","starts":5"#,
            r#""last_exit":{"worker":null,"cause":"spawn","detail":"no","at":1}"#,
            r#""worker":{"id":7,"pid":42,"uid":1000,"batches":3,"running":2,"ready_us":9"#,
            r#""instances":4,"workers":[{"state":"backing-off","reason":"it died"},"#,
            r#"{"state":"ready","reason":null,"id":7,"pid":42,"uid":1000,"batches":3,"running":2,"ready_us":9"#,
            r#""violations":{"total":1,"counts":[{"layer":"seccomp","cause":"syscall","count":1}],"last":[{"at":5,"#,
            r#""call":["openat",257],"origin":"libc.so.6+0x1"}]}"#,
            r#""breaker":{"state":"half-open","deaths":1,"until":null},"output":{"lines":1,"bytes":2,"dropped":3}"#,
            r#""cage":[{"layer":"empty-root","in_force":true,"evidence":"0 entries"}]"#,
            r#""waived":["landlock"],"run_time_code":"refused","convolutions":["conv 8 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1"]"#,
            r#""shapes_left_aside":true,"tenant":"team","spawn":"zygote""#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
