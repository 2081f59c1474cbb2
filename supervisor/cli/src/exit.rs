//! How the command ends: the numbers that scripts read, and the failures behind them.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::bench::BenchError;
use crate::demo::DemoError;
use crate::doctor::DoctorError;
use crate::man::ManError;
use crate::model::add::AddError;
use crate::model::inspect::InspectError;
use crate::model::list::ListError;
use crate::model::tune::TuneError;
use crate::sandbox::explain::ExplainError;
use crate::sandbox::prove::ProveError;
use crate::serve::ServeError;

/// Exit codes: the ordinary three and the few of sysexits(3) that operators know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Success = 0,
    /// Not done.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A file that was named is not there.
    NoInput = 66,
    /// A program or a server that is needed is not there.
    Unavailable = 69,
    /// Not allowed.
    Permission = 77,
    /// The config is wrong.
    Config = 78,
}

/// Why the command did not do what was asked.
#[derive(Debug, Error)]
#[error(transparent)]
#[allow(missing_docs, reason = "one for each subcommand")]
pub(crate) enum Failure {
    Bench(#[from] BenchError),
    Demo(#[from] DemoError),
    Doctor(#[from] DoctorError),
    Explain(#[from] ExplainError),
    Prove(#[from] ProveError),
    Serve(#[from] ServeError),
    Add(#[from] AddError),
    List(#[from] ListError),
    Inspect(#[from] InspectError),
    Tune(#[from] Box<TuneError>),
    Man(#[from] ManError),
}

impl Failure {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Bench(e) => e.exit(),
            Self::Demo(e) => e.exit(),
            Self::Doctor(e) => e.exit(),
            Self::Explain(e) => e.exit(),
            Self::Prove(e) => e.exit(),
            Self::Serve(e) => e.exit(),
            Self::Add(e) => e.exit(),
            Self::List(e) => e.exit(),
            Self::Inspect(e) => e.exit(),
            Self::Tune(e) => e.exit(),
            Self::Man(_) => Exit::Failure,
        }
    }
}

impl From<&io::Error> for Exit {
    fn from(cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::NotFound => Self::NoInput,
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
