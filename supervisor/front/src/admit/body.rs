//! What can be refused once the body is parsed: names, types, shapes and sizes against the model's declaration. What
//! passes is a [`Job`].

use bytes::Bytes;
use casemate_ipc::shm::arena::ALIGN;
use casemate_ipc::tensor::{DType, ModelSignature, Shape, TensorSpec};
use casemate_ipc::work::Declared;
use smallvec::{SmallVec, smallvec};

use super::head::{Time, Visitor};
use crate::batch::job::{Answer, Job, Tensor, Tensors};
use crate::refusal::{Kind, Refusal};
use crate::request::{InferRequest, InputTensor, InputTensors, Inputs};

/// Places of the outputs that are wanted; all of them where nothing was said.
pub type Wanted = Option<Vec<usize>>;

/// Holds a request against the declaration. The answer comes on the returned receiver.
pub fn admit(
    visitor: Visitor,
    request: InferRequest,
    declared: &Declared,
    slot_bytes: u64,
) -> Result<(Job, Wanted, Answer), Refusal> {
    let signature = &declared.signature;
    let wanted = wanted(request.outputs.as_deref(), signature)?;
    let inputs = match request.inputs {
        Inputs::Named(tensors) => arrange(tensors, signature)?,
        Inputs::Raw(data) => smallvec![raw(data, signature)?],
    };
    for (tensor, spec) in inputs.iter().zip(&signature.inputs) {
        // The parsers look too; this is the last place before libtorch, where a third truth value is undefined behaviour.
        if spec.dtype == DType::Bool && !is_truth(&tensor.data) {
            return Err(Refusal::invalid(format!("input {:?} holds a BOOL that is neither 0 nor 1", spec.name)));
        }
    }
    let rows = rows(&inputs, signature)?;
    let needed: usize = inputs.iter().map(|t| t.data.len().next_multiple_of(ALIGN)).sum();
    if needed as u64 > slot_bytes {
        let message = format!("the tensors have {needed} bytes; at most {slot_bytes} are accepted");
        return Err(Refusal::new(Kind::TooLarge, message));
    }
    let Time { deadline, limit } = visitor.clock().time(declared.deadline_ms);
    let permit = visitor.settle(needed as u64);
    let (mut job, answer) = Job::new(inputs, rows, deadline, permit);
    job.run_until(limit);
    Ok((job, wanted, answer))
}

/// Whether that takes so long that it would hold up everybody else's requests: truth values are looked at one by one.
pub fn takes_long(request: &InferRequest, declared: &Declared) -> bool {
    let bytes = match &request.inputs {
        Inputs::Raw(data) => data.len(),
        Inputs::Named(tensors) => tensors.iter().filter(|t| t.dtype == DType::Bool).map(|t| t.data.len()).sum(),
    };
    bytes > LARGE && declared.signature.inputs.iter().any(|spec| spec.dtype == DType::Bool)
}

const LARGE: usize = 1 << 20;

/// Whether there is nothing but 0 and 1 in it; piece by piece, since a search for the first wrong one is not done by vectors.
fn is_truth(data: &[u8]) -> bool {
    data.chunks(4096).all(|piece| piece.iter().fold(0, |all, byte| all | byte) <= 1)
}

fn wanted(names: Option<&[String]>, signature: &ModelSignature) -> Result<Wanted, Refusal> {
    let Some(names) = names else { return Ok(None) };
    let find = |name: &String| {
        signature.outputs.iter().position(|spec| spec.name == *name).ok_or_else(|| {
            let known = list(&signature.outputs);
            Refusal::invalid(format!("the model has no output {name:?}; it has {known}"))
        })
    };
    names.iter().map(find).collect::<Result<_, _>>().map(Some)
}

