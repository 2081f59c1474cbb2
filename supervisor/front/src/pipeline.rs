//! The sentence: admit, batch, answer. All that a protocol sees of the server behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::id::{ModelId, ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use casemate_ipc::work::Declared;
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::admit::head::{Clock, Time, Visitor};
use crate::admit::permit::Room;
use crate::admit::{body, head};
use crate::batch::job::Tensor;
use crate::desk::{Desk, Undone};
use crate::fleet::excuse::{breaker_open, broken, given_up, going_down, late};
use crate::fleet::handle::ModelHandle;
use crate::refusal::{Kind, Refusal};
use crate::request::InferRequest;
use crate::response::{InferResponse, OutputTensor};
use crate::status::{ModelStatus, State};
use crate::trace::{Stage, Trace};

/// The server behind the protocols; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pipeline {
    house: Arc<House>,
}

/// What a pipeline leads to.
#[derive(Debug)]
pub struct House {
    /// Served models, by name and version.
    pub models: BTreeMap<ModelName, BTreeMap<Version, Arc<ModelHandle>>>,
    /// Bytes of requests held at once.
    pub room: Arc<Room>,
    /// Most bytes of a body.
    pub request_bytes: u64,
    /// Bytes of a slot of the request arena.
    pub slot_bytes: u64,
    /// Where what takes long is done.
    pub desk: Desk,
    /// True once the server is going down.
    pub stop: watch::Receiver<bool>,
}

impl Pipeline {
    /// The pipeline of a house.
    pub fn new(house: House) -> Self {
        Self { house: Arc::new(house) }
    }

    /// The first door: what can be refused before the body is read. `announced` is the Content-Length, if there was one.
    pub fn enter(&self, announced: Option<u64>) -> Result<Visitor, Refusal> {
        if *self.house.stop.borrow() {
            return Err(going_down());
        }
        head::admit(&self.house.room, self.house.request_bytes, announced, Instant::now())
    }

    /// The queue's door, also before the body is read: whoever has no place in it, or no time, need not send it. What else can
    /// be wrong is told later.
    pub fn knock(
        &self,
        name: &ModelName,
        version: Option<&Version>,
        patience: Option<Duration>,
    ) -> Result<(), Refusal> {
        let Ok(handle) = self.find(name, version) else { return Ok(()) };
        let now = Instant::now();
        let limit = handle.declared().map(|declared| Duration::from_millis(declared.deadline_ms));
        let time = limit.into_iter().chain(patience).min();
        handle.queue.knock(time.map(|time| now + time)).inspect_err(|refusal| {
            handle.served.done(Err(refusal.kind), now.elapsed());
        })
    }

