//! One worker's time in office: verified, loaded, serving, until it dies, is killed or is drained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::convolution::MAX_SAID;
use casemate_ipc::id::{BatchId, WorkerId};
use casemate_ipc::launch::ExitCause;
use casemate_ipc::layer::Reading;
use casemate_ipc::work::{Declared, Failure, FromWorker, Inside, Placed, Step, ToWorker};
use tokio::join;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};

use super::cause::Cause;
use super::excuse;
use super::flight::{Crash, Flight, NotGiven, Running};
use super::handle::ModelHandle;
use super::launcher::{Exit, Launcher};
use super::link::{Link, LinkError};
use super::pings::Pings;
use super::sanitise::{self, Unbelieved};
use super::seat::Seat;
use super::tide::Tides;
use super::turn::Turn;
use super::vigil::Vigil;
use super::violation::Violation;
use crate::alarm::Alarm;
use crate::batch::job::Job;
use crate::batch::plan::Rule;
use crate::batch::queue::Next;
use crate::batch::split;
use crate::refusal::{Kind, Refusal};
use crate::status::tally::Tally;
use crate::telemetry;
use crate::trace::Stage;

/// A worker, and what its supervisor knows about it.
#[derive(Debug)]
pub struct Tenure {
    /// Which worker.
    pub worker: WorkerId,
    /// Whose worker.
    pub handle: Arc<ModelHandle>,
    /// Its place among the model's workers.
    pub seat: Seat,
    /// Who can end it.
    pub launcher: Launcher,
    /// Its channel and arenas.
    pub link: Link,
    /// How far its arenas are filled.
    pub tides: Tides,
    /// How it will have ended.
    pub exit: Exit,
    /// Whether it has said that its model is verified.
    pub verified: bool,
    /// How many convolutions it has told of.
    pub said: usize,
    /// Slots of its arenas.
    pub slots: u32,
    /// Batches that it runs at once.
    pub instances: u32,
    /// Whether it may be given a batch before an instance is free.
    pub ahead: bool,
    /// Bytes of one.
    pub slot_bytes: u64,
    /// Pause between two questions to an idle worker.
    pub ping: Duration,
    /// How long to look out for its answers.
    pub vigil: Vigil,
}

/// How a tenure ended.
#[derive(Debug)]
pub enum End {
    /// It is gone, or must be killed, for this cause.
    Lost(Cause),
    /// It must be killed, because the model can never be served.
    Hopeless(Cause),
    /// It was told to go and went.
    Drained,
}

impl Tenure {
    /// Waits until the worker serves, and says what it saw of its cage, and what its launcher reads of it. `load` is how long
    /// that may take from its turn on.
    pub async fn begin(&mut self, turn: Turn, load: Duration) -> Result<(Inside, Vec<Reading>), End> {
        let until = turn.since + load;
        let handshake = async {
            let (declared, inside) = match self.next().await? {
                FromWorker::Verified { declared, inside } => (declared, inside),
                other => return Err(out_of_turn(&other)),
            };
            // The next thing it does is up to the model.
            drop(turn);
            sanitise::check_declared(&declared).map_err(|e| End::Lost(Cause::protocol(&e)))?;
            self.handle.verified(declared);
            self.verified = true;
            // It has all of its cage on, and cannot take anything off: the launcher reads it while the worker loads.
            let (launcher, worker) = (self.launcher.clone(), self.worker);
            match join!(self.next(), launcher.attest(worker)) {
                (Ok(FromWorker::Ready { load_us }), cage) => {
                    tracing::info!(model = %self.handle.model, load_us, "model loaded");
                    Ok((inside, cage))
                }
                (Ok(other), _) => Err(out_of_turn(&other)),
                (Err(end), _) => Err(end),
            }
        };
        match timeout_at(until.into(), handshake).await {
            Ok(result) => result,
            Err(_) => {
                let limit = load.as_millis();
                Err(End::Lost(Cause::deadline(&format!("not ready within {limit} ms (limits.load_ms)"))))
            }
        }
    }

