//! Batch in, run, batch out: one batch at a time on a thread, nothing that grows from one to the next.
//!
//! Every instance of a worker has a [`Cell`] on a thread of its own. All of them wait at the same socket: the kernel gives
//! each packet to one that waits, so a batch goes to an idle instance, and there is nobody in between.

use std::time::Instant;

use casemate_ipc::id::BatchId;
use casemate_ipc::launch::exit_code;
use casemate_ipc::seqpacket::{ChannelError, PacketBuffer};
use casemate_ipc::shm::arena::{Reader, Writer};
use casemate_ipc::tensor::{ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::{FromWorker, Placed, ToWorker, detail};
use thiserror::Error;

use crate::engine::contract::{Answer, Batch, Engine, RunError, ToFront};

/// One instance of a loaded model with everything that it is served through.
pub struct Cell<'a> {
    /// The channel.
    pub front: &'a ToFront,
    /// Where inputs lie.
    pub requests: &'a Reader,
    /// Where outputs go.
    pub responses: &'a Writer,
    /// Bytes of a slot of the response arena.
    pub slot_bytes: u64,
    /// What the model declared.
    pub signature: &'a ModelSignature,
    /// Whether rows of several requests may ride together.
    pub batched: bool,
    /// The model.
    pub engine: Box<dyn Engine>,
}

/// Why serving ended otherwise than by the front's wish.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The channel broke, or carried something that is no message.
    #[error("channel: {0}")]
    Channel(#[from] ChannelError),
    /// The front asked for something impossible.
    #[error("{0}")]
    Protocol(String),
}

impl ServeError {
    /// The worker's exit code.
    pub fn exit_code(&self) -> i32 {
        exit_code::PROTOCOL
    }
}

impl Cell<'_> {
    /// Serves until the front has gone, or says that nothing more will come.
    pub fn serve(&mut self) -> Result<(), ServeError> {
        let mut buffer = PacketBuffer::default();
        while let Some(message) = self.front.receive_plain(&mut buffer)? {
            let answer = match message {
                ToWorker::Run { batch, slot, inputs } => {
                    let answer = self.run(batch, slot, &inputs)?;
                    self.say_met()?;
                    answer
                }
                ToWorker::Ping { token } => FromWorker::Pong { token },
                ToWorker::Drain => break,
            };
            self.engine.say(self.front, &answer)?;
        }
        Ok(())
    }

    /// The first run: zeros, as few as the declaration allows. A model whose free dimensions cannot all be 1 (a picture
    /// that must be larger than a kernel) gets them larger, step by step. Instances that try at once do so in slots of their own.
    pub fn trial(&mut self, slot: u32) -> Result<(), RunError> {
        let mut last = Ok(());
        for free in [1, 8, 64, 224] {
            let inputs = self.signature.inputs.iter().map(|spec| placeholder(spec, free));
            let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
            let batch = Batch::zeros(&inputs);
            last = self.answer(&batch, slot).map(drop);
            let another_size_may_do = matches!(last, Err(RunError::Model(_))) && self.has_inner_freedom();
            if !another_size_may_do {
                break;
            }
        }
        last
    }

    /// Says which convolutions had no code of oneDNN's, if there are new ones.
    pub fn say_met(&mut self) -> Result<(), ChannelError> {
        let convolutions = self.engine.met();
        if convolutions.is_empty() { Ok(()) } else { self.front.send(&FromWorker::Met { convolutions }) }
    }

    fn run(&mut self, id: BatchId, slot: u32, inputs: &[Placed]) -> Result<FromWorker, ServeError> {
        let begun = Instant::now();
        let batch = Batch::new(self.signature, self.requests, slot, inputs);
        let outcome = batch.and_then(|batch| self.answer(&batch, slot));
        let run_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match outcome {
            Ok(outputs) => Ok(FromWorker::Done { batch: id, outputs, run_us }),
            Err(error) => match error.failure() {
                Some(failure) => Ok(FromWorker::Failed { batch: id, failure, detail: detail(error.to_string()) }),
                None => Err(ServeError::Protocol(error.to_string())),
            },
        }
    }

    fn answer(&mut self, batch: &Batch<'_>, slot: u32) -> Result<Vec<Placed>, RunError> {
        let mut answer = Answer::new(self.signature, self.batched, batch, self.responses, slot, self.slot_bytes)?;
        self.engine.run(batch, &mut answer)?;
        answer.finish()
    }

    fn has_inner_freedom(&self) -> bool {
        self.signature.inputs.iter().any(|spec| spec.dims.iter().skip(1).any(Option::is_none))
    }
}

/// One row of a declaration, its other free dimensions set to `free`.
fn placeholder(spec: &TensorSpec, free: u64) -> Result<Placed, RunError> {
    let fault = |e: casemate_ipc::tensor::TensorError| RunError::Output(e.to_string());
    let dim = |(i, dim): (usize, &Option<u64>)| dim.unwrap_or(if i == 0 { 1 } else { free });
    let shape = Shape::new(spec.dims.iter().enumerate().map(dim).collect()).map_err(fault)?;
    let bytes = shape.bytes(spec.dtype).map_err(fault)? as u64;
    Ok(Placed { dtype: spec.dtype, shape, offset: 0, bytes })
}
