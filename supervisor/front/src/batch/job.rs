//! A [`Job`] is an admitted request: its tensors fit the model, its share of the room is held, its deadline is set, and
//! somebody waits for the answer.

use std::time::Instant;

use bytes::Bytes;
use casemate_ipc::tensor::Shape;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::admit::permit::Permit;
use crate::refusal::Refusal;
use crate::trace::{Stage, Trace};

/// An admitted request.
#[derive(Debug)]
pub struct Job {
    inputs: Tensors,
    rows: Option<u64>,
    deadline: Instant,
    limit: Instant,
    queued: Instant,
    alone: bool,
    begun_again: bool,
    trace: Trace,
    answer: oneshot::Sender<Result<Tensors, Refusal>>,
    /// Freed with the job: a withdrawn request gives its room back when it falls out of the queue.
    _permit: Permit,
}

/// A tensor whose name and type are known from its place in the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Dimensions.
    pub shape: Shape,
    /// Little endian, rows first; as many bytes as shape and type say.
    pub data: Bytes,
}

/// The tensors of one request or answer, in the declaration's order. Most models have one or two on each side.
pub type Tensors = SmallVec<[Tensor; 2]>;

/// Where a job's answer comes: one tensor for each declared output.
pub type Answer = oneshot::Receiver<Result<Tensors, Refusal>>;

impl Job {
    /// A job, and where its answer will come. Dropping the receiver withdraws the job.
    pub fn new(inputs: impl Into<Tensors>, rows: Option<u64>, deadline: Instant, permit: Permit) -> (Self, Answer) {
        let inputs = inputs.into();
        let (answer, receiver) = oneshot::channel();
        let (limit, queued, trace) = (deadline, Instant::now(), Trace::default());
        let (alone, begun_again, _permit) = (false, false, permit);
        (Self { inputs, rows, deadline, limit, queued, alone, begun_again, trace, answer, _permit }, receiver)
    }

    /// The same, with marks on its way.
    pub fn traced(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    /// Where its marks go.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Its client is less patient than the operator: a run may go on until then, though nobody waits for its answer.
    pub fn run_until(&mut self, limit: Instant) {
        self.limit = limit.max(self.deadline);
    }

    /// One tensor for each declared input, in that order.
    pub fn inputs(&self) -> &[Tensor] {
        &self.inputs
    }

    /// Rows, where every tensor of the model has rows.
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }

    /// When the client stops waiting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// When a worker that still runs it is hung. The operator's word; a client that could shorten it could have workers killed
    /// as it likes.
    pub fn limit(&self) -> Instant {
        self.limit
    }

    /// When it was admitted.
    pub fn queued(&self) -> Instant {
        self.queued
    }

    /// Whether nobody waits for it any more.
    pub fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    /// Whether two jobs differ in nothing but their rows, so that their tensors can be stacked.
    pub fn stacks_with(&self, other: &Self) -> bool {
        let same = |(a, b): (&Tensor, &Tensor)| a.shape.dims().get(1..) == b.shape.dims().get(1..);
        let willing = !self.alone && !other.alone && self.rows.is_some() && other.rows.is_some();
        willing && self.inputs.iter().zip(&other.inputs).all(same)
    }

    /// Keeps it out of company from now on: it was in a batch that failed.
    pub fn ride_alone(&mut self) {
        self.alone = true;
    }

    /// Whether it may be run once more: the first time that it is asked.
    pub fn begin_again(&mut self) -> bool {
        !std::mem::replace(&mut self.begun_again, true)
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|t| t.data.len() as u64).sum()
    }

    /// Answers it; a client that is gone misses nothing.
    pub fn answer(self, result: Result<Tensors, Refusal>) {
        self.trace.end(Stage::Sanitise);
        let _ = self.answer.send(result);
    }
}
