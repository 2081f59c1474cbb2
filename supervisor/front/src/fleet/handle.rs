//! One served model as the rest of the front sees it: its queue, its declaration, its status.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_config::tenant::{Spawn, Tenant};
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::{Declared, GateCode, Inside, Step};

use super::breaker::Opened;
use super::breakers::{Breakers, SharedBreaker};
use super::cause::Cause;
use super::printed::Printed;
use super::violation::{Call, Violation};
use crate::batch::queue::Queue;
use crate::metrics::Metrics;
use crate::status::{LastExit, ModelStatus, OutputStatus, Seen, State, Violations, WorkerStatus};

/// One served model. Written by its supervisor alone.
#[derive(Debug)]
pub struct ModelHandle {
    /// Its name and version.
    pub model: ModelId,
    /// Requests that wait for it.
    pub queue: Queue,
    status: RwLock<ModelStatus>,
    printed: Mutex<Printed>,
    breakers: Breakers,
    /// That of its bytes, once a worker has said which they are.
    breaker: RwLock<Option<SharedBreaker>>,
    /// Why the gate refused it; said by its worker, but of a closed set.
    gate: OnceLock<GateCode>,
    metrics: Metrics,
}

impl ModelHandle {
    /// A model that is about to be started.
    pub fn new(
        model: ModelId,
        waived: Vec<Waiver>,
        run_time_code: RunTimeCode,
        queue: usize,
        breakers: Breakers,
        metrics: Metrics,
    ) -> Arc<Self> {
        let status = ModelStatus {
            model: model.clone(),
            state: State::Starting,
            declared: None,
            worker: None,
            starts: 0,
            last_exit: None,
            waived,
            run_time_code,
            tenant: model.name.as_str().to_owned(),
            spawn: Spawn::Exec.name(),
            violations: Violations::default(),
            breaker: None,
            output: OutputStatus::default(),
        };
        metrics.model_state(&model, &State::Starting);
        Arc::new(Self {
            model,
            queue: Queue::new(queue),
            status: RwLock::new(status),
            gate: OnceLock::new(),
            printed: Mutex::default(),
            breakers,
            breaker: RwLock::new(None),
            metrics,
        })
    }

    /// Whose it is, and how its workers come to be, where that is not a tenant of its own and the usual way.
    pub fn belongs_to(&self, tenant: &Tenant, spawn: Spawn) {
        self.metrics.model_of(&self.model, tenant.as_str(), spawn.name());
        self.write(|s| {
            s.tenant = tenant.to_string();
            s.spawn = spawn.name();
        });
    }

    /// Its status now.
    pub fn status(&self) -> ModelStatus {
        let breaker = self.breaker().map(|breaker| breaker.status());
        let (state, output) = (self.state(), self.lock_printed().counts());
        ModelStatus { state, breaker, output, ..self.read(Clone::clone) }
    }

    /// Where it is in its life. Another model of the same bytes can have opened the breaker of both.
    pub fn state(&self) -> State {
        let state = self.read(|s| s.state.clone());
        match state {
            State::Starting | State::Ready | State::BackingOff(_) if self.open_for().is_some() => {
                State::Open("workers of the same bytes keep dying".to_owned())
            }
            state => state,
        }
    }

    /// How long its breaker is still open; nothing where it is not.
    pub fn open_for(&self) -> Option<Duration> {
        self.breaker().and_then(|breaker| breaker.open_for())
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

    pub(super) fn started(&self, worker: WorkerId, pid: u32, uid: Option<u32>) {
        self.metrics.worker_started(&self.model);
        self.lock_printed().begin();
        self.write(|s| {
            s.starts += 1;
            s.worker = Some(WorkerStatus { worker, pid, uid, batches: 0, cage: Vec::new(), inside: None, ready_us: 0 });
        });
    }

    pub(super) fn verified(&self, declared: Arc<Declared>) {
        let breaker = self.breakers.of(declared.sha256);
        *self.breaker.write().unwrap_or_else(PoisonError::into_inner) = Some(breaker);
        self.write(|s| s.declared = Some(declared));
    }

    pub(super) fn ready(&self, ready_us: u64, cage: Vec<Reading>, inside: Inside) {
        self.metrics.caged(&self.model, &cage, inside.landlock_abi);
        self.write(|s| {
            if let Some(worker) = &mut s.worker {
                worker.ready_us = ready_us;
                worker.cage = cage;
                worker.inside = Some(inside);
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

    /// A good answer: the model does more than die.
    pub(super) fn answered(&self) {
        if let Some(breaker) = self.breaker() {
            breaker.answered();
        }
    }

    /// Its worker refused it.
    pub(super) fn refused(&self, step: Step) {
        self.metrics.model_refused(&self.model, step.name());
    }

    /// Something of its worker's was refused or ended: one event in the log, one number more, one record in the status.
    pub(super) fn violated(&self, violation: &Violation, detail: &str) {
        let Violation { guard, cause, call } = violation;
        let layer = guard.name();
        let worker = self.read(|s| s.worker.as_ref().map(|w| (w.worker, w.pid, w.uid)));
        let caller = call.as_ref().and_then(|call| call.caller.as_ref());
        tracing::warn!(
            event = "violation",
            model = %self.model.name,
            version = %self.model.version,
            tenant = self.read(|s| s.tenant.clone()),
            layer,
            cause,
            worker = worker.map(|(id, ..)| id.0),
            pid = worker.map(|(_, pid, _)| pid),
            uid = worker.and_then(|(.., uid)| uid),
            call = call.as_ref().map(|call| call.name),
            number = call.as_ref().map(|call| call.number),
            args = call.as_deref().map(Call::arguments),
            instruction = call.as_ref().map(|call| format!("{:#x}", call.instruction)),
            origin = caller.map(|caller| caller.origin.as_str()),
            thread = caller.map(|caller| caller.thread),
            thread_name = caller.map(|caller| caller.name.as_str()),
            detail,
            "a layer held"
        );
        self.metrics.violated(&self.model, layer, cause);
        let seen = Seen {
            at: now(),
            layer,
            cause,
            worker: worker.map(|(id, ..)| id),
            pid: worker.map(|(_, pid, _)| pid),
            call: call.as_ref().map(|call| (call.name, call.number)),
            origin: caller.map(|caller| caller.origin.clone()),
        };
        self.write(|s| s.violations.add(seen));
    }

    /// Its worker printed this; so many bytes of it did not reach the log.
    pub(super) fn printed(&self, bytes: &[u8], dropped: u64) {
        self.lock_printed().take(bytes, dropped);
    }

    /// The last lines that its worker printed, safe to print.
    pub(super) fn output_tail(&self) -> String {
        self.lock_printed().tail()
    }

    /// A worker of the model ended; says so if that opened the breaker.
    pub(super) fn ended(&self, cause: &Cause) -> Option<Opened> {
        if let Some(violation) = &cause.violation {
            self.violated(violation, &cause.detail);
        }
        self.metrics.worker_ended(&self.model, cause.word);
        self.metrics.uncaged(&self.model);
        let at = now();
        self.write(|s| {
            let worker = s.worker.take().map(|w| w.worker);
            s.last_exit = Some(LastExit { worker, cause: cause.word, detail: cause.told().to_owned(), at });
        });
        let opened = self.breaker().filter(|_| cause.is_the_models()).and_then(|breaker| breaker.died());
        if opened.is_some() {
            self.metrics.breaker_opened(&self.model);
        }
        opened
    }

    fn breaker(&self) -> Option<SharedBreaker> {
        self.breaker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_printed(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, look: impl FnOnce(&ModelStatus) -> T) -> T {
        look(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut ModelStatus)) {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
