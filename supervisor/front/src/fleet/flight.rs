//! Batches that a worker has, in the order in which they were given. It takes them in that order, one for each of its
//! instances, so the first ones have begun and the others have not; answers come only for those that have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use casemate_ipc::id::BatchId;
use casemate_ipc::shm::arena::{ALIGN, ArenaError};
use casemate_ipc::tensor::{DType, ModelSignature, Shape};
use casemate_ipc::work::{Placed, ToWorker};

use super::link::{LARGE, Link, LinkError, Load};
use crate::batch::job::Job;
use crate::trace::Stage;

/// What one worker has been given and not yet answered.
#[derive(Debug)]
pub struct Flight {
    running: VecDeque<Running>,
    free: Vec<u32>,
    given: u64,
    instances: usize,
    ahead: bool,
    /// Where the last batch lay: the list is used again.
    placed: Vec<Placed>,
}

/// What a worker leaves behind.
#[derive(Debug)]
pub struct Crash {
    /// It had begun these, and everybody in them had stopped waiting.
    pub late: Vec<Job>,
    /// It had begun these.
    pub begun: Vec<Job>,
    /// It had not.
    pub untouched: Vec<Job>,
}

/// One batch at a worker.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub batch: BatchId,
    /// Its slot in both arenas.
    pub slot: u32,
    /// Who rides in it.
    pub jobs: Vec<Job>,
    /// Rows in all, where the model has rows.
    pub rows: Option<u64>,
    /// When the worker could begin it.
    pub since: Instant,
}

/// Why a batch was not given; the jobs come back.
#[derive(Debug)]
pub enum NotGiven {
    /// The worker has to go; these were never seen by it.
    Link(LinkError, Vec<Job>),
    /// All of them were late before a desk was free; they have been told by their own clocks, and are gone.
    Late,
    /// The tensors do not fit together: a fault of ours.
    Arena(ArenaError, Vec<Job>),
}

impl Running {
    /// Bytes of its slot that were used, or some more: each tensor begins at a multiple of [`ALIGN`].
    pub fn bytes(&self) -> u64 {
        let tensors: usize = self.jobs.iter().map(|job| job.inputs().len()).sum();
        let bytes = self.jobs.iter().map(Job::bytes).fold(0, u64::saturating_add);
        bytes.saturating_add((tensors * ALIGN) as u64)
    }

    /// When everybody in it stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.jobs.iter().map(Job::deadline).max()
    }

    /// When the operator's time for everybody in it is over.
    fn limit(&self) -> Option<Instant> {
        self.jobs.iter().map(Job::limit).max()
    }

    fn overdue(&self, usual: Duration) -> Option<Instant> {
        Some(self.limit()?.max(self.since + MOMENT.max(usual.saturating_mul(USUAL_RUNS))))
    }
}

impl Flight {
    /// Room for `slots` batches, of which a worker runs `instances` at once. `ahead` is whether one that has to wait for an
    /// instance may be given: not where another worker could begin it at once.
    pub fn new(slots: u32, instances: u32, ahead: bool) -> Self {
        let instances = usize::try_from(instances).unwrap_or(usize::MAX).max(1);
        Self {
            running: VecDeque::new(),
            free: (0..slots).rev().collect(),
            given: 0,
            instances,
            ahead,
            placed: Vec::new(),
        }
    }

    /// Writes the jobs into a free slot and gives them to the worker. Nothing is done without a free slot.
    pub async fn give(&mut self, link: &Link, jobs: Vec<Job>, signature: &ModelSignature) -> Result<(), NotGiven> {
        let Some(slot) = self.free.pop() else {
            return Err(NotGiven::Arena(ArenaError::Slot(u32::MAX), jobs));
        };
        let rows = jobs.iter().map(Job::rows).sum::<Option<u64>>();
        let until = jobs.iter().map(Job::deadline).max();
        let bytes = jobs.iter().map(Job::bytes).fold(0, u64::saturating_add);
        let placed = if bytes > LARGE {
            link.place(slot, loads(&jobs, rows, signature), until).await
        } else {
            let mut placed = std::mem::take(&mut self.placed);
            placed.clear();
            link.place_small(slot, inputs(&jobs, rows, signature), &mut placed).map(|()| Some(placed))
        };
        let inputs = match placed {
            Ok(Some(inputs)) => inputs,
            Ok(None) => {
                self.free.push(slot);
                return Err(NotGiven::Late);
            }
            Err(error) => {
                self.free.push(slot);
                return Err(NotGiven::Arena(error, jobs));
            }
        };
        self.given += 1;
        let batch = BatchId(self.given);
        let message = ToWorker::Run { batch, slot, inputs };
        let sent = link.send(&message);
        if let ToWorker::Run { inputs, .. } = message {
            self.placed = inputs;
        }
        if let Err(error) = sent {
            self.free.push(slot);
            return Err(NotGiven::Link(error, jobs));
        }
        jobs.iter().for_each(|job| job.trace().end(Stage::Place));
        self.running.push_back(Running { batch, slot, jobs, rows, since: Instant::now() });
        Ok(())
    }

