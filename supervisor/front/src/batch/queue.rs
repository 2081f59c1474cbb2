//! Jobs that wait for one model: bounded, first come first served; the late and the gone fall out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::job::Job;
use super::plan::{self, Departure, Rule};
use crate::refusal::{Kind, Refusal};

/// The queue of one model. It outlives workers: what waits while one is replaced is run by the next.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<VecDeque<Job>>,
    limit: usize,
    arrived: Notify,
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
    /// A queue for at most `limit` jobs.
    pub fn new(limit: usize) -> Self {
        Self { waiting: Mutex::new(VecDeque::new()), limit, arrived: Notify::new() }
    }

    /// Takes a job in, or says that there is no room.
    pub fn push(&self, job: Job) -> Result<(), Refusal> {
        {
            let mut waiting = self.lock();
            if waiting.len() >= self.limit {
                // Somebody who has hung up must not keep out somebody who waits.
                sweep(&mut waiting, Instant::now());
            }
            if waiting.len() >= self.limit {
                let message = format!("{} requests wait for this model already (limits.queue); come again", self.limit);
                return Err(Refusal::new(Kind::Busy, message).retry_after(Duration::from_secs(1)));
            }
            waiting.push_back(job);
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Puts a job back in front of all others, whatever the limit: it was taken in once already.
    pub fn push_front(&self, job: Job) {
        self.lock().push_front(job);
        self.arrived.notify_one();
    }

    /// Lets the next batch go, if it is time.
    pub fn depart(&self, rule: Rule, now: Instant) -> Next {
        let mut waiting = self.lock();
        sweep(&mut waiting, now);
        match plan::plan(waiting.iter(), rule, now) {
            Departure::Empty => Next::Empty,
            Departure::At(time) => Next::At(time),
            Departure::Now(places) => {
                let mut batch: Vec<Job> = Vec::with_capacity(places.len());
                // From the back, so that the places in front keep their numbers.
                batch.extend(places.iter().rev().filter_map(|place| waiting.remove(*place)));
                batch.reverse();
                Next::Batch(batch)
            }
        }
    }

    /// Waits until a job has come since the last call.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Refuses everybody who waits.
    pub fn refuse_all(&self, refusal: &Refusal) {
        let waiting = std::mem::take(&mut *self.lock());
        for job in waiting {
            job.answer(Err(refusal.clone()));
        }
    }

    /// Jobs that wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Nothing that runs under this lock leaves the queue half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops jobs that nobody waits for. Their clients have been told by their own clocks, or have hung up.
fn sweep(waiting: &mut VecDeque<Job>, now: Instant) {
    waiting.retain(|job| !job.is_gone() && job.deadline() > now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::permit::Room;
    use crate::batch::job::Answer;

    fn job(deadline: Duration) -> (Job, Answer) {
        Job::new(Vec::new(), None, Instant::now() + deadline, Room::new(9).take(1).unwrap())
    }

    const RULE: Rule = Rule { max_rows: 1, delay: Duration::ZERO, max_bytes: 1000 };

    #[test]
    fn the_late_and_the_gone_fall_out() {
        let queue = Queue::new(2);
        let (late, _a) = job(Duration::ZERO);
        let (gone, b) = job(Duration::from_secs(9));
        let (kept, _c) = job(Duration::from_secs(9));
        queue.push(late).unwrap();
        queue.push(gone).unwrap();
        drop(b);
        queue.push(kept).unwrap();
        assert_eq!(queue.len(), 1);
        assert!(matches!(queue.depart(RULE, Instant::now()), Next::Batch(batch) if batch.len() == 1));
        assert!(matches!(queue.depart(RULE, Instant::now()), Next::Empty));
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let queue = Queue::new(1);
        let (first, _a) = job(Duration::from_secs(9));
        let (second, _b) = job(Duration::from_secs(9));
        queue.push(first).unwrap();
        let refusal = queue.push(second).unwrap_err();
        assert_eq!(refusal.kind, Kind::Busy);
        assert!(refusal.retry_after.is_some());
    }
}
