//! The sentence: admit, batch, answer. All that a protocol sees of the server behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::TensorSpec;
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::admit::head::Visitor;
use crate::admit::permit::Room;
use crate::admit::{body, head};
use crate::batch::job::Tensor;
use crate::fleet::excuse::{breaker_open, given_up, going_down, late};
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

    /// Runs one request. Dropping the future withdraws it.
    pub async fn infer(
        &self,
        visitor: Visitor,
        request: InferRequest,
        trace: &Trace,
    ) -> Result<InferResponse, Refusal> {
        let arrived = visitor.arrived();
        let handle = self.find(&request.model, request.version.as_ref())?;
        let result = self.run(handle, visitor, request, trace).await;
        let outcome = result.as_ref().map(drop).map_err(|refusal| refusal.kind);
        handle.served.done(outcome, arrived.elapsed());
        result
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
        let patience = visitor.patience();
        let (job, wanted, answer) = body::admit(visitor, request, &declared, self.house.slot_bytes)?;
        let (deadline, limit) = (job.deadline(), job.limit());
        trace.end(Stage::Admit);
        handle.queue.push(job.traced(trace.clone()))?;
        // A job that was dropped without an answer fell out of the queue because it was late.
        let outputs = match timeout_at(deadline.into(), answer).await {
            Ok(Ok(outputs)) => outputs?,
            Ok(Err(_)) | Err(_) => {
                return Err(patience.filter(|_| deadline < limit).map_or_else(late, Refusal::impatient));
            }
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
