//! `casemate man DIR`: the manual pages, for whoever packages the programs.

use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use thiserror::Error;

/// Its arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; it must be there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Why there are no pages.
#[derive(Debug, Error)]
pub(crate) enum ManError {
    #[error("cannot write manual pages to {folder:?}")]
    Write {
        folder: PathBuf,
        #[source]
        cause: io::Error,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), ManError> {
    let folder = &args.folder;
    clap_mangen::generate_to(crate::Cli::command(), folder)
        .map_err(|cause| ManError::Write { folder: folder.clone(), cause })
}
