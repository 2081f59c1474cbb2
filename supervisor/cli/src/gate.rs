//! What a worker's gate will say of a model file, said here by the same code.
//!
//! A server whose config allows more operators may take what is refused here; the structure is judged the same everywhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use casemate_gate::judge::examine;
use casemate_gate::policy::ListsError;
use casemate_gate::{Level, Policy, Refusal, Report};
use serde_json::{Value, json};
use thiserror::Error;

/// What the gate saw and said.
#[derive(Debug)]
pub(crate) struct Judged {
    /// What it saw, until a refusal at most.
    pub(crate) report: Report,
    /// Why not, if not.
    pub(crate) refusal: Option<Refusal>,
}

/// Why the gate could not be asked.
#[derive(Debug, Error)]
pub(crate) enum GateError {
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Lists(#[from] ListsError),
}

impl Judged {
    /// Judges a whole file, under the policy that a server has by default. The file is held in memory meanwhile.
    pub(crate) fn read(file: &mut File) -> Result<Self, GateError> {
        let policy = Policy::new(Level::Strict, [])?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        file.seek(SeekFrom::Start(0))?;
        let mut report = Report::default();
        let refusal = examine(&bytes, &policy, &mut report).err();
        Ok(Self { report, refusal })
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Self { report, refusal } = self;
        let refusal = refusal.as_ref().map(|refusal| {
            let Refusal { code, record, offset, why } = refusal;
            json!({ "code": code.name(), "record": record, "offset": offset, "why": why })
        });
        let Report { classes, functions, operators, native, hooks, unused, .. } = report;
        json!({
            "passes": refusal.is_none(),
            "policy": "strict",
            "refusal": refusal,
            "classes": classes,
            "functions": functions,
            "operators": operators,
            "native_classes": native,
            "hooks": hooks,
            "unused_storages": unused,
        })
    }
}
