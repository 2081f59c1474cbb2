//! Jobs that wait for one model: bounded, first come first served; the late and the gone fall out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::job::Job;
use super::plan::{self, Departure, Rule};
use super::tempo::Tempo;
use crate::refusal::{Kind, Refusal};

/// The queue of one model. It outlives workers: what waits while one is replaced is run by the next.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    bounds: Bounds,
    arrived: Notify,
}

/// What may wait for one model at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Requests.
    pub jobs: usize,
    /// Bytes of their tensors. One request is taken in whatever it has, where nobody else waits.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: u64,
    tempo: Tempo,
}

/// What [`Queue::depart`] found.
#[derive(Debug)]
pub enum Next {
    /// These ride together, at least one.
    Batch(Vec<Job>),
    /// Nothing to do before this time.
    At(Instant),
    /// Nobody waits.
    Empty,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self { waiting: Mutex::default(), bounds, arrived: Notify::new() }
    }

    /// Whether somebody with this deadline would be taken in now. Asked before a body is read, so of its bytes nothing is known.
    pub fn knock(&self, deadline: Option<Instant>) -> Result<(), Refusal> {
        self.lock().admit(self.bounds, 0, deadline)
    }

    /// Takes a job in, or says why not.
    pub fn push(&self, job: Job) -> Result<(), Refusal> {
        {
            let mut waiting = self.lock();
            waiting.admit(self.bounds, job.bytes(), Some(job.deadline()))?;
            waiting.bytes = waiting.bytes.saturating_add(job.bytes());
            waiting.jobs.push_back(job);
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Puts a job back in front of all others, whatever the bounds: it was taken in once already.
    pub fn push_front(&self, job: Job) {
        {
            let mut waiting = self.lock();
            // Its batch failed or its worker is gone; the time until the next one leaves says nothing of the model.
            waiting.tempo.interrupted();
            waiting.bytes = waiting.bytes.saturating_add(job.bytes());
            waiting.jobs.push_front(job);
        }
        self.arrived.notify_one();
    }

    /// Lets the next batch go, if it is time.
    pub fn depart(&self, rule: Rule, now: Instant) -> Next {
        let mut waiting = self.lock();
        waiting.sweep(now);
        match plan::plan(waiting.jobs.iter(), rule, waiting.tempo.run(), now) {
            Departure::Empty => {
                waiting.tempo.interrupted();
                Next::Empty
            }
            Departure::At(time) => Next::At(time),
            Departure::Now(places) => {
                let mut batch: Vec<Job> = Vec::with_capacity(places.len());
                // From the back, so that the places in front keep their numbers.
                batch.extend(places.iter().rev().filter_map(|place| waiting.jobs.remove(*place)));
                batch.reverse();
                let bytes = batch.iter().map(Job::bytes).fold(0, u64::saturating_add);
                waiting.bytes = waiting.bytes.saturating_sub(bytes);
                let behind = waiting.jobs.len();
                waiting.tempo.departed(batch.len(), behind, now);
                Next::Batch(batch)
            }
        }
    }

    /// A batch of this model ran so long.
    pub fn ran(&self, run: Duration) {
        self.lock().tempo.ran(run);
    }

    /// How long a batch of this model usually runs; zero where none has.
    pub fn usual_run(&self) -> Duration {
        self.lock().tempo.run()
    }

    /// The time until the next batch leaves says nothing of the model: its worker is gone.
    pub fn interrupted(&self) {
        self.lock().tempo.interrupted();
        // Whoever was woken for a job may be the one that is gone.
        self.arrived.notify_one();
    }

    /// Waits until a job has come since the last call.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Refuses everybody who waits.
    pub fn refuse_all(&self, refusal: &Refusal) {
        let refused = {
            let mut waiting = self.lock();
            waiting.bytes = 0;
            waiting.tempo.interrupted();
            std::mem::take(&mut waiting.jobs)
        };
        for job in refused {
            job.answer(Err(refusal.clone()));
        }
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that runs under this lock leaves the queue half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiting ===

impl Waiting {
    /// Whether a job of so many bytes may join.
    fn admit(&mut self, bounds: Bounds, bytes: u64, deadline: Option<Instant>) -> Result<(), Refusal> {
        let now = Instant::now();
        if self.is_full(bounds, bytes) || self.too_long(deadline, now).is_some() {
            // Somebody who has hung up must not keep out somebody who waits, nor make a wait look long.
            self.sweep(now);
        }
        if self.is_full(bounds, bytes) {
            let what = if self.jobs.len() >= bounds.jobs {
                format!("{} requests wait for this model already (limits.queue)", self.jobs.len())
            } else {
                format!("{} bytes wait for this model already (limits.queue_bytes)", self.bytes)
            };
            let busy = Refusal::new(Kind::Busy, format!("{what}; come again"));
            return Err(busy.retry_after(self.until_empty()));
        }
        if let Some(wait) = self.too_long(deadline, now) {
            let (ahead, wait) = (self.jobs.len(), wait.as_millis());
            let message = format!(
                "{ahead} requests wait for this model, for about {wait} ms: longer than this request may take; come again"
            );
            return Err(Refusal::new(Kind::Overload, message).retry_after(self.until_empty()));
        }
        Ok(())
    }

    /// How long all that are here will wait, where whoever comes now with this deadline cannot wait so long.
    fn too_long(&self, deadline: Option<Instant>, now: Instant) -> Option<Duration> {
        let (wait, deadline) = (self.tempo.wait(self.jobs.len())?, deadline?);
        (!self.jobs.is_empty() && now + wait > deadline).then_some(wait)
    }

    fn is_full(&self, bounds: Bounds, bytes: u64) -> bool {
        let heavy = !self.jobs.is_empty() && self.bytes.saturating_add(bytes) > bounds.bytes;
        self.jobs.len() >= bounds.jobs || heavy
    }

    /// When to come again: what waits now will have left.
    fn until_empty(&self) -> Duration {
        const SOONEST: Duration = Duration::from_secs(1);
        const LATEST: Duration = Duration::from_secs(60);
        self.tempo.wait(self.jobs.len()).unwrap_or(SOONEST).clamp(SOONEST, LATEST)
    }

    /// Drops jobs that nobody waits for. Their clients have been told by their own clocks, or have hung up.
    fn sweep(&mut self, now: Instant) {
        let mut dropped = 0u64;
        self.jobs.retain(|job| {
            let stays = !job.is_gone() && job.deadline() > now;
            if !stays {
                dropped = dropped.saturating_add(job.bytes());
            }
            stays
        });
        self.bytes = self.bytes.saturating_sub(dropped);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
