//! One task for each worker that a model has: start it, see it through its time, decide what comes next.

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
use super::seat::Seat;
use super::tenure::{End, Tenure};
use super::tide::Tides;
use super::turn::Turns;
use super::vigil::Vigil;
use crate::desk::Desk;
use crate::metrics::Metrics;
use crate::status::State;

/// What a supervisor works with.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The request arena.
    pub requests: Geometry,
    /// The response arena.
    pub responses: Geometry,
    /// Batches that one worker runs at once.
    pub instances: u32,
    /// Workers that serve the model at once.
    pub workers: u32,
    /// Whose worker may start now.
    pub turns: Turns,
    /// How long a model may take to load, from its worker's turn on.
    pub load: Duration,
    /// Pause between two questions to an idle worker.
    pub ping: Duration,
    /// How long to look out for an answer before sleeping over it.
    pub vigil: Duration,
    /// How long pages of its arenas that no request needs are kept.
    pub arena_rest: Duration,
    /// Failed starts in a row after which a model is given up.
    pub attempts: u32,
    /// Where large tensors are copied.
    pub desk: Desk,
    /// Bytes of a worker's output that reach the log in a second.
    pub log_bytes_per_second: u64,
}

/// Keeps one worker of a model serving until the server stops or the model is given up.
pub async fn supervise(
    seat: Seat,
    launcher: Launcher,
    terms: Terms,
    metrics: Metrics,
    mut stop: watch::Receiver<bool>,
) {
    let handle = Arc::clone(&seat.handle);
    let mut life = Lifecycle::new(terms.attempts);
    loop {
        if *stop.borrow() {
            return seat.drained();
        }
        if handle.open_for().is_some() {
            rest(&seat, "workers of the same bytes keep dying", &mut stop).await;
            continue;
        }
        seat.enter(State::Starting);
        let mut printing = None;
        let ended = one(&seat, &launcher, &terms, &metrics, &mut life, &mut stop, &mut printing).await;
        let (end, cause) = match ended {
            Ended::Drained => return seat.drained(),
            Ended::By(end, cause) => (end, cause),
        };
        let opened = seat.ended(&cause);
        // What it printed last is still in the pipe. A flood is not waited for, nor a pipe that somebody holds open.
        if let Some(mut printing) = printing
            && timeout(LAST_WORDS, &mut printing).await.is_err()
        {
            printing.abort();
        }
        let output_tail = seat.output_tail();
        tracing::warn!(model = %handle.model, cause = cause.word, detail = cause.detail, output_tail, "worker ended");
        match life.ended(end) {
            // Nothing is wrong with a model that others serve.
            lifecycle::Next::GiveUp if end == lifecycle::End::Stillborn && seat.others_serve() => {
                seat.enter(State::BackingOff(cause.told().to_owned()));
                let _ = timeout(lifecycle::LONGEST_PAUSE, stop.wait_for(|stop| *stop)).await;
            }
            lifecycle::Next::GiveUp => {
                tracing::error!(model = %handle.model, detail = cause.detail, "model given up");
                seat.enter(State::Failed(cause.told().to_owned()));
                if matches!(handle.state(), State::Failed(_)) {
                    handle.queue.refuse_all(&excuse::given_up(handle.gate()));
                }
                let _ = stop.wait_for(|stop| *stop).await;
                return;
            }
            lifecycle::Next::After(_) if opened.is_some() => {
                let deaths = opened.map_or(0, |opened| opened.deaths);
                rest(&seat, &format!("deaths of workers: {deaths}; the last cause: {}", cause.word), &mut stop).await;
            }
            lifecycle::Next::After(pause) if pause.is_zero() => {}
            lifecycle::Next::After(pause) => {
                seat.enter(State::BackingOff(cause.told().to_owned()));
                let _ = timeout(pause, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

/// Waits while the model's breaker is open. Nobody waits with it: who asks is answered at once.
async fn rest(seat: &Seat, why: &str, stop: &mut watch::Receiver<bool>) {
    let handle = &seat.handle;
    let Some(left) = handle.open_for() else { return };
    let rest_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let (model, version) = (&handle.model.name, &handle.model.version);
    tracing::error!(event = "breaker_open", %model, %version, rest_ms, why, "resting");
    seat.enter(State::Open(why.to_owned()));
    handle.queue.refuse_all(&excuse::breaker_open(left));
    let _ = timeout(left, stop.wait_for(|stop| *stop)).await;
}

enum Ended {
    Drained,
    By(lifecycle::End, Cause),
}

/// One worker from its start to its end.
async fn one(
    seat: &Seat,
    launcher: &Launcher,
    terms: &Terms,
    metrics: &Metrics,
    life: &mut Lifecycle,
    stop: &mut watch::Receiver<bool>,
    printing: &mut Option<JoinHandle<()>>,
) -> Ended {
    let handle = &seat.handle;
    let turn = tokio::select! {
        turn = terms.turns.take() => turn,
        _ = stop.wait_for(|stop| *stop) => return Ended::Drained,
    };
    let asked = turn.since;
    let mut tenure = match appoint(seat, launcher, terms, metrics, printing).await {
        Ok(tenure) => tenure,
        Err(ended) => return ended,
    };
    let mut served = false;
    let end = match tenure.begin(turn, terms.load).await {
        Err(end) => end,
        Ok((inside, cage)) => {
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
                    let tally = seat.ready(ready_us, cage, inside);
                    let answered = || {
                        life.answered();
                        handle.answered();
                    };
                    tenure.serve(&tally, stop, answered).await
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
    seat: &Seat,
    launcher: &Launcher,
    terms: &Terms,
    metrics: &Metrics,
    printing: &mut Option<JoinHandle<()>>,
) -> Result<Tenure, Ended> {
    let handle = &seat.handle;
    let stillborn = |reason: String| Ended::By(lifecycle::End::Stillborn, Cause::spawn(&reason));
    let (requests, requests_file) = arena::requests(terms.requests).map_err(|e| stillborn(e.to_string()))?;
    let (responses, responses_file) = arena::responses(terms.responses).map_err(|e| stillborn(e.to_string()))?;
    let files = [requests_file, responses_file];
    let asking = handle.asking.lock().await;
    let started = launcher.start(&handle.model, &files).await;
    drop(asking);
    let started = started.map_err(|error| {
        let end = match &error {
            LaunchError::Refused { retry: false, .. } => lifecycle::End::Hopeless,
            LaunchError::Refused { retry: true, .. } => lifecycle::End::NotYet,
            LaunchError::Gone => lifecycle::End::Stillborn,
        };
        Ended::By(end, Cause::spawn(&error.to_string()))
    })?;
    let Started { worker, pid, uid, channel, output, exit, shapes_left_aside } = started;
    handle.shapes_left_aside(shapes_left_aside);
    seat.started(worker, pid, uid);
    let limit = terms.log_bytes_per_second;
    *printing = Some(tokio::spawn(output::drain(output, seat.clone(), worker, limit, metrics.clone())));
    let link = Link::new(Channel::new(channel), requests, responses, terms.desk.clone())
        .map_err(|e| stillborn(e.to_string()))?;
    let Geometry { slots, slot_bytes } = terms.requests;
    let (handle, seat, launcher, rest) = (Arc::clone(handle), seat.clone(), launcher.clone(), terms.arena_rest);
    Ok(Tenure {
        worker,
        handle,
        seat,
        launcher,
        link,
        tides: Tides::new(files, slots, [slot_bytes, terms.responses.slot_bytes], rest, terms.desk.clone()),
        exit,
        verified: false,
        said: 0,
        slots,
        instances: terms.instances,
        // With one worker, the batch that waits in its arena waits for the first instance that is free, wherever it lies.
        ahead: terms.workers == 1,
        slot_bytes,
        ping: terms.ping,
        vigil: Vigil::new(terms.vigil),
    })
}

fn excused(handle: &ModelHandle, layer: Layer) -> bool {
    handle.read(|status| layer.excused_by(&status.waived))
}
