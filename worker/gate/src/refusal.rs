//! Why an archive is refused.

use std::fmt;

use casemate_ipc::work::GateCode;

/// Longest text taken from the archive into a refusal, in characters.
const SHOWN: usize = 96;

/// A reason to load nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The class of reason; all that a client is told.
    pub code: GateCode,
    /// The record that it is about, or empty for the archive as a whole.
    pub record: String,
    /// A byte's place: in the record's own (inflated) bytes, or in the file where `record` is empty.
    pub offset: u64,
    /// For the operator.
    pub why: String,
}

impl Refusal {
    /// About a place in the file.
    pub(crate) fn file(code: GateCode, offset: u64, why: impl Into<String>) -> Self {
        Self { code, record: String::new(), offset, why: why.into() }
    }

    /// About a place in a record.
    pub(crate) fn record(code: GateCode, record: &str, offset: usize, why: impl Into<String>) -> Self {
        Self { code, record: shown(record), offset: offset as u64, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, record, offset, why } = self;
        let record = if record.is_empty() { "the archive" } else { record };
        write!(f, "{}: {record} at byte {offset}: {why}", code.name())
    }
}

impl std::error::Error for Refusal {}

/// What an archive says, made harmless: short, and without a character that a terminal acts on.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
