//! One served model as the rest of the front sees it: its queue, its declaration, its status.

use std::sync::{Arc, OnceLock, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::{Declared, GateCode};

use super::cause::Cause;
use crate::batch::queue::Queue;
use crate::metrics::Metrics;
use crate::status::{LastExit, ModelStatus, State, WorkerStatus};

/// One served model. Written by its supervisor alone.
#[derive(Debug)]
pub struct ModelHandle {
    /// Its name and version.
    pub model: ModelId,
    /// Requests that wait for it.
    pub queue: Queue,
    status: RwLock<ModelStatus>,
    /// Why the gate refused it; said by its worker, but of a closed set.
    gate: OnceLock<GateCode>,
    metrics: Metrics,
}

impl ModelHandle {
    /// A model that is about to be started.
    pub fn new(model: ModelId, waived: Vec<Waiver>, queue: usize, metrics: Metrics) -> Arc<Self> {
        let status = ModelStatus {
            model: model.clone(),
            state: State::Starting,
            declared: None,
            worker: None,
            starts: 0,
            last_exit: None,
            waived,
        };
        metrics.model_state(&model, &State::Starting);
        Arc::new(Self { model, queue: Queue::new(queue), status: RwLock::new(status), gate: OnceLock::new(), metrics })
    }

    /// Its status now.
    pub fn status(&self) -> ModelStatus {
        self.read(Clone::clone)
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.read(|s| s.state.clone())
    }

    /// Its declaration, once a worker has verified it.
    pub fn declared(&self) -> Option<Arc<Declared>> {
        self.read(|s| s.declared.clone())
    }

    /// Why the gate refused it, if it did.
    pub fn gate(&self) -> Option<GateCode> {
        self.gate.get().copied()
    }

    pub(super) fn gated(&self, code: GateCode) {
        // The first word stands; a model that is refused is not started again.
        let _ = self.gate.set(code);
    }

    pub(super) fn enter(&self, state: State) {
        self.metrics.model_state(&self.model, &state);
        self.write(|s| s.state = state);
    }

    pub(super) fn started(&self, worker: WorkerId, pid: u32) {
        self.metrics.worker_started(&self.model);
        self.write(|s| {
            s.starts += 1;
            s.worker = Some(WorkerStatus { worker, pid, batches: 0, cage: Vec::new(), ready_us: 0 });
        });
    }

    pub(super) fn verified(&self, declared: Arc<Declared>) {
        self.write(|s| s.declared = Some(declared));
    }

    pub(super) fn ready(&self, ready_us: u64, cage: Vec<Reading>) {
        self.write(|s| {
            if let Some(worker) = &mut s.worker {
                worker.ready_us = ready_us;
                worker.cage = cage;
            }
        });
        self.enter(State::Ready);
    }

    pub(super) fn given(&self, batches: u64) {
        self.write(|s| {
            if let Some(worker) = &mut s.worker {
                worker.batches = batches;
            }
        });
    }

    pub(super) fn ended(&self, cause: &Cause) {
        self.metrics.worker_ended(&self.model, cause.word);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.write(|s| {
            let worker = s.worker.take().map(|w| w.worker);
            s.last_exit = Some(LastExit { worker, cause: cause.word, detail: cause.detail.clone(), at });
        });
    }

    fn read<T>(&self, look: impl FnOnce(&ModelStatus) -> T) -> T {
        look(&self.status.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut ModelStatus)) {
        change(&mut self.status.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
