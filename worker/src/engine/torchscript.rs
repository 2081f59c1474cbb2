//! TorchScript by libtorch, through tch and what the shim adds. The only corner of the house that knows either.
//!
//! Whatever comes out of a model is hostile: a tensor is looked at by the shim first, which lets nothing be thrown, and by
//! tch only afterwards. Of tch only what returns an error is called, never what unwraps one.

mod warm;
mod warmed;

use std::collections::BTreeSet;
use std::ffi::CString;

use casemate_ipc::convolution::Convolution;
use casemate_ipc::shm::map::Private;
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use tch::{Kind, Tensor};

use super::contract::{Answer, Batch, Engine, RunError};
use super::shim;
use super::shim::convolution;
use super::shim::libtorch::{self, Fault, Module};
use crate::model::gate::Place;

pub use warm::warm_up;
pub use warmed::{forget, learn};

/// Bytes before the last tensor in place that may be none's, and count as data for nothing; a sixteenth, where that is more.
const MOST_UNUSED: u64 = 1 << 20;

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

/// Makes the calling thread one that may run a model, with `threads` for one operation.
pub fn ready_thread(threads: u32) -> Result<(), Fault> {
    let threads = i32::try_from(threads).map_err(|_| Fault::Memory(format!("{threads} threads")))?;
    libtorch::ready_thread(threads)
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
    pub(super) fn load(archive: &[u8], signature: &ModelSignature) -> Result<Self, RunError> {
        Ok(Self { module: Module::load(archive)?, names: names_of(signature)? })
    }

    /// The same, with its tensors where they lie in `own`, a mapping of the same file: at `places`. Without a mapping, or where
    /// it would not do, they are copied.
    pub(super) fn load_in(
        archive: &[u8],
        own: Option<Private>,
        places: &[Place],
        signature: &ModelSignature,
    ) -> Result<Self, RunError> {
        let names = names_of(signature)?;
        let module = match own.and_then(|own| made_ready(own, places)) {
            Some(own) => Module::load_in(archive, own, places)?.0,
            None => Module::load(archive)?,
        };
        Ok(Self { module, names })
    }
}

/// The mapping with its places writable; unmapped where too much would count as data beside the copies of it, or where it does
/// not fit.
fn made_ready(mut own: Private, places: &[Place]) -> Option<Private> {
    let end = places.last().map_or(0, |last| last.start.saturating_add(last.bytes));
    let used = places.iter().fold(0, |all: u64, place| all.saturating_add(place.bytes));
    let unused = end.saturating_sub(used);
    if used == 0 || unused > MOST_UNUSED.max(end / 16) {
        return None;
    }
    if let Err(error) = own.make_writable(usize::try_from(end).unwrap_or(usize::MAX)) {
        // Copies want as much; libtorch says so where it does not get it.
        let said = format!("the model's file is not what its tensors lie in: {error}; they are copied\n");
        shim::log(2, said.as_bytes());
        return None;
    }
    Some(own)
}

impl Engine for TorchScript {
    fn another(&self) -> Result<Box<dyn Engine>, RunError> {
        Ok(Box::new(Self { module: self.module.another()?, names: self.names.clone() }))
    }

    fn graphs(&self) -> Result<BTreeSet<String>, RunError> {
        Ok(self.module.graphs()?)
    }

    fn freeze(&mut self) -> Result<(), RunError> {
        Ok(self.module.freeze()?)
    }

    fn adopt(&mut self, signature: &ModelSignature, tolerance: f64) -> Result<f64, RunError> {
        let mut last = Err(RunError::Model("it has no inputs".into()));
        // As in the trial: not every model takes dimensions of one.
        for free in [1, 8, 64, 224] {
            let inputs = signature.inputs.iter().map(|spec| numbers(spec, free)).collect::<Result<Vec<_>, _>>()?;
            last = self.module.adopt(&inputs, &self.names, tolerance).map_err(RunError::from);
            if !matches!(last, Err(RunError::Model(_))) {
                break;
            }
        }
        // What the original met says nothing about the copy that runs from now on.
        self.met();
        last
    }

    fn met(&mut self) -> Vec<Convolution> {
        // What cannot be told is not warmed up, and nothing worse.
        convolution::met().unwrap_or_default()
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

fn names_of(signature: &ModelSignature) -> Result<Vec<CString>, RunError> {
    let names = signature.outputs.iter().map(|spec| CString::new(spec.name.as_str()));
    names.collect::<Result<_, _>>().map_err(|e| RunError::Output(e.to_string()))
}

/// One row of an input, its other free dimensions set to `free`: numbers between nought and one, or noughts where a number
/// could be an index.
fn numbers(spec: &TensorSpec, free: u64) -> Result<Tensor, RunError> {
    let dim = |(i, dim): (usize, &Option<u64>)| dim.unwrap_or(if i == 0 { 1 } else { free });
    let shape = Shape::new(spec.dims.iter().enumerate().map(dim).collect());
    let shape = shape.map_err(|e| RunError::Output(e.to_string()))?;
    let fill = |bytes: &mut [u8]| -> Result<(), RunError> {
        bytes.fill(0);
        if spec.dtype == DType::Fp32 {
            for (at, number) in (0_u16..1000).cycle().zip(bytes.chunks_exact_mut(4)) {
                let value = f32::from(at % 31 * 32 + at % 29) / 1024.0;
                number.copy_from_slice(&value.to_ne_bytes());
            }
        }
        Ok(())
    };
    libtorch::input(kind_of(spec.dtype), &shape, fill)?
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
