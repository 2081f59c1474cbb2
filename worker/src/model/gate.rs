//! Whether a model may be loaded, and what libtorch made of it may run. Wants [`Verified`] bytes, and leaves [`Gated`] ones,
//! without which nothing is loaded.
//!
//! Twice: the archive before libtorch sees it, and the graphs that libtorch made of it before the first run. In between, a
//! model that the owner lets have hooks has run already; the cage holds that.

use std::collections::BTreeSet;

use casemate_gate::policy::{ListsError, Verdict};
use casemate_gate::{Policy, Refusal, judge};
use casemate_ipc::launch::GraphPolicy;
use casemate_ipc::work::GateCode;
use casemate_manifest::Format;
use thiserror::Error;

use super::verify::Verified;

/// Verified bytes that the gate let through.
#[derive(Debug)]
pub struct Gated<'a> {
    /// The bytes.
    pub model: &'a [u8],
    /// Which engine reads them.
    pub format: Format,
    /// What judges the graphs.
    policy: Policy,
}

/// Why not.
#[derive(Debug, Error)]
pub enum GateError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Refusal),
    /// What libtorch made of it.
    #[error("{}: {name} in a loaded graph: {why}", .code.name())]
    Graph {
        /// The class of reason.
        code: GateCode,
        /// The operator or class.
        name: String,
        /// For the operator.
        why: String,
    },
    /// A mistake in this build.
    #[error(transparent)]
    Lists(#[from] ListsError),
}

/// Judges the archive. The echo engine's scripts are ours, and no archives.
pub fn gate<'a>(verified: &Verified<'a>, policy: &GraphPolicy) -> Result<Gated<'a>, GateError> {
    let policy = Policy::granted(policy)?;
    let &Verified { model, format, .. } = verified;
    match format {
        Format::Torchscript => drop(judge(model, &policy)?),
        Format::Echo => {}
    }
    Ok(Gated { model, format, policy })
}

impl Gated<'_> {
    /// Judges the graphs: the operators and the classes in C++ that are in them.
    pub fn graphs(&self, found: &BTreeSet<String>) -> Result<(), GateError> {
        for name in found {
            let verdict = match name.strip_prefix("__torch__.") {
                Some(class) => self.policy.native(class),
                None => self.policy.operator(name),
            };
            let (code, why) = match verdict {
                Verdict::Allowed => continue,
                Verdict::Denied(why) => (GateCode::GraphDenied, why.to_owned()),
                Verdict::Unlisted => (GateCode::GraphUnlisted, "not on the list".to_owned()),
            };
            return Err(GateError::Graph { code, name: name.escape_default().to_string(), why });
        }
        Ok(())
    }
}

impl GateError {
    /// What a client may be told.
    pub fn code(&self) -> GateCode {
        match self {
            Self::Archive(refusal) => refusal.code,
            Self::Graph { code, .. } => *code,
            Self::Lists(_) => GateCode::GraphUnlisted,
        }
    }
}
