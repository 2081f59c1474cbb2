//! Why a request is not answered: what happened, whose fault it is, and whether to come again.
//!
//! Every message is written here in the front or by a parser of ours. No text that a worker sent is ever in one.

use std::time::Duration;

use thiserror::Error;

/// A request that is not answered.
#[derive(Debug, Clone, Error)]
#[error("{message}")]
pub struct Refusal {
    /// What happened.
    pub kind: Kind,
    /// For the client: what was wrong and what to do.
    pub message: String,
    /// When to come again, where that makes sense.
    pub retry_after: Option<Duration>,
}

/// What happened. One status code each, in `server/reply.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request cannot be read, or does not fit the model's declaration.
    Invalid,
    /// No such model, version or path.
    NotFound,
    /// Not this verb.
    Method,
    /// The body is too large.
    TooLarge,
    /// The body came too slowly.
    TooSlow,
    /// There is no room for it now.
    Busy,
    /// What waits already takes longer than it has.
    Overload,
    /// The model is not serving now: starting, stopping or given up.
    NotReady,
    /// The model's bytes killed too many workers; nobody is asked for a while.
    BreakerOpen,
    /// Its deadline passed.
    Deadline,
    /// The worker that had it died.
    WorkerDied,
    /// The model raised an error.
    ModelError,
    /// The model wanted more memory than it may have.
    ModelMemory,
    /// The model's answer is not what its manifest declares.
    BadOutput,
    /// A fault of this server.
    Internal,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The client's.
    Client,
    /// Nobody's: too much at once.
    Load,
    /// The model's or its worker's.
    Model,
    /// Ours.
    Server,
}

impl Refusal {
    /// A refusal without a time to come again.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// The client's request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// The client's own time is over, which was shorter than the operator's.
    pub fn impatient(patience: Duration) -> Self {
        let given = patience.as_millis();
        let message = format!("no answer within the {given} ms that the client gave it (X-Request-Timeout-Ms)");
        Self::new(Kind::Deadline, message)
    }

    /// The same, with a time after which to come again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Self; 15] = [
        Self::Invalid,
        Self::NotFound,
        Self::Method,
        Self::TooLarge,
        Self::TooSlow,
        Self::Busy,
        Self::Overload,
        Self::NotReady,
        Self::BreakerOpen,
        Self::Deadline,
        Self::WorkerDied,
        Self::ModelError,
        Self::ModelMemory,
        Self::BadOutput,
        Self::Internal,
    ];

    /// A stable word for the header `X-Casemate-Error`, the metrics and the log.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Busy => "busy",
            Self::Overload => "overload",
            Self::NotReady => "not_ready",
            Self::BreakerOpen => "breaker_open",
            Self::Deadline => "deadline",
            Self::WorkerDied => "worker_died",
            Self::ModelError => "model_error",
            Self::ModelMemory => "model_memory",
            Self::BadOutput => "bad_output",
            Self::Internal => "internal",
        }
    }

    /// Whose fault it is.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Invalid | Self::NotFound | Self::Method | Self::TooLarge | Self::TooSlow => Fault::Client,
            Self::Busy | Self::Overload | Self::NotReady => Fault::Load,
            Self::BreakerOpen
            | Self::Deadline
            | Self::WorkerDied
            | Self::ModelError
            | Self::ModelMemory
            | Self::BadOutput => Fault::Model,
            Self::Internal => Fault::Server,
        }
    }
}
