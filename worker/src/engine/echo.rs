//! An engine without a model: each output is the input at its place where they agree, and zeros where not.
//!
//! For measuring the trip, and, with a [`Script`], for the tests of everything around an engine.

use casemate_ipc::seqpacket::ChannelError;
use casemate_ipc::tensor::{Shape, TensorSpec};
use casemate_ipc::work::FromWorker;

use super::contract::{Answer, Batch, Engine, RunError, ToFront};
use super::script::{Moment, Script};
use crate::probe::Scene;

/// Echoes.
#[derive(Debug)]
pub struct Echo {
    script: Script,
    /// Runs so far; the first one is the trial.
    runs: u64,
    /// One tensor's bytes, kept between runs.
    buffer: Vec<u8>,
}

impl Echo {
    /// Reads the script that stands where a model would.
    pub(super) fn load(model: &[u8]) -> Result<Self, RunError> {
        let script = Script::parse(model)?;
        let scene = Scene { requests: 0, model: model.as_ptr().expose_provenance() };
        script.act(Moment::Load, 0, &scene)?;
        Ok(Self { script, runs: 0, buffer: Vec::new() })
    }

    /// Requests that were answered before this one.
    fn requests(&self) -> u64 {
        self.runs.saturating_sub(2)
    }
}

impl Engine for Echo {
    fn another(&self) -> Result<Box<dyn Engine>, RunError> {
        Ok(Box::new(Self { script: self.script.clone(), runs: 0, buffer: Vec::new() }))
    }

    fn run(&mut self, batch: &Batch<'_>, answer: &mut Answer<'_>) -> Result<(), RunError> {
        self.runs += 1;
        let now = if self.runs == 1 { Moment::Trial } else { Moment::Run };
        let scene = Scene { requests: batch.arena().unwrap_or(0), model: 0 };
        self.script.act(now, self.requests(), &scene)?;
        while let Some((index, spec)) = answer.next() {
            let input = batch.inputs().get(index);
            match input.filter(|input| input.dtype == spec.dtype && spec.check(&input.shape).is_ok()) {
                Some(input) => {
                    let bytes = input.shape.bytes(input.dtype).map_err(|e| RunError::Output(e.to_string()))?;
                    self.buffer.resize(bytes, 0);
                    batch.fill(input, &mut self.buffer)?;
                    answer.give(input.dtype, input.shape.clone(), &self.buffer)?;
                }
                None => {
                    let shape = smallest(spec, batch.rows())?;
                    answer.admit(spec.dtype, &shape)?;
                    self.buffer.clear();
                    let bytes = shape.bytes(spec.dtype).map_err(|e| RunError::Output(e.to_string()))?;
                    self.buffer.resize(bytes, 0);
                    answer.give(spec.dtype, shape, &self.buffer)?;
                }
            }
        }
        Ok(())
    }

    fn say(&mut self, front: &ToFront, message: &FromWorker) -> Result<(), ChannelError> {
        self.script.say(front, message, self.requests())
    }
}

/// The smallest shape of a declaration, with as many rows as came in.
fn smallest(spec: &TensorSpec, rows: Option<u64>) -> Result<Shape, RunError> {
    let dims = spec.dims.iter().enumerate().map(|(i, dim)| match dim {
        Some(dim) => *dim,
        None if i == 0 => rows.unwrap_or(1),
        None => 1,
    });
    Shape::new(dims.collect()).map_err(|e| RunError::Output(e.to_string()))
}
