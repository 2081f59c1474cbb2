//! What clients are told where there is no answer. A worker's own words stay in the log.

use std::time::Duration;

use casemate_ipc::work::{Failure, GateCode};

use crate::refusal::{Kind, Refusal};

/// While the server stops.
pub fn going_down() -> Refusal {
    Refusal::new(Kind::NotReady, "the server is stopping").retry_after(Duration::from_secs(5))
}

/// For a model that was given up.
pub fn given_up(gate: Option<GateCode>) -> Refusal {
    let message = match gate {
        Some(code) => format!("the model was refused before it was loaded ({}); its status says why", code.name()),
        None => "the model could not be started and was given up; its status says why".to_owned(),
    };
    Refusal::new(Kind::NotReady, message)
}

/// While a model's breaker is open.
pub fn breaker_open(left: Duration) -> Refusal {
    let message = "the model's workers keep dying, so it rests for a while (breaker_open); come again";
    Refusal::new(Kind::BreakerOpen, message).retry_after(left)
}

/// To everybody whose deadline passed. The operator's own may be shorter than the manifest's.
pub fn late() -> Refusal {
    Refusal::new(Kind::Deadline, "no answer before the request's deadline (limits.deadline_ms in the model's manifest)")
}

/// Where work of ours went wrong.
pub fn broken() -> Refusal {
    Refusal::new(Kind::Internal, "a request or its answer could not be read or written; this is a fault of the server")
}

/// To those whose request ran when its worker died.
pub fn died() -> Refusal {
    let message = "the model's worker died while it ran this request; the server's log and the model's status say why";
    Refusal::new(Kind::WorkerDied, message)
}

/// To those whose answer could not be one.
pub fn lied() -> Refusal {
    Refusal::new(Kind::WorkerDied, "the model's worker gave an impossible answer and was killed")
}

/// For a batch that a model failed on.
pub fn failed(failure: Failure) -> Refusal {
    match failure {
        Failure::Model => {
            Refusal::new(Kind::ModelError, "the model raised an error on this input; see the server's log")
        }
        Failure::Memory => Refusal::new(
            Kind::ModelMemory,
            "the model wanted more memory than it may have (limits.worker_memory_mib, or memory_mib of the model)",
        ),
        Failure::Output => {
            Refusal::new(Kind::BadOutput, "the model's output is not what its manifest declares; see the server's log")
        }
        Failure::TooLarge => Refusal::new(
            Kind::BadOutput,
            "the model's output is larger than this server passes on (limits.response_bytes)",
        ),
    }
}
