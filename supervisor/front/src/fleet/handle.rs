//! One served model as the rest of the front sees it: its queue, its declaration, its status.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_config::model::{Caps, ModelConfig};
use casemate_config::tenant::{Spawn, Tenant};
use casemate_ipc::convolution::{Convolution, MAX_CONVOLUTIONS};
use casemate_ipc::id::{ModelId, WorkerId};
use casemate_ipc::layer::{Reading, Waiver};
use casemate_ipc::work::{Declared, GateCode, Step};

use super::breaker::Opened;
use super::breakers::{Breakers, SharedBreaker};
use super::cause::Cause;
use super::printed::Printed;
use super::violation::{Call, Violation};
use crate::batch::queue::{Bounds, Queue};
use crate::metrics::{Metrics, Served};
use crate::status::{ModelStatus, OutputStatus, SeatStatus, Seen, State, Violations};

/// One served model. Written by its supervisors alone, each for its own [`super::seat::Seat`].
#[derive(Debug)]
pub struct ModelHandle {
    /// Its name and version.
    pub model: ModelId,
    /// Requests that wait for it.
    pub queue: Queue,
    caps: Caps,
    status: RwLock<ModelStatus>,
    /// One for each seat.
    printed: Vec<Mutex<Printed>>,
    /// Held by the supervisor that asks for a worker: the launcher's answer names the model and not who asked.
    pub(super) asking: tokio::sync::Mutex<()>,
    breakers: Breakers,
    /// That of its bytes, once a worker has said which they are.
    breaker: RwLock<Option<SharedBreaker>>,
    /// Why the gate refused it; said by its worker, but of a closed set.
    gate: OnceLock<GateCode>,
    /// What every request moves.
    pub served: Served,
    metrics: Metrics,
}

