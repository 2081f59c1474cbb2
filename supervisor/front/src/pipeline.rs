//! The sentence: admit, batch, answer. All that a protocol sees of the server behind it.

use std::sync::Arc;

use casemate_ipc::id::{ModelName, Version};

use crate::admit::head::Visitor;
use crate::refusal::Refusal;
use crate::request::InferRequest;
use crate::response::InferResponse;
use crate::status::ModelStatus;

/// The server behind the protocols; cheap to clone.
#[derive(Debug, Clone)]
pub struct Pipeline {
    house: Arc<()>,
}

impl Pipeline {
    /// The first door: what can be refused before the body is read. `announced` is the Content-Length, if there was one.
    pub fn enter(&self, announced: Option<u64>) -> Result<Visitor, Refusal> {
        let _ = (&self.house, announced);
        todo!("the lead writes this")
    }

    /// Runs one request. Dropping the future withdraws it.
    pub async fn infer(&self, visitor: Visitor, request: InferRequest) -> Result<InferResponse, Refusal> {
        let _ = (visitor, request);
        todo!("the lead writes this")
    }

    /// One model's status; the newest served version where none is named.
    pub fn status(&self, name: &ModelName, version: Option<&Version>) -> Result<ModelStatus, Refusal> {
        let _ = (name, version);
        todo!("the lead writes this")
    }

    /// Every served model, by name and version.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        todo!("the lead writes this")
    }

    /// Whether every model that is not given up is serving, and the server is not going down.
    pub fn is_ready(&self) -> bool {
        todo!("the lead writes this")
    }

    /// Most bytes of a body.
    pub fn body_limit(&self) -> u64 {
        todo!("the lead writes this")
    }
}
