//! One task a model: start a worker, see it through its time, decide what comes next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::id::WorkerId;
use casemate_ipc::launch::{ExitCause, Geometry};
use casemate_ipc::layer::{Layer, Reading};
use casemate_ipc::seqpacket::Channel;
use casemate_ipc::shm::arena;
use casemate_ipc::work::GateCode;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cause::Cause;
use super::handle::ModelHandle;
use super::launcher::{LaunchError, Launcher, Started};
use super::lifecycle::{self, Lifecycle};
use super::link::Link;
use super::output;
use super::tenure::{End, Tenure};
use crate::metrics::Metrics;
use crate::refusal::{Kind, Refusal};
use crate::status::State;

/// What a supervisor works with.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The request arena.
    pub requests: Geometry,
    /// The response arena.
    pub responses: Geometry,
    /// How long a model may take to load.
    pub load: Duration,
    /// Pause between two questions to an idle worker.
    pub ping: Duration,
    /// Failed starts in a row after which a model is given up.
    pub attempts: u32,
    /// Bytes of a worker's output that reach the log in a second.
    pub log_bytes_per_second: u64,
}

/// Keeps one model served until the server stops or the model is given up.
pub async fn supervise(
    handle: Arc<ModelHandle>,
    launcher: Launcher,
    terms: Terms,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut life = Lifecycle::new(terms.attempts);
    loop {
        if *stop.borrow() {
            handle.enter(State::Draining);
            handle.queue.refuse_all(&going_down());
            return;
        }
        handle.enter(State::Starting);
        let ended = one(&handle, &launcher, &terms, &metrics, &mut life, &mut stop).await;
        let (end, cause) = match ended {
            Ended::Drained => {
                handle.enter(State::Draining);
                // Who was let in a moment before the stop, and queued a moment after the last look.
                handle.queue.refuse_all(&going_down());
                return;
            }
            Ended::By(end, cause) => (end, cause),
        };
        handle.ended(&cause);
        tracing::warn!(model = %handle.model, cause = cause.word, detail = cause.detail, "worker ended");
        match life.ended(end) {
            lifecycle::Next::GiveUp => {
                tracing::error!(model = %handle.model, detail = cause.detail, "model given up");
                handle.enter(State::Failed(cause.detail));
                handle.queue.refuse_all(&given_up(handle.gate()));
                let _ = stop.wait_for(|stop| *stop).await;
                return;
            }
            lifecycle::Next::After(pause) if pause.is_zero() => {}
            lifecycle::Next::After(pause) => {
                handle.enter(State::BackingOff);
                let _ = timeout(pause, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

enum Ended {
    Drained,
    By(lifecycle::End, Cause),
}

/// One worker from its start to its end.
async fn one(
    handle: &Arc<ModelHandle>,
    launcher: &Launcher,
    terms: &Terms,
    metrics: &Metrics,
    life: &mut Lifecycle,
    stop: &mut watch::Receiver<bool>,
) -> Ended {
    let asked = Instant::now();
    let (worker, mut tenure) = match appoint(handle, launcher, terms, metrics).await {
        Ok(appointed) => appointed,
        Err(ended) => return ended,
    };
    let mut served = false;
    let end = match tenure.begin(terms.load).await {
        Err(end) => end,
        Ok(()) => {
            let cage = launcher.attest(worker).await;
            // Without it the model would be served by a worker of which nobody has seen the cage.
            let naked = cage.iter().find(|r| !r.in_force && !waived(handle, r.layer));
            match naked {
                Some(Reading { layer, evidence, .. }) => {
                    End::Lost(Cause::cage(&format!("{layer} is not in force: {evidence}")))
                }
                None if cage.is_empty() => End::Lost(Cause::protocol("it was gone before its cage could be read")),
                None => {
                    served = true;
                    life.ready();
                    let ready_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                    handle.ready(ready_us, cage);
                    tenure.serve(stop, || life.answered()).await
                }
            }
        }
    };
    match end {
        End::Drained => Ended::Drained,
        End::Hopeless(cause) => {
            bury(launcher, worker, &mut tenure).await;
            Ended::By(lifecycle::End::Hopeless, cause)
        }
        End::Lost(cause) => {
            let cause = bury(launcher, worker, &mut tenure).await.filter(|_| cause.word == "protocol").unwrap_or(cause);
            let end = if served { lifecycle::End::Died } else { lifecycle::End::Stillborn };
            Ended::By(end, cause)
        }
    }
}

async fn appoint(
    handle: &Arc<ModelHandle>,
    launcher: &Launcher,
    terms: &Terms,
    metrics: &Metrics,
) -> Result<(WorkerId, Tenure), Ended> {
    let stillborn = |reason: String| Ended::By(lifecycle::End::Stillborn, Cause::spawn(&reason));
    let (requests, requests_file) = arena::requests(terms.requests).map_err(|e| stillborn(e.to_string()))?;
    let (responses, responses_file) = arena::responses(terms.responses).map_err(|e| stillborn(e.to_string()))?;
    let started = launcher.start(&handle.model, [requests_file, responses_file]).await.map_err(|error| {
        let end = match &error {
            LaunchError::Refused { retry: false, .. } => lifecycle::End::Hopeless,
            _ => lifecycle::End::Stillborn,
        };
        Ended::By(end, Cause::spawn(&error.to_string()))
    })?;
    let Started { worker, pid, channel, output, exit } = started;
    handle.started(worker, pid);
    let limit = terms.log_bytes_per_second;
    tokio::spawn(output::drain(output, handle.model.clone(), worker, limit, metrics.clone()));
    let link = Link::new(Channel::new(channel), requests, responses).map_err(|e| stillborn(e.to_string()))?;
    let Geometry { slots, slot_bytes } = terms.requests;
    let (handle, metrics) = (Arc::clone(handle), metrics.clone());
    Ok((worker, Tenure { handle, link, exit, slots, slot_bytes, ping: terms.ping, metrics }))
}

/// Sees that a worker is gone. Returns how it ended, if that was not by our hand: a worker that broke the protocol because
/// it was dying is better explained by its death.
async fn bury(launcher: &Launcher, worker: WorkerId, tenure: &mut Tenure) -> Option<Cause> {
    launcher.kill(worker).await;
    match timeout(Duration::from_secs(10), tenure.exit.wait()).await {
        Ok(None | Some(ExitCause::Killed)) => None,
        Ok(Some(cause)) => Some(Cause::from_exit(cause)),
        Err(_) => {
            tracing::error!(%worker, "a killed worker has not gone within 10 s; its slot is lost");
            None
        }
    }
}

fn waived(handle: &ModelHandle, layer: Layer) -> bool {
    layer.waiver().is_some_and(|waiver| handle.status().waived.contains(&waiver))
}

/// The answer while the server stops.
pub fn going_down() -> Refusal {
    Refusal::new(Kind::NotReady, "the server is stopping").retry_after(Duration::from_secs(5))
}

/// The answer for a model that was given up.
pub fn given_up(gate: Option<GateCode>) -> Refusal {
    let message = match gate {
        Some(code) => format!("the model was refused before it was loaded ({}); its status says why", code.name()),
        None => "the model could not be started and was given up; its status says why".to_owned(),
    };
    Refusal::new(Kind::NotReady, message)
}
