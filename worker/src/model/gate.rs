//! Whether a model may be loaded, and what libtorch made of it may run. Wants [`Verified`] bytes, and leaves [`Gated`] ones,
//! without which nothing is loaded.
//!
//! Twice: the archive before libtorch sees it, and the graphs that libtorch made of it before the first run. In between, a
//! model that the owner lets have hooks has run already; the cage holds that.

use std::collections::BTreeSet;

use casemate_gate::layout::Kind;
use casemate_gate::policy::{ListsError, Verdict};
use casemate_gate::{Level, Policy, Refusal, Report, judge};
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
    /// Where in them the tensors' numbers lie as libtorch aligns them, each record once, in order; none of them overlap.
    pub tensors: Vec<Place>,
    /// What judges the graphs.
    policy: Policy,
}

/// As libtorch aligns what it allocates, and what it writes.
const ALIGNMENT: u64 = 64;

/// A part of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
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
    /// The lists are about another libtorch than the one that would run the model.
    #[error(
        "the lists of operators are libtorch {lists}'s, and this worker has libtorch {linked}, whose operators may do something \
         else; graph.policy = \"open\" goes without the list of what is allowed"
    )]
    Version {
        /// Of the lists.
        lists: String,
        /// Of the worker.
        linked: String,
    },
    /// A mistake in this build.
    #[error(transparent)]
    Lists(#[from] ListsError),
}

/// Judges the archive, for this version of libtorch. The echo engine's scripts are ours, and no archives.
pub fn gate<'a>(verified: &Verified<'a>, policy: &GraphPolicy, libtorch: &str) -> Result<Gated<'a>, GateError> {
    let policy = Policy::granted(policy)?;
    let &Verified { model, format, .. } = verified;
    let tensors = match format {
        Format::Torchscript => {
            check_version(&policy, libtorch)?;
            tensors(&judge(model, &policy)?)
        }
        Format::Echo => Vec::new(),
    };
    Ok(Gated { model, format, tensors, policy })
}

fn tensors(report: &Report) -> Vec<Place> {
    let numbers = report.records.iter().filter(|entry| entry.kind == Some(Kind::Storage) && !entry.deflated);
    let aligned = numbers.filter(|entry| entry.start.is_multiple_of(ALIGNMENT));
    let mut places: Vec<Place> = aligned.map(|entry| Place { start: entry.start, bytes: entry.size }).collect();
    places.sort_unstable_by_key(|place| place.start);
    places
}

/// Whether the lists may be used with this libtorch. With `open` the owner has let go of what they allow.
fn check_version(policy: &Policy, linked: &str) -> Result<(), GateError> {
    if policy.is_about(linked) || policy.level() == Level::Open {
        return Ok(());
    }
    Err(GateError::Version { lists: policy.libtorch().to_owned(), linked: linked.to_owned() })
}

impl Gated<'_> {
    /// The release of libtorch that the lists are about, where it is another than this one.
    pub fn foreign_lists(&self, libtorch: &str) -> Option<&str> {
        (self.format == Format::Torchscript && !self.policy.is_about(libtorch)).then(|| self.policy.libtorch())
    }

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
            Self::Lists(_) | Self::Version { .. } => GateCode::GraphUnlisted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_another_libtorch_are_never_applied_unsaid() {
        let policy = |open| Policy::granted(&GraphPolicy { open, extra_ops: Vec::new() }).unwrap();
        let own = format!("{}.0", policy(false).libtorch());
        assert!(check_version(&policy(false), &own).is_ok());
        let error = check_version(&policy(false), "2.11.0").unwrap_err();
        assert_eq!(error.code(), GateCode::GraphUnlisted);
        let said = error.to_string();
        assert!(said.contains(policy(false).libtorch()) && said.contains("2.11.0"), "{said}");
        assert!(check_version(&policy(true), "2.11.0").is_ok());
        let open = Gated { model: b"", format: Format::Torchscript, tensors: Vec::new(), policy: policy(true) };
        assert_eq!(open.foreign_lists("2.11.0"), Some(policy(true).libtorch()));
        assert_eq!(open.foreign_lists(&own), None);
    }
}