impl ModelHandle {
    /// A model that is about to be started.
    pub fn new(
        model: ModelId,
        settings: &ModelConfig,
        waived: Vec<Waiver>,
        bounds: Bounds,
        breakers: Breakers,
        metrics: Metrics,
    ) -> Arc<Self> {
        let status = ModelStatus {
            model: model.clone(),
            state: State::Starting,
            declared: None,
            seats: vec![SeatStatus { state: State::Starting, worker: None }; settings.workers as usize],
            instances: settings.instances,
            starts: 0,
            last_exit: None,
            waived,
            run_time_code: settings.run_time_code,
            convolutions: Arc::default(),
            shapes_left_aside: false,
            tenant: model.name.as_str().to_owned(),
            spawn: Spawn::Exec.name(),
            violations: Violations::default(),
            breaker: None,
            output: OutputStatus::default(),
        };
        metrics.model_state(&model, &State::Starting);
        let served = metrics.served(&model);
        Arc::new(Self {
            model,
            queue: Queue::new(bounds),
            caps: settings.caps,
            status: RwLock::new(status),
            gate: OnceLock::new(),
            printed: (0..settings.workers).map(|_| Mutex::default()).collect(),
            asking: tokio::sync::Mutex::default(),
            breakers,
            breaker: RwLock::new(None),
            served,
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
        let (state, output) = (self.state(), self.output());
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

    /// How long a request may take, in milliseconds; as far as the operator says, where no worker has said it yet.
    pub fn deadline_ms(&self) -> u64 {
        self.read(|s| s.declared.as_ref().map(|declared| declared.deadline_ms)).unwrap_or(self.caps.deadline_ms)
    }

    /// Why the gate refused it, if it did.
    pub fn gate(&self) -> Option<GateCode> {
        self.gate.get().copied()
    }

    pub(super) fn gated(&self, code: GateCode) {
        // The first word stands; a model that is refused is not started again.
        let _ = self.gate.set(code);
    }

    /// What its manifest asks for holds within the operator's bounds.
    pub(crate) fn verified(&self, declared: Declared) {
        let Caps { batch_size, batch_delay_ms, deadline_ms } = self.caps;
        let declared = Arc::new(Declared {
            max_batch_size: declared.max_batch_size.min(batch_size),
            max_batch_delay_us: declared.max_batch_delay_us.min(batch_delay_ms.saturating_mul(1000)),
            deadline_ms: declared.deadline_ms.min(deadline_ms),
            ..declared
        });
        let breaker = self.breakers.of(declared.sha256);
        *self.breaker.write().unwrap_or_else(PoisonError::into_inner) = Some(breaker);
        self.write(|s| {
            if s.declared.as_ref().is_some_and(|before| before.sha256 != declared.sha256) {
                s.convolutions = Arc::default();
            }
            s.declared = Some(declared);
        });
    }

    /// Whether its new worker does without the `model.shapes` that it has.
    pub(super) fn shapes_left_aside(&self, aside: bool) {
        self.write(|s| s.shapes_left_aside = aside);
    }

    /// Its worker ran these without oneDNN's code.
    pub(crate) fn met(&self, convolutions: Vec<Convolution>) {
        self.write(|s| {
            // Copied only where somebody is reading a status just now.
            let list = Arc::make_mut(&mut s.convolutions);
            for one in convolutions {
                if let Some(known) = list.iter_mut().find(|known| known.is_like(&one)) {
                    known.rows = known.rows.max(one.rows);
                } else if list.len() < MAX_CONVOLUTIONS {
                    list.push(one);
                }
            }
        });
    }

    /// What its seats come to, for everybody.
    pub(super) fn show_state(&self) {
        let state = self.change(|s| {
            s.state = State::of_all(&s.seats);
            s.state.clone()
        });
        self.metrics.model_state(&self.model, &state);
    }

    /// The cages of its workers, for everybody: a layer is in force where it is for each of them.
    pub(super) fn show_cages(&self) {
        let (merged, abi) = self.read(|s| {
            let workers = s.seats.iter().filter_map(|seat| seat.worker.as_ref());
            let mut merged: Vec<Reading> = Vec::new();
            for reading in workers.clone().flat_map(|worker| &worker.cage) {
                match merged.iter_mut().find(|known| known.layer == reading.layer) {
                    Some(known) => known.in_force &= reading.in_force,
                    None => merged.push(reading.clone()),
                }
            }
            // Nothing is less than any version.
            let abi = workers.filter_map(|worker| worker.inside.map(|inside| inside.landlock_abi)).min();
            (merged, abi.flatten())
        });
        if merged.is_empty() {
            self.metrics.uncaged(&self.model);
        } else {
            self.metrics.caged(&self.model, &merged, abi);
        }
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

    /// Something of a worker's was refused or ended: one event in the log, one number more, one record in the status.
    pub(super) fn violated(&self, worker: Option<(WorkerId, u32, Option<u32>)>, violation: &Violation, detail: &str) {
        let Violation { guard, cause, call } = violation;
        let layer = guard.name();
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

    /// A worker ended; says so if that opened the breaker.
    pub(super) fn died(&self, cause: &Cause) -> Option<Opened> {
        let opened = self.breaker().filter(|_| cause.is_the_models()).and_then(|breaker| breaker.died());
        if opened.is_some() {
            self.metrics.breaker_opened(&self.model);
        }
        opened
    }

    /// What the worker in a seat prints.
    pub(super) fn printed(&self, seat: usize) -> Option<MutexGuard<'_, Printed>> {
        Some(self.printed.get(seat)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where its numbers go.
    pub(super) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn output(&self) -> OutputStatus {
        let each = (0..self.printed.len()).filter_map(|seat| Some(self.printed(seat)?.counts()));
        each.fold(OutputStatus::default(), |sum, one| OutputStatus {
            lines: sum.lines.saturating_add(one.lines),
            bytes: sum.bytes.saturating_add(one.bytes),
            dropped: sum.dropped.saturating_add(one.dropped),
        })
    }

    fn breaker(&self) -> Option<SharedBreaker> {
        self.breaker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&ModelStatus) -> T) -> T {
        look(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut ModelStatus)) {
        self.change(change);
    }

    fn change<T>(&self, change: impl FnOnce(&mut ModelStatus) -> T) -> T {
        change(&mut self.status.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
