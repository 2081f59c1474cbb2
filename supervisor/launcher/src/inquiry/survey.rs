//! Which layers this host and this user cannot give, by the very trial that serving makes, with nothing waived.

use casemate_config::Config;
use casemate_ipc::layer::{Layer, Waiver};

use crate::host::{self, HostError};
use crate::library::Library;
use crate::owner::Owner;
use crate::program::Program;
use crate::sys::process::landlock_version;

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    /// Every layer that is missing, and what was found.
    pub(super) lacks: Vec<(Waiver, String)>,
    /// The Landlock version; 0 where there is none.
    pub(super) landlock: u32,
    /// Why no worker could be caged here, whatever is waived.
    pub(super) refused: Option<String>,
}

impl Survey {
    pub(super) fn make(config: &Config, owner: Owner) -> Self {
        let landlock = landlock_version().unwrap_or(0);
        let none = |why: String| Self { lacks: Vec::new(), landlock, refused: Some(why) };
        let program = match Program::beside("casemate-worker", owner) {
            Ok(program) => program,
            Err(error) => return none(error.to_string()),
        };
        let library = match Library::of(program.path(), owner) {
            Ok(library) => library,
            Err(error) => return none(error.to_string()),
        };
        let strict = Config { waived: Vec::new(), ..config.clone() };
        match host::probe(&strict, owner, &library) {
            Ok(_) => Self { lacks: Vec::new(), landlock, refused: None },
            Err(HostError::Lacks { lacks, .. }) => {
                Self { lacks: lacks.into_iter().map(|lack| (lack.waiver, lack.why)).collect(), landlock, refused: None }
            }
            Err(error) => none(error.to_string()),
        }
    }

    /// Why that layer is missing, if it is; some go with another one.
    pub(super) fn lacks(&self, layer: Layer) -> Option<String> {
        let missing: Vec<Waiver> = self.lacks.iter().map(|(waiver, _)| *waiver).collect();
        if !layer.excused_by(&missing) {
            return None;
        }
        let own = self.lacks.iter().find(|(waiver, _)| layer.waiver() == Some(*waiver));
        own.or(self.lacks.first()).map(|(_, why)| why.clone())
    }
}
