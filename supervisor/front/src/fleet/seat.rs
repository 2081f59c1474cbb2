//! A place for one worker of a model: who sits in it, and how that one is doing. A model has as many as its config says
//! `workers`; each has a supervisor of its own, and all are fed from the model's one queue.

use std::sync::Arc;

use casemate_ipc::id::WorkerId;
use casemate_ipc::layer::Reading;
use casemate_ipc::work::Inside;

use super::breaker::Opened;
use super::cause::Cause;
use super::excuse;
use super::handle::{ModelHandle, now};
use super::violation::Violation;
use crate::status::tally::Tally;
use crate::status::{LastExit, State, WorkerStatus};

/// One place; cheap to clone.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Whose.
    pub handle: Arc<ModelHandle>,
    number: usize,
}

impl Seat {
    /// The place of this number, counted from 0.
    pub fn new(handle: Arc<ModelHandle>, number: usize) -> Self {
        Self { handle, number }
    }

    /// Its number, for metrics.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Whether a worker in another place of the same model serves.
    pub fn others_serve(&self) -> bool {
        self.handle.read(|s| s.seats.iter().enumerate().any(|(n, seat)| n != self.number && seat.state == State::Ready))
    }

    pub(super) fn enter(&self, state: State) {
        self.handle.write(|s| {
            if let Some(seat) = s.seats.get_mut(self.number) {
                seat.state = state;
            }
        });
        self.handle.show_state();
    }

    /// Its worker drained, and there will be no other. The last one of the model refuses who was let in a moment before the
    /// stop, and queued a moment after the last look.
    pub(super) fn drained(&self) {
        self.enter(State::Draining);
        if matches!(self.handle.state(), State::Draining | State::Failed(_)) {
            self.handle.queue.refuse_all(&excuse::going_down());
        }
    }

    pub(super) fn started(&self, worker: WorkerId, pid: u32, uid: Option<u32>) {
        self.handle.metrics().worker_started(&self.handle.model);
        if let Some(mut printed) = self.handle.printed(self.number) {
            printed.begin();
        }
        let tally = Arc::default();
        let status = WorkerStatus { worker, pid, uid, tally, cage: Vec::new(), inside: None, ready_us: 0 };
        self.handle.write(|s| {
            s.starts += 1;
            if let Some(seat) = s.seats.get_mut(self.number) {
                seat.worker = Some(status);
            }
        });
    }

    /// Its worker serves; what it does from now on is counted there.
    pub(super) fn ready(&self, ready_us: u64, cage: Vec<Reading>, inside: Inside) -> Arc<Tally> {
        let tally = Arc::new(Tally::new(self.handle.metrics().worker(&self.handle.model, self.number)));
        self.handle.write(|s| {
            if let Some(worker) = s.seats.get_mut(self.number).and_then(|seat| seat.worker.as_mut()) {
                worker.ready_us = ready_us;
                worker.cage = cage;
                worker.inside = Some(inside);
                worker.tally = Arc::clone(&tally);
            }
        });
        self.handle.show_cages();
        self.enter(State::Ready);
        tally
    }

    /// Something of its worker's was refused or ended.
    pub(super) fn violated(&self, violation: &Violation, detail: &str) {
        let sitting = |worker: &WorkerStatus| (worker.worker, worker.pid, worker.uid);
        let worker = self.handle.read(|s| s.seats.get(self.number)?.worker.as_ref().map(sitting));
        self.handle.violated(worker, violation, detail);
    }

    /// Its worker printed this; so many bytes of it did not reach the log.
    pub(super) fn printed(&self, bytes: &[u8], dropped: u64) {
        if let Some(mut printed) = self.handle.printed(self.number) {
            printed.take(bytes, dropped);
        }
    }

    /// The last lines that its worker printed, safe to print.
    pub(super) fn output_tail(&self) -> String {
        self.handle.printed(self.number).map(|printed| printed.tail()).unwrap_or_default()
    }

    /// Its worker ended; says so if that opened the breaker.
    pub(super) fn ended(&self, cause: &Cause) -> Option<Opened> {
        if let Some(violation) = &cause.violation {
            self.violated(violation, &cause.detail);
        }
        self.handle.metrics().worker_ended(&self.handle.model, cause.word);
        let at = now();
        self.handle.write(|s| {
            let worker = s.seats.get_mut(self.number).and_then(|seat| seat.worker.take());
            let worker = worker.map(|gone| {
                gone.tally.end();
                gone.worker
            });
            s.last_exit = Some(LastExit { worker, cause: cause.word, detail: cause.told().to_owned(), at });
        });
        self.handle.show_cages();
        self.handle.died(cause)
    }
}
