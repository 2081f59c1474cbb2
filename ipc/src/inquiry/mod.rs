//! What the launcher answers to the command that asks it instead of serving: one JSON text on a line of its own.
//!
//! The field names are a promise: `casemate doctor --json`, `sandbox explain --json` and `sandbox prove --json` print them
//! as they are, and scripts read them. A field may be added, none is renamed.

pub mod checkup;
pub mod explanation;
pub mod rehearsal;

pub use checkup::{Checkup, Finding, Lack, State, Tier};
pub use explanation::Explanation;
pub use rehearsal::{End, Refused, Rehearsal};