    /// Serves until something ends it. Jobs that the worker had are answered; jobs that it had not begun wait again.
    pub async fn serve(&mut self, tally: &Tally, stop: &mut watch::Receiver<bool>, mut answered: impl FnMut()) -> End {
        let Some(declared) = self.handle.declared() else {
            return End::Lost(Cause::protocol("it is ready without having declared anything"));
        };
        let mut flight = Flight::new(self.slots, self.instances, self.ahead);
        let end = self.run(&declared, &mut flight, tally, stop, &mut answered).await;
        self.handle.queue.interrupted();
        self.leave(flight.crash(Instant::now()), &end);
        end
    }

    /// What becomes of the jobs of a worker that is gone.
    ///
    /// Where it was killed at a deadline, who is to blame is known: the batch that ran too long. What its other instances
    /// ran is run again, by whichever worker comes first; inference changes nothing, so that is safe. Once: whoever is met
    /// by this twice is told. Where a worker died, any of the batches that it ran may have killed it and would do so again,
    /// so all of them are told.
    fn leave(&self, crash: Crash, end: &End) {
        let Crash { late, begun, untouched } = crash;
        let deadline = matches!(end, End::Lost(cause) if cause.word == "deadline");
        let (again, lost): (Vec<Job>, Vec<Job>) = match deadline {
            true => begun.into_iter().map(|mut job| (job.begin_again(), job)).fold(Default::default(), part),
            false => (Vec::new(), begun),
        };
        for job in again.into_iter().chain(untouched).rev() {
            self.handle.queue.push_front(job);
        }
        late.into_iter().for_each(|job| job.answer(Err(if deadline { excuse::late() } else { excuse::died() })));
        lost.into_iter().for_each(|job| job.answer(Err(excuse::died())));
    }

    async fn run(
        &mut self,
        declared: &Arc<Declared>,
        flight: &mut Flight,
        tally: &Tally,
        stop: &mut watch::Receiver<bool>,
        answered: &mut impl FnMut(),
    ) -> End {
        let rule = Rule {
            max_rows: declared.max_batch_size.into(),
            delay: Duration::from_micros(declared.max_batch_delay_us),
            max_bytes: self.slot_bytes / 2,
        };
        let together = rule.max_rows > 1;
        let mut pings = Pings::new(self.ping);
        let (mut too_long, mut together_by, mut ebbs) = (Alarm::new(), Alarm::new(), Alarm::new());
        loop {
            let mut company = None;
            while flight.has_room(together) {
                match self.handle.queue.depart(rule, Instant::now()) {
                    Next::Empty => break,
                    Next::At(time) => {
                        company = Some(time);
                        break;
                    }
                    Next::Batch(jobs) => {
                        if let Some(end) = self.give(flight, tally, jobs, declared).await {
                            return end;
                        }
                    }
                }
            }
            if *stop.borrow() && flight.is_empty() && self.handle.queue.is_empty() {
                return self.drain().await;
            }
            let room = flight.has_room(together);
            let overdue = flight.overdue(self.usual(declared));
            let vigil = flight.since().and_then(|since| self.vigil.until(since));
            let ebb = self.tides.due();
            tokio::select! {
                biased;
                message = self.link.receive_soon(vigil) => {
                    let end = self.hear(message, flight, declared, &mut pings, answered).await;
                    tally.now(flight.len());
                    if let Some(end) = end {
                        return end;
                    }
                }
                () = too_long.ring(overdue) => return End::Lost(Cause::deadline("no answer at the request's deadline")),
                () = self.handle.queue.arrival(), if room => {}
                () = together_by.ring(company) => {}
                () = ebbs.ring(ebb) => self.tides.ebb(flight, Instant::now()),
                slot = self.tides.ebbed() => {
                    flight.give_back(slot);
                    self.tides.ebb(flight, Instant::now());
                }
                _ = stop.changed() => {}
                () = pings.due(), if flight.is_empty() => {
                    if !pings.ask(&self.link) {
                        return End::Lost(Cause::deadline("two questions whether it is alive went unanswered"));
                    }
                }
            }
        }
    }

