//! One task a model: start a worker, see it through its time, decide what comes next.

use std::sync::Arc;
use std::time::Duration;

use casemate_ipc::launch::Geometry;
use casemate_ipc::layer::{Layer, Reading};
use casemate_ipc::seqpacket::Channel;
use casemate_ipc::shm::arena;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::cage;
use super::cause::Cause;
use super::excuse;
use super::handle::ModelHandle;
use super::launcher::{LaunchError, Launcher, Started};
use super::lifecycle::{self, Lifecycle};
use super::link::Link;
use super::output;
use super::tenure::{End, Tenure};
use super::turn::Turns;
use crate::metrics::Metrics;
use crate::status::State;

/// What a supervisor works with.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The request arena.
    pub requests: Geometry,
    /// The response arena.
    pub responses: Geometry,
    /// Whose worker may start now.
    pub turns: Turns,
    /// How long a model may take to load, from its worker's turn on.
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
            handle.queue.refuse_all(&excuse::going_down());
            return;
        }
        if handle.open_for().is_some() {
            rest(&handle, "workers of the same bytes keep dying", &mut stop).await;
            continue;
        }
        handle.enter(State::Starting);
        let mut printing = None;
        let ended = one(&handle, &launcher, &terms, &metrics, &mut life, &mut stop, &mut printing).await;
        let (end, cause) = match ended {
            Ended::Drained => {
                handle.enter(State::Draining);
                // Who was let in a moment before the stop, and queued a moment after the last look.
                handle.queue.refuse_all(&excuse::going_down());
                return;
            }
            Ended::By(end, cause) => (end, cause),
        };
        let opened = handle.ended(&cause);
        // What it printed last is still in the pipe. A flood is not waited for, nor a pipe that somebody holds open.
        if let Some(mut printing) = printing
            && timeout(LAST_WORDS, &mut printing).await.is_err()
        {
            printing.abort();
        }
        let output_tail = handle.output_tail();
        tracing::warn!(model = %handle.model, cause = cause.word, detail = cause.detail, output_tail, "worker ended");
        match life.ended(end) {
            lifecycle::Next::GiveUp => {
                tracing::error!(model = %handle.model, detail = cause.detail, "model given up");
                handle.enter(State::Failed(cause.told().to_owned()));
                handle.queue.refuse_all(&excuse::given_up(handle.gate()));
                let _ = stop.wait_for(|stop| *stop).await;
                return;
            }
            lifecycle::Next::After(_) if opened.is_some() => {
                let deaths = opened.map_or(0, |opened| opened.deaths);
                rest(&handle, &format!("deaths of workers: {deaths}; the last cause: {}", cause.word), &mut stop).await;
            }
            lifecycle::Next::After(pause) if pause.is_zero() => {}
            lifecycle::Next::After(pause) => {
                handle.enter(State::BackingOff(cause.told().to_owned()));
                let _ = timeout(pause, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

/// Waits while the model's breaker is open. Nobody waits with it: who asks is answered at once.
async fn rest(handle: &ModelHandle, why: &str, stop: &mut watch::Receiver<bool>) {
    let Some(left) = handle.open_for() else { return };
    let rest_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let (model, version) = (&handle.model.name, &handle.model.version);
    tracing::error!(event = "breaker_open", %model, %version, rest_ms, why, "resting");
    handle.enter(State::Open(why.to_owned()));
    handle.queue.refuse_all(&excuse::breaker_open(left));
    let _ = timeout(left, stop.wait_for(|stop| *stop)).await;
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
    printing: &mut Option<JoinHandle<()>>,
) -> Ended {
    let turn = tokio::select! {
        turn = terms.turns.take() => turn,
        _ = stop.wait_for(|stop| *stop) => return Ended::Drained,
    };
    let asked = turn.since;
    let mut tenure = match appoint(handle, launcher, terms, metrics, printing).await {
        Ok(tenure) => tenure,
        Err(ended) => return ended,
    };
    let mut served = false;
    let end = match tenure.begin(turn, terms.load).await {
        Err(end) => end,
        Ok(inside) => {
            let cage = launcher.attest(tenure.worker).await;
            // Without it the model would be served by a worker of which nobody has seen the cage.
            let naked = cage.iter().find(|r| !r.in_force && !excused(handle, r.layer));
            match naked {
                Some(Reading { layer, evidence, .. }) => {
                    End::Lost(Cause::cage(*layer, &format!("is not in force: {evidence}")))
                }
                None if cage.is_empty() => End::Lost(Cause::silent("it was gone before its cage could be read")),
                None if let Some(layer) = cage::disagreement(&cage, &inside, |layer| excused(handle, layer)) => {
                    End::Lost(Cause::cage(layer, "is in force as read from outside, and is not as the worker saw it"))
                }
                None => {
                    served = true;
                    life.ready();
                    let ready_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                    handle.ready(ready_us, cage, inside);
                    let answered = || {
                        life.answered();
                        handle.answered();
                    };
                    tenure.serve(stop, answered).await
                }
            }
        }
    };
    match end {
        End::Drained => Ended::Drained,
        End::Hopeless(cause) => {
            tenure.bury().await;
            Ended::By(lifecycle::End::Hopeless, cause)
        }
        End::Lost(cause) => {
            // A worker that fell silent because it was dying is better explained by its death. One that lied, lied.
            let cause = tenure.bury().await.filter(|_| cause.silent).unwrap_or(cause);
            let end = if served { lifecycle::End::Died } else { lifecycle::End::Stillborn };
            Ended::By(end, cause)
        }
    }
}

const LAST_WORDS: Duration = Duration::from_millis(300);

async fn appoint(
    handle: &Arc<ModelHandle>,
    launcher: &Launcher,
    terms: &Terms,
    metrics: &Metrics,
    printing: &mut Option<JoinHandle<()>>,
) -> Result<Tenure, Ended> {
    let stillborn = |reason: String| Ended::By(lifecycle::End::Stillborn, Cause::spawn(&reason));
    let (requests, requests_file) = arena::requests(terms.requests).map_err(|e| stillborn(e.to_string()))?;
    let (responses, responses_file) = arena::responses(terms.responses).map_err(|e| stillborn(e.to_string()))?;
    let started = launcher.start(&handle.model, [requests_file, responses_file]).await.map_err(|error| {
        let end = match &error {
            LaunchError::Refused { retry: false, .. } => lifecycle::End::Hopeless,
            LaunchError::Refused { retry: true, .. } => lifecycle::End::NotYet,
            LaunchError::Gone => lifecycle::End::Stillborn,
        };
        Ended::By(end, Cause::spawn(&error.to_string()))
    })?;
    let Started { worker, pid, uid, channel, output, exit } = started;
    handle.started(worker, pid, uid);
    let limit = terms.log_bytes_per_second;
    *printing = Some(tokio::spawn(output::drain(output, Arc::clone(handle), worker, limit, metrics.clone())));
    let link = Link::new(Channel::new(channel), requests, responses).map_err(|e| stillborn(e.to_string()))?;
    let Geometry { slots, slot_bytes } = terms.requests;
    let (handle, launcher, metrics) = (Arc::clone(handle), launcher.clone(), metrics.clone());
    Ok(Tenure {
        worker,
        handle,
        launcher,
        link,
        exit,
        verified: false,
        said: 0,
        slots,
        slot_bytes,
        ping: terms.ping,
        metrics,
    })
}

fn excused(handle: &ModelHandle, layer: Layer) -> bool {
    layer.excused_by(&handle.status().waived)
}