/// Puts the tensors into the order of the declaration.
fn arrange(tensors: InputTensors, signature: &ModelSignature) -> Result<Tensors, Refusal> {
    let mut places: SmallVec<[Option<Tensor>; 2]> = signature.inputs.iter().map(|_| None).collect();
    for tensor in tensors {
        let InputTensor { name, dtype, shape, data } = tensor;
        let Some(index) = signature.inputs.iter().position(|spec| spec.name == name) else {
            let known = list(&signature.inputs);
            return Err(Refusal::invalid(format!("the model has no input {name:?}; it takes {known}")));
        };
        let spec = &signature.inputs[index];
        if dtype != spec.dtype {
            return Err(Refusal::invalid(format!("input {name:?} is {dtype}; the model takes {spec}")));
        }
        spec.check(&shape).map_err(|e| Refusal::invalid(format!("input {name:?}: {e}")))?;
        let expected = shape.bytes(dtype).map_err(|e| Refusal::invalid(format!("input {name:?}: {e}")))?;
        if data.len() != expected {
            let found = data.len();
            let message = format!("input {name:?} has {found} bytes; shape {shape} of {dtype} makes {expected}");
            return Err(Refusal::invalid(message));
        }
        if places[index].replace(Tensor { shape, data }).is_some() {
            return Err(Refusal::invalid(format!("input {name:?} is given twice")));
        }
    }
    if places.contains(&None) {
        let missing = signature.inputs.iter().zip(&places).filter(|(_, place)| place.is_none());
        let missing: Vec<String> = missing.map(|(spec, _)| spec.to_string()).collect();
        return Err(Refusal::invalid(format!("input missing: {}", missing.join(", "))));
    }
    Ok(places.into_iter().flatten().collect())
}

/// A body that is one tensor and nothing else: its shape follows from its length, if at most one dimension is free.
fn raw(data: Bytes, signature: &ModelSignature) -> Result<Tensor, Refusal> {
    let [spec] = signature.inputs.as_slice() else {
        let known = list(&signature.inputs);
        return Err(Refusal::invalid(format!("a raw body needs a model with one input; this one takes {known}")));
    };
    let free = spec.dims.iter().filter(|d| d.is_none()).count();
    let refuse = |why: String| Refusal::invalid(format!("raw body of {} bytes for {spec}: {why}", data.len()));
    let unit = spec.smallest().bytes(spec.dtype).map_err(|e| refuse(e.to_string()))?;
    let dims = match free {
        0 if data.len() == unit => spec.smallest(),
        0 => return Err(refuse(format!("it must have {unit} bytes"))),
        1 if unit > 0 && data.len().is_multiple_of(unit) => {
            let count = (data.len() / unit) as u64;
            Shape::from_dims(spec.dims.iter().map(|d| d.unwrap_or(count))).map_err(|e| refuse(e.to_string()))?
        }
        1 => return Err(refuse(format!("its length must be a multiple of {unit}"))),
        _ => return Err(refuse("more than one dimension is free; say the shape in a JSON header".to_owned())),
    };
    Ok(Tensor { shape: dims, data })
}

/// The number of rows, where every tensor of the model has rows; all inputs must have the same.
fn rows(inputs: &[Tensor], signature: &ModelSignature) -> Result<Option<u64>, Refusal> {
    if !signature.is_batched() {
        return Ok(None);
    }
    let mut rows = None;
    for (tensor, spec) in inputs.iter().zip(&signature.inputs) {
        let found = tensor.shape.dims().first().copied().unwrap_or(0);
        match rows {
            None => rows = Some(found),
            Some(first) if first == found => {}
            Some(first) => {
                let message =
                    format!("input {:?} has {found} rows and {:?} has {first}", spec.name, signature.inputs[0].name);
                return Err(Refusal::invalid(message));
            }
        }
    }
    match rows {
        Some(0) => Err(Refusal::invalid("the inputs have 0 rows; at least 1 is needed")),
        rows => Ok(rows),
    }
}

fn list(specs: &[TensorSpec]) -> String {
    specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