    async fn give(
        &mut self,
        flight: &mut Flight,
        tally: &Tally,
        jobs: Vec<Job>,
        declared: &Arc<Declared>,
    ) -> Option<End> {
        let now = Instant::now();
        for job in &jobs {
            self.handle.served.waited(now.saturating_duration_since(job.queued()));
            job.trace().end(Stage::Queue);
        }
        match flight.give(&self.link, jobs, &declared.signature).await {
            Ok(()) => {
                tally.given(flight.len());
                None
            }
            Err(NotGiven::Late) => {
                // They waited for a desk: that says nothing of how fast the model is.
                self.handle.queue.interrupted();
                None
            }
            Err(NotGiven::Link(error, jobs)) => {
                for job in jobs.into_iter().rev() {
                    self.handle.queue.push_front(job);
                }
                Some(match error {
                    LinkError::Closed => End::Lost(Cause::silent("its channel closed")),
                    LinkError::Protocol(what) => End::Lost(Cause::protocol(&what)),
                })
            }
            Err(NotGiven::Arena(error, jobs)) => {
                tracing::error!(model = %self.handle.model, %error, "admitted tensors do not fit the arena");
                let refusal =
                    Refusal::new(Kind::Internal, "the request's tensors could not be placed in shared memory");
                jobs.into_iter().for_each(|job| job.answer(Err(refusal.clone())));
                None
            }
        }
    }

    /// What one message, or the end of them, means.
    async fn hear(
        &mut self,
        message: Result<FromWorker, LinkError>,
        flight: &mut Flight,
        declared: &Arc<Declared>,
        pings: &mut Pings,
        answered: &mut impl FnMut(),
    ) -> Option<End> {
        match message {
            Ok(FromWorker::Done { batch, outputs, run_us }) => {
                let end = self.done(batch, outputs, run_us, flight, declared).await;
                if end.is_none() {
                    answered();
                }
                end
            }
            Ok(FromWorker::Failed { batch, failure, detail }) => {
                let detail = telemetry::escape(&detail);
                tracing::warn!(model = %self.handle.model, ?failure, detail, "the model failed on a batch");
                let Some(running) = flight.land(batch) else {
                    return Some(wrong_batch(batch));
                };
                if failure == Failure::Memory {
                    self.seat.violated(&Violation::memory(), "an allocation beyond the limit was refused; it goes on");
                }
                self.vigil.learn(running.since.elapsed());
                self.tides.landed(running.slot, [running.bytes(), 0], Instant::now());
                self.fail(running, &excuse::failed(failure));
                answered();
                None
            }
            Ok(FromWorker::Pong { token }) => {
                if pings.answered(token) {
                    None
                } else {
                    Some(End::Lost(Cause::protocol("an answer to a question that was not asked")))
                }
            }
            Ok(FromWorker::Met { convolutions }) => {
                self.said = self.said.saturating_add(convolutions.len().max(1));
                if self.said > MAX_SAID || convolutions.iter().any(|one| one.check().is_err()) {
                    return Some(End::Lost(Cause::protocol("convolutions beyond all bounds")));
                }
                self.handle.met(convolutions);
                None
            }
            Ok(other) => Some(out_of_turn(&other)),
            Err(error) => Some(self.gone(error).await),
        }
    }

    /// What a run usually takes, as far as that may put off a kill: a worker that answers later and later would otherwise
    /// put it off for ever.
    fn usual(&self, declared: &Declared) -> Duration {
        self.handle.queue.usual_run().min(Duration::from_millis(declared.deadline_ms) / 4)
    }

    async fn done(
        &mut self,
        batch: BatchId,
        placed: Vec<Placed>,
        run_us: u64,
        flight: &mut Flight,
        declared: &Arc<Declared>,
    ) -> Option<End> {
        let Some(running) = flight.land(batch) else {
            return Some(wrong_batch(batch));
        };
        self.vigil.learn(running.since.elapsed());
        // The worker's own figure, but never more than the front has waited.
        let ran = Duration::from_micros(run_us).min(running.since.elapsed());
        self.handle.queue.ran(ran);
        let answer = placed.iter().map(|p| p.offset.saturating_add(p.bytes)).max().unwrap_or(0);
        self.tides.landed(running.slot, [running.bytes(), answer], Instant::now());
        self.handle.served.ran(running.rows.unwrap_or(1), ran);
        running.jobs.iter().for_each(|job| job.trace().ran(ran));
        match self.link.take(running.slot, placed, declared, running.rows, running.deadline()).await {
            // All of them were late before a desk was free, and have been told by their own clocks.
            Ok(None) => {}
            Ok(Some(outputs)) => match split::split(&running.jobs, outputs) {
                Some(parts) => {
                    for (job, part) in running.jobs.into_iter().zip(parts) {
                        job.answer(Ok(part));
                    }
                }
                None => self.fail(running, &excuse::failed(Failure::Output)),
            },
            Err(Unbelieved::Undeclared(why)) => {
                tracing::warn!(model = %self.handle.model, why, "the model's output is not what its manifest declares");
                self.fail(running, &excuse::failed(Failure::Output));
            }
            Err(Unbelieved::Lie(why)) => {
                running.jobs.into_iter().for_each(|job| job.answer(Err(excuse::lied())));
                return Some(End::Lost(Cause::protocol(&why)));
            }
        }
        None
    }

