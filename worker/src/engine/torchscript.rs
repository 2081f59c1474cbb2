//! TorchScript by libtorch, through tch and what the shim adds. The only corner of the house that knows either.
//!
//! Whatever comes out of a model is hostile: a tensor is looked at by the shim first, which lets nothing be thrown, and by
//! tch only afterwards. Of tch only what returns an error is called, never what unwraps one.

mod warm;

use std::collections::BTreeSet;
use std::ffi::CString;

use casemate_ipc::tensor::{DType, ModelSignature};
use tch::{Kind, Tensor};

use super::contract::{Answer, Batch, Engine, RunError};
use super::shim::libtorch::{self, Fault, Module};

pub use warm::warm_up;

/// A loaded module.
#[derive(Debug)]
pub struct TorchScript {
    module: Module,
    /// Names of the outputs, for a model that returns a dictionary.
    names: Vec<CString>,
}

/// The engine and its version, for the model's metadata.
pub fn platform() -> String {
    format!("libtorch {}", libtorch::version())
}

/// Starts the threads that a model may use: `threads` for one operation.
pub fn start_threads(threads: u32) -> Result<(), Fault> {
    let threads = i32::try_from(threads).map_err(|_| Fault::Memory(format!("{threads} threads")))?;
    libtorch::start_pools(threads)
}

/// Seeds the generators anew.
pub fn reseed(seed: u64) -> Result<(), RunError> {
    tch::manual_seed(seed.cast_signed());
    Ok(())
}

impl TorchScript {
    /// Loads an archive from where it lies.
    pub fn load(archive: &[u8], signature: &ModelSignature) -> Result<Self, RunError> {
        let names = signature.outputs.iter().map(|spec| CString::new(spec.name.as_str()));
        let names = names.collect::<Result<_, _>>().map_err(|e| RunError::Output(e.to_string()))?;
        Ok(Self { module: Module::load(archive)?, names })
    }
}

impl Engine for TorchScript {
    fn graphs(&self) -> Result<BTreeSet<String>, RunError> {
        Ok(self.module.graphs()?)
    }

    fn run(&mut self, batch: &Batch<'_>, answer: &mut Answer<'_>) -> Result<(), RunError> {
        let mut inputs = Vec::with_capacity(batch.inputs().len());
        for placed in batch.inputs() {
            inputs.push(libtorch::input(kind_of(placed.dtype), &placed.shape, |bytes| batch.fill(placed, bytes))??);
        }
        for mut output in self.module.forward(&inputs, &self.names)? {
            let shape = libtorch::look(&output)?;
            let dtype = dtype_of(&output)?;
            answer.admit(dtype, &shape)?;
            answer.give(dtype, shape, libtorch::dense(&mut output)?)?;
        }
        Ok(())
    }
}

impl From<Fault> for RunError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Model(text) => Self::Model(text),
            Fault::Memory(text) => Self::Memory(text),
            Fault::Output(text) => Self::Output(text),
        }
    }
}

/// The table that every input goes through.
fn kind_of(dtype: DType) -> Kind {
    match dtype {
        DType::Bool => Kind::Bool,
        DType::Uint8 => Kind::Uint8,
        DType::Int8 => Kind::Int8,
        DType::Int16 => Kind::Int16,
        DType::Int32 => Kind::Int,
        DType::Int64 => Kind::Int64,
        DType::Fp16 => Kind::Half,
        DType::Bf16 => Kind::BFloat16,
        DType::Fp32 => Kind::Float,
        DType::Fp64 => Kind::Double,
    }
}

/// The same table backwards; what is not in it does not leave the worker.
fn dtype_of(tensor: &Tensor) -> Result<DType, RunError> {
    let kind = tensor.f_kind().map_err(|e| RunError::Output(format!("an output's element type: {e}")))?;
    let known = DType::ALL.into_iter().find(|dtype| kind_of(*dtype) == kind);
    known.ok_or_else(|| RunError::Output(format!("element type {kind:?} cannot be sent")))
}