    /// Runs one request, and has its answer told: what counts is what the client gets. Dropping the future withdraws it.
    pub async fn infer<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        visitor: Visitor,
        request: InferRequest,
        trace: &Trace,
        tell: impl FnOnce(InferResponse) -> F,
    ) -> Result<T, Refusal> {
        let arrived = visitor.clock().arrived;
        let handle = self.find(&request.model, request.version.as_ref())?;
        let result = match self.run(handle, visitor, request, trace).await {
            Ok(answer) => tell(answer).await,
            Err(refusal) => Err(refusal),
        };
        let outcome = result.as_ref().map(drop).map_err(|refusal| refusal.kind);
        handle.served.done(outcome, arrived.elapsed());
        result
    }

    /// Has long work for a request to this model done at a desk, as long as the request may take. Whatever the work holds is
    /// let go when that time is over, or when this future is dropped: at once, if no desk has begun it.
    pub async fn at_desk<T: Send + 'static>(
        &self,
        (name, version): (&ModelName, Option<&Version>),
        clock: Clock,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let time = clock.time(self.find(name, version)?.deadline_ms());
        let done = self.house.desk.run_if(true, time.deadline, work).await;
        done.map_err(|undone| unserved(undone, time, clock))
    }

    /// Where one model is in its life; the newest served version where none is named.
    pub fn state(&self, name: &ModelName, version: Option<&Version>) -> Result<(&ModelId, State), Refusal> {
        self.find(name, version).map(|handle| (&handle.model, handle.state()))
    }

    /// What one model declares, once a worker has verified it.
    pub fn declared(
        &self,
        name: &ModelName,
        version: Option<&Version>,
    ) -> Result<(&ModelId, Option<Arc<Declared>>), Refusal> {
        self.find(name, version).map(|handle| (&handle.model, handle.declared()))
    }

    /// The served versions of a model, the newest at the end.
    pub fn versions(&self, name: &ModelName) -> impl Iterator<Item = &Version> {
        self.house.models.get(name).into_iter().flat_map(BTreeMap::keys)
    }

    /// One model's status; the newest served version where none is named.
    pub fn status(&self, name: &ModelName, version: Option<&Version>) -> Result<ModelStatus, Refusal> {
        self.find(name, version).map(|handle| handle.status())
    }

    /// Every served model, by name and version.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        self.house.models.values().flat_map(BTreeMap::values).map(|handle| handle.status()).collect()
    }

    /// Whether every model that is not given up or resting is serving, and the server is not going down. One model that
    /// dies must not take its neighbours' traffic away.
    pub fn is_ready(&self) -> bool {
        let models = self.house.models.values().flat_map(BTreeMap::values);
        !*self.house.stop.borrow()
            && models.map(|h| h.state()).all(|s| matches!(s, State::Ready | State::Failed(_) | State::Open(_)))
    }

    /// Most bytes of a body.
    pub fn body_limit(&self) -> u64 {
        self.house.request_bytes
    }

    async fn run(
        &self,
        handle: &ModelHandle,
        visitor: Visitor,
        request: InferRequest,
        trace: &Trace,
    ) -> Result<InferResponse, Refusal> {
        match handle.state() {
            State::Failed(_) => return Err(given_up(handle.gate())),
            State::Draining => return Err(going_down()),
            State::Open(_) => return Err(breaker_open(handle.open_for().unwrap_or_default())),
            State::Starting | State::Ready | State::BackingOff(_) => {}
        }
        let declared = handle.declared().ok_or_else(|| {
            let message = format!("model {} is starting; ask /v2/models/{}/ready", handle.model, handle.model.name);
            Refusal::new(Kind::NotReady, message).retry_after(std::time::Duration::from_secs(1))
        })?;
        let id = request.id.clone();
        let (clock, slot_bytes) = (visitor.clock(), self.house.slot_bytes);
        let time = clock.time(declared.deadline_ms);
        let (job, wanted, answer) = if body::takes_long(&request, &declared) {
            let declared = Arc::clone(&declared);
            let work = move || body::admit(visitor, request, &declared, slot_bytes);
            let done = self.house.desk.run_if(true, time.deadline, work).await;
            done.map_err(|undone| unserved(undone, time, clock))??
        } else {
            body::admit(visitor, request, &declared, slot_bytes)?
        };
        trace.end(Stage::Admit);
        handle.queue.push(job.traced(trace.clone()))?;
        // A job that was dropped without an answer fell out of the queue because it was late.
        let outputs = match timeout_at(time.deadline.into(), answer).await {
            Ok(Ok(outputs)) => outputs?,
            Ok(Err(_)) | Err(_) => return Err(unserved(Undone::Late, time, clock)),
        };
        trace.end(Stage::Wake);
        let specs = &declared.signature.outputs;
        let named = |(spec, Tensor { shape, data }): (&TensorSpec, Tensor)| OutputTensor {
            name: spec.name.clone(),
            dtype: spec.dtype,
            shape,
            data,
        };
        let pick = |index: usize| specs.get(index).zip(outputs.get(index).cloned()).map(named);
        let outputs = match wanted {
            Some(wanted) => wanted.into_iter().filter_map(pick).collect(),
            None => specs.iter().zip(outputs).map(named).collect(),
        };
        Ok(InferResponse { model: handle.model.clone(), id, outputs })
    }

    fn find(&self, name: &ModelName, version: Option<&Version>) -> Result<&ModelHandle, Refusal> {
        let versions = self.house.models.get(name);
        let found = match version {
            Some(version) => versions.and_then(|v| v.get(version)),
            None => versions.and_then(|v| v.values().next_back()),
        };
        found.map(Arc::as_ref).ok_or_else(|| {
            let asked = version.map_or_else(|| name.to_string(), |v| format!("{name}, version {v}"));
            Refusal::new(Kind::NotFound, format!("there is no model {asked}"))
        })
    }
}

/// What a client is told whose request was not done in its time, or at all.
fn unserved(undone: Undone, time: Time, clock: Clock) -> Refusal {
    match undone {
        Undone::Late => clock.patience.filter(|_| time.deadline < time.limit).map_or_else(late, Refusal::impatient),
        Undone::Panicked => broken(),
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
