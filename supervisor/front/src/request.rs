//! What a client wants, free of any protocol.

use bytes::Bytes;
use casemate_ipc::id::{ModelName, Version};
use casemate_ipc::tensor::{DType, Shape};
use smallvec::SmallVec;

/// One inference, as parsed: bounded, but not yet held against the model's declaration.
#[derive(Debug, Clone)]
pub struct InferRequest {
    /// The model.
    pub model: ModelName,
    /// The version that was asked for; the newest served one where none was.
    pub version: Option<Version>,
    /// The client's own mark, given back.
    pub id: Option<String>,
    /// Tensors, in the client's order.
    pub inputs: Inputs,
    /// Names of the outputs that are wanted; all where nothing was said.
    pub outputs: Option<Vec<String>>,
}

/// The tensors of a request.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Each with its name, type and shape.
    Named(InputTensors),
    /// Bytes alone, for a model with a single input: type and shape follow from its declaration.
    Raw(Bytes),
}

/// Most models have one input or two.
pub type InputTensors = SmallVec<[InputTensor; 2]>;

/// A dense tensor, little endian, rows first.
#[derive(Debug, Clone)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// Its bytes; as many as shape and type say, which the parser has checked.
    pub data: Bytes,
}