    /// Takes out a batch that the worker has begun, if one has this id. The next one in the row begins.
    pub fn land(&mut self, batch: BatchId) -> Option<Running> {
        let place = self.running.iter().take(self.instances).position(|running| running.batch == batch)?;
        let running = self.running.remove(place)?;
        if let Some(next) = self.running.get_mut(self.instances - 1) {
            next.since = Instant::now();
        }
        self.free.push(running.slot);
        Some(running)
    }

    /// Whether another batch can be given. Where requests ride together none is given ahead: who comes meanwhile rides in
    /// the next, instead of alone in a slot ahead of it.
    pub fn has_room(&self, together: bool) -> bool {
        !self.free.is_empty() && (self.running.len() < self.instances || (self.ahead && !together))
    }

    /// Batches that the worker has.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Takes a slot out of those that are free, for somebody who is not a batch; false where it is not one of them.
    pub fn reserve(&mut self, slot: u32) -> bool {
        let place = self.free.iter().position(|free| *free == slot);
        place.is_some_and(|place| self.free.remove(place) == slot)
    }

    /// Puts back what was [reserved](Self::reserve).
    pub fn give_back(&mut self, slot: u32) {
        if !self.is_free(slot) {
            self.free.push(slot);
        }
    }

    /// Whether nobody reads or writes a slot.
    pub fn is_free(&self, slot: u32) -> bool {
        self.free.contains(&slot)
    }

    /// Whether the worker has nothing to do.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// When the batch that began last did so: the one that is waited for where there is one instance.
    pub fn since(&self) -> Option<Instant> {
        self.running.iter().take(self.instances).map(|running| running.since).max()
    }

    /// When the operator's time for everybody in a batch that runs now is over, and the worker must have answered. That a
    /// client waits no longer is no sign of a hanging worker, nor is a batch that was begun just before its deadline: it has
    /// some of its `usual` runs first.
    pub fn overdue(&self, usual: Duration) -> Option<Instant> {
        self.running.iter().take(self.instances).filter_map(|running| running.overdue(usual)).min()
    }

    /// Everything that the worker had.
    pub fn crash(self, now: Instant) -> Crash {
        let mut crash = Crash { late: Vec::new(), begun: Vec::new(), untouched: Vec::new() };
        for (place, running) in self.running.into_iter().enumerate() {
            let late = running.limit().is_some_and(|limit| limit <= now);
            let into = match place < self.instances {
                true if late => &mut crash.late,
                true => &mut crash.begun,
                false => &mut crash.untouched,
            };
            into.extend(running.jobs);
        }
        crash
    }
}

const MOMENT: Duration = Duration::from_millis(50);
const USUAL_RUNS: u32 = 4;

/// What one run takes: of each input, the tensors of all jobs as one.
fn inputs<'j>(
    jobs: &'j [Job],
    rows: Option<u64>,
    signature: &ModelSignature,
) -> impl Iterator<Item = (DType, Shape, impl Iterator<Item = &'j [u8]> + Clone + use<'j>)> {
    signature.inputs.iter().enumerate().map(move |(index, spec)| {
        let tensors = jobs.iter().filter_map(move |job| job.inputs().get(index));
        let first = tensors.clone().next().map(|tensor| &tensor.shape);
        let shape = match rows {
            Some(rows) if jobs.len() > 1 => first.map(|shape| shape.with_rows(rows)),
            _ => first.cloned(),
        };
        (spec.dtype, shape.unwrap_or_default(), tensors.map(|tensor| &tensor.data[..]))
    })
}

/// The same to be carried elsewhere.
fn loads(jobs: &[Job], rows: Option<u64>, signature: &ModelSignature) -> Vec<Load> {
    let parts = |index: usize| jobs.iter().filter_map(move |job| Some(job.inputs().get(index)?.data.clone())).collect();
    let load = |(index, (dtype, shape, _))| Load { dtype, shape, parts: parts(index) };
    inputs(jobs, rows, signature).enumerate().map(load).collect()
}
