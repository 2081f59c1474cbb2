//! What an engine is: something that runs a batch.
//!
//! An engine takes its inputs out of a [`Batch`], into memory of its own, and gives its outputs to an [`Answer`], which
//! checks each against the declaration and the room that is left **before** the engine makes its bytes: a tensor can claim
//! 4 TiB by its shape and have four bytes.

use std::collections::BTreeSet;

use casemate_ipc::convolution::Convolution;
use casemate_ipc::seqpacket::{Channel, ChannelError};
use casemate_ipc::shm::arena::{ALIGN, ArenaError, Reader, SlotWriter, Writer};
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::{Failure, FromWorker, Placed, ToWorker};
use thiserror::Error;

/// The worker's end of its channel.
pub type ToFront = Channel<FromWorker, ToWorker>;

/// Runs one model, on one thread at a time.
pub trait Engine: Send {
    /// Another one of the same weights, for another thread, before either has run.
    fn another(&self) -> Result<Box<dyn Engine>, RunError>;

    /// Runs one batch, and gives one output for each that is declared.
    fn run(&mut self, batch: &Batch<'_>, answer: &mut Answer<'_>) -> Result<(), RunError>;

    /// What the loaded model is made of: operators in full (`aten::relu`), and classes in C++. Nothing of it has run yet,
    /// unless it had hooks.
    fn graphs(&self) -> Result<BTreeSet<String>, RunError> {
        Ok(BTreeSet::new())
    }

    /// Makes a frozen copy, its weights folded into its code, which [`Engine::graphs`] shows too; nothing of it runs yet.
    fn freeze(&mut self) -> Result<(), RunError> {
        Err(RunError::Model("this format has no weights to fold".into()))
    }

    /// Runs the frozen copy beside the original on numbers of our own, and takes its place where the answers are no further
    /// apart than this, relative to the largest number in them; says how far that is.
    fn adopt(&mut self, _signature: &ModelSignature, _tolerance: f64) -> Result<f64, RunError> {
        Err(RunError::Model("nothing is frozen".into()))
    }

    /// Convolutions that it ran without oneDNN's code since it was last asked.
    fn met(&mut self) -> Vec<Convolution> {
        Vec::new()
    }

    /// Says a message to the front. Only the scripted engine, which lies on purpose, has its own way.
    fn say(&mut self, front: &ToFront, message: &FromWorker) -> Result<(), ChannelError> {
        front.send(message)
    }
}

/// Inputs on their way in, as many and such as the model declares.
#[derive(Debug)]
pub struct Batch<'a> {
    inputs: &'a [Placed],
    source: Source<'a>,
}

/// Outputs on their way out.
#[derive(Debug)]
pub struct Answer<'a> {
    signature: &'a ModelSignature,
    /// How many rows each output must have, where rows of several requests may ride together.
    rows: Option<u64>,
    slot: SlotWriter<'a>,
    room: u64,
    placed: Vec<Placed>,
}

/// Why a batch was not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The model raised an error.
    #[error("{0}")]
    Model(String),
    /// The model wanted more memory than it may have.
    #[error("{0}")]
    Memory(String),
    /// What the model returned is not what its manifest declares.
    #[error("{0}")]
    Output(String),
    /// The answer does not fit.
    #[error("output {name:?} of {bytes} bytes does not fit into the {room} bytes that are left for the answer")]
    TooLarge {
        /// Which output.
        name: String,
        /// Its bytes.
        bytes: u64,
        /// Bytes left.
        room: u64,
    },
    /// The front placed an input where none can be, or of another kind than declared.
    #[error("the front broke the protocol: {0}")]
    Protocol(String),
}

#[derive(Debug)]
enum Source<'a> {
    Zeros,
    Arena { requests: &'a Reader, slot: u32 },
}

impl RunError {
    /// Whose fault, as the front is told; none where it is the front's own.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Model(_) => Some(Failure::Model),
            Self::Memory(_) => Some(Failure::Memory),
            Self::Output(_) => Some(Failure::Output),
            Self::TooLarge { .. } => Some(Failure::TooLarge),
            Self::Protocol(_) => None,
        }
    }
}

impl<'a> Batch<'a> {
    /// A batch in a slot of the request arena, if it is one for this model.
    pub fn new(
        signature: &ModelSignature,
        requests: &'a Reader,
        slot: u32,
        inputs: &'a [Placed],
    ) -> Result<Self, RunError> {
        if inputs.len() != signature.inputs.len() {
            let (found, expected) = (inputs.len(), signature.inputs.len());
            return Err(RunError::Protocol(format!("{found} inputs, and the model declares {expected}")));
        }
        for (spec, placed) in signature.inputs.iter().zip(inputs) {
            let fault = |why: String| RunError::Protocol(format!("input {:?}: {why}", spec.name));
            if spec.dtype != placed.dtype {
                return Err(fault(format!("{} came, {} is declared", placed.dtype, spec.dtype)));
            }
            spec.check(&placed.shape).map_err(|e| fault(e.to_string()))?;
        }
        Ok(Self { inputs, source: Source::Arena { requests, slot } })
    }

