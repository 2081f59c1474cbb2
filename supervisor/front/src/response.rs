//! What a client gets, free of any protocol.

use bytes::Bytes;
use casemate_ipc::id::ModelId;
use casemate_ipc::tensor::{DType, Shape};
use smallvec::SmallVec;

/// The answer to one inference.
#[derive(Debug, Clone)]
pub struct InferResponse {
    /// Which model answered.
    pub model: ModelId,
    /// The client's own mark.
    pub id: Option<String>,
    /// The outputs that were wanted, in the order in which they were.
    pub outputs: SmallVec<[OutputTensor; 2]>,
}

/// A dense tensor, little endian, rows first; checked against the model's declaration.
#[derive(Debug, Clone)]
pub struct OutputTensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// Its bytes.
    pub data: Bytes,
}
