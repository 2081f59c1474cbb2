//! The manifest's TOML, field for field; unknown keys are refused, so that a misspelt limit is not a missing one.

use casemate_ipc::tensor::DType;
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The engine's file format.
    pub format: super::Format,
    /// SHA-256 of the model file, 64 hexadecimal digits.
    pub sha256: String,
    /// Arguments of `forward`, in order.
    pub input: Vec<RawInput>,
    /// What `forward` returns, in order.
    pub output: Vec<RawOutput>,
    /// Riding together.
    #[serde(default)]
    pub batching: RawBatching,
    /// Limits.
    #[serde(default)]
    pub limits: RawLimits,
    /// What the engine may do with it; a manifest without it is one of nothing.
    #[serde(default, skip_serializing_if = "RawEngine::is_nothing")]
    pub engine: RawEngine,
}

/// `[[input]]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawInput {
    /// As clients say it.
    pub name: String,
    /// As in the Open Inference Protocol.
    pub dtype: DType,
    /// -1 is the request's choice.
    pub shape: Vec<i64>,
}

/// `[[output]]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOutput {
    /// As clients see it.
    pub name: String,
    /// As in the Open Inference Protocol.
    pub dtype: DType,
    /// -1 is free.
    pub shape: Vec<i64>,
    /// Whether NaN and infinities may leave the server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_finite: bool,
}

/// `[batching]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBatching {
    /// Most rows in one run.
    pub max_batch_size: u32,
    /// How long a request may wait for company.
    pub max_batch_delay_us: u64,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// How long a request may take, waiting included.
    pub deadline_ms: u64,
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEngine {
    /// Whether it is frozen when it is loaded.
    pub freeze: bool,
    /// How far its answers may be from those before.
    pub tolerance: f64,
    /// Threads that one operation of it pays for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
}

impl RawEngine {
    fn is_nothing(&self) -> bool {
        !self.freeze && self.threads.is_none()
    }
}

impl Default for RawEngine {
    fn default() -> Self {
        Self { freeze: false, tolerance: 0.001, threads: None }
    }
}

impl Default for RawBatching {
    fn default() -> Self {
        Self { max_batch_size: 1, max_batch_delay_us: 0 }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self { deadline_ms: 30_000 }
    }
}