    /// A batch of zeros, for the trial.
    pub fn zeros(inputs: &'a [Placed]) -> Self {
        Self { inputs, source: Source::Zeros }
    }

    /// Where the request arena lies in this process, for the scripted engine, which tries to write there.
    pub(super) fn arena(&self) -> Option<usize> {
        match &self.source {
            Source::Zeros => None,
            Source::Arena { requests, .. } => Some(requests.address()),
        }
    }

    /// The inputs, in the order of the declaration.
    pub fn inputs(&self) -> &'a [Placed] {
        self.inputs
    }

    /// Copies one input out, into memory of exactly its length. A model may keep or change that copy as it likes.
    pub fn fill(&self, input: &Placed, into: &mut [u8]) -> Result<(), RunError> {
        match &self.source {
            Source::Zeros => into.fill(0),
            Source::Arena { requests, slot } => {
                requests.take_into(*slot, input, into).map_err(|e| RunError::Protocol(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// The first dimension of every input, where they agree.
    pub fn rows(&self) -> Option<u64> {
        let mut rows = self.inputs.iter().map(|input| input.shape.dims().first().copied());
        let first = rows.next()??;
        rows.all(|row| row == Some(first)).then_some(first)
    }
}

impl<'a> Answer<'a> {
    /// An empty answer in a slot of the response arena.
    pub fn new(
        signature: &'a ModelSignature,
        batched: bool,
        batch: &Batch<'_>,
        responses: &'a Writer,
        slot: u32,
        slot_bytes: u64,
    ) -> Result<Self, RunError> {
        let slot = responses.slot(slot).map_err(|e| RunError::Protocol(e.to_string()))?;
        let rows = if batched { batch.rows() } else { None };
        Ok(Self { signature, rows, slot, room: slot_bytes, placed: Vec::with_capacity(signature.outputs.len()) })
    }

    /// The place and the declaration of the next output; none when all are given.
    pub fn next(&self) -> Option<(usize, &'a TensorSpec)> {
        let index = self.placed.len();
        self.signature.outputs.get(index).map(|spec| (index, spec))
    }

    /// Whether the next output may be this one. Asked before its bytes are made.
    pub fn admit(&self, dtype: DType, shape: &Shape) -> Result<(), RunError> {
        let Some((_, spec)) = self.next() else {
            return Err(RunError::Output("more outputs than declared".into()));
        };
        let fault = |why: String| RunError::Output(format!("output {:?}: {why}", spec.name));
        if dtype != spec.dtype {
            return Err(fault(format!("{dtype} was returned, {} is declared", spec.dtype)));
        }
        spec.check(shape).map_err(|e| fault(e.to_string()))?;
        if let Some(rows) = self.rows.filter(|rows| shape.dims().first() != Some(rows)) {
            return Err(fault(format!("shape {shape} for a batch of {rows} rows")));
        }
        let bytes = shape.bytes(dtype).map_or(u64::MAX, |bytes| bytes as u64);
        if bytes > self.room {
            return Err(RunError::TooLarge { name: spec.name.clone(), bytes, room: self.room });
        }
        Ok(())
    }

    /// Gives the next output.
    pub fn give(&mut self, dtype: DType, shape: Shape, bytes: &[u8]) -> Result<(), RunError> {
        self.admit(dtype, &shape)?;
        let name = self.next().map_or("", |(_, spec)| spec.name.as_str());
        let placed = self.slot.place(dtype, shape, &[bytes]).map_err(|error| match error {
            ArenaError::Full { needed, room } => {
                RunError::TooLarge { name: name.into(), bytes: needed as u64, room: room as u64 }
            }
            other => RunError::Output(other.to_string()),
        })?;
        // The next tensor begins at the next multiple of ALIGN.
        self.room = self.room.saturating_sub(placed.bytes.next_multiple_of(ALIGN as u64));
        self.placed.push(placed);
        Ok(())
    }

    /// The whole answer.
    pub fn finish(self) -> Result<Vec<Placed>, RunError> {
        let (found, expected) = (self.placed.len(), self.signature.outputs.len());
        if found == expected {
            Ok(self.placed)
        } else {
            Err(RunError::Output(format!("{found} outputs, and {expected} are declared")))
        }
    }
}