    /// Those who rode together are run again, each alone, so that one bad request is one bad answer.
    fn fail(&self, running: Running, refusal: &Refusal) {
        if running.jobs.len() == 1 {
            running.jobs.into_iter().for_each(|job| job.answer(Err(refusal.clone())));
            return;
        }
        for mut job in running.jobs.into_iter().rev() {
            job.ride_alone();
            self.handle.queue.push_front(job);
        }
    }

    async fn next(&mut self) -> Result<FromWorker, End> {
        match self.link.receive().await {
            Ok(FromWorker::Gated { code, detail }) => {
                self.handle.gated(code);
                self.handle.refused(Step::Gate);
                Err(End::Hopeless(Cause::gated(code, &detail)))
            }
            // From there on a model may speak for its worker, and of these steps the status tells every word.
            Ok(refused @ FromWorker::Refused { step, .. }) if self.verified && !step.runs_the_model() => {
                Err(out_of_turn(&refused))
            }
            Ok(FromWorker::Refused { step, detail }) => {
                self.handle.refused(step);
                let cause = Cause::refused(step, &detail);
                Err(if step.is_final() { End::Hopeless(cause) } else { End::Lost(cause) })
            }
            Ok(message) => Ok(message),
            Err(error) => Err(self.gone(error).await),
        }
    }

    /// A closed channel: the worker is dying, or it has cut its channel and stays. To kill it is right for both, and leaves
    /// the cause of one that is dying as it is.
    async fn gone(&mut self, error: LinkError) -> End {
        End::Lost(match error {
            LinkError::Protocol(what) => Cause::protocol(&what),
            LinkError::Closed => {
                let stayed = || Cause::silent("it closed its channel and did not exit");
                self.bury().await.unwrap_or_else(stayed)
            }
        })
    }

    /// Sees that the worker is gone. Returns how it ended, if that was not by our hand.
    pub async fn bury(&mut self) -> Option<Cause> {
        self.launcher.kill(self.worker).await;
        match timeout(Duration::from_secs(10), self.exit.wait()).await {
            Ok(None | Some(ExitCause::Killed)) => None,
            Ok(Some(cause)) => Some(Cause::from_exit(cause)),
            Err(_) => {
                tracing::error!(worker = %self.worker, "a killed worker has not gone within 10 s; its slot is lost");
                None
            }
        }
    }

    async fn drain(&mut self) -> End {
        if self.link.send(&ToWorker::Drain).is_err() {
            return End::Lost(Cause::silent("it cannot be told to go"));
        }
        match timeout(Duration::from_secs(2), self.exit.wait()).await {
            Ok(_) => End::Drained,
            Err(_) => End::Lost(Cause::deadline("it did not go when told")),
        }
    }
}

fn part((mut yes, mut no): (Vec<Job>, Vec<Job>), (again, job): (bool, Job)) -> (Vec<Job>, Vec<Job>) {
    if again {
        yes.push(job)
    } else {
        no.push(job)
    }
    (yes, no)
}

fn out_of_turn(message: &FromWorker) -> End {
    let what = match message {
        FromWorker::Verified { .. } => "Verified",
        FromWorker::Ready { .. } => "Ready",
        FromWorker::Gated { .. } => "Gated",
        FromWorker::Refused { .. } => "Refused",
        FromWorker::Done { .. } => "Done",
        FromWorker::Failed { .. } => "Failed",
        FromWorker::Pong { .. } => "Pong",
        FromWorker::Met { .. } => "Met",
    };
    End::Lost(Cause::protocol(&format!("{what} out of turn")))
}

fn wrong_batch(batch: BatchId) -> End {
    End::Lost(Cause::protocol(&format!("an answer for {batch}, which is not the one that runs")))
}
