//! `casemate serve`: checks the config, then becomes the launcher.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use casemate_config::{Config, ConfigError};
use thiserror::Error;

use crate::exit::Exit;
use crate::programs::{self, ProgramsError};

/// Largest config, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Its arguments.
#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLE, after_help = NOTES)]
pub(crate) struct Args {
    /// The config file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Why nothing is served.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error("cannot read the config {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the config {0:?} is larger than {MAX_CONFIG} bytes")]
    Size(PathBuf),
    #[error("the config {path:?} is refused; `casemate serve --help` shows one that works")]
    Config {
        path: PathBuf,
        #[source]
        cause: ConfigError,
    },
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("cannot start {launcher:?}")]
    Start {
        launcher: PathBuf,
        #[source]
        cause: io::Error,
    },
}

const EXAMPLE: &str = "\
Example:
  casemate serve --config /etc/casemate/casemate.toml

A config that is enough:
  store = \"/srv/models\"              # what `casemate model add` writes to

The same with what is usually changed:
  store = \"/srv/models\"
  [listen]
  inference = \"127.0.0.1:8080\"       # loopback only; port 0 takes a free one
  [sandbox]
  accept_missing = [\"own-identity\", \"cgroup\"]  # when not started as root
  [limits]
  request_bytes = 67108864
  [models.iris]
  versions = \"all\"                   # or \"latest\" (the default), or [\"1\", \"3\"]
  threads = 2";

const NOTES: &str = "\
Start it as root and every worker has a uid and a control group of its own; start it as an ordinary user and these are \
missing, which the config must accept by name. SIGTERM lets running requests finish. An unknown key, a wrong value or an \
address that others can reach ends it with exit code 78.";

/// Comes back only with an error: the launcher takes this process's place, so that signals reach it and no parent.
pub(crate) fn run(args: &Args) -> Result<Infallible, ServeError> {
    let path = &args.config;
    let text = read(path).map_err(|cause| ServeError::Read { path: path.clone(), cause })?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(ServeError::Size(path.clone()));
    }
    // The launcher reads and checks the file again, and its reading counts; this one is for the exit code and the hint.
    Config::parse(&text).map_err(|cause| ServeError::Config { path: path.clone(), cause })?;
    let launcher = programs::launcher()?;
    let cause = Command::new(&launcher).arg("--config").arg(path).exec();
    Err(ServeError::Start { launcher, cause })
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_CONFIG + 1).read_to_string(&mut text)?;
    Ok(text)
}

impl ServeError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Read { cause, .. } => cause.into(),
            Self::Size(_) | Self::Config { .. } => Exit::Config,
            Self::Programs(_) | Self::Start { .. } => Exit::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configs_in_the_help_are_configs() {
        let indented: String = EXAMPLE.lines().filter_map(|l| l.strip_prefix("  ")).map(|l| format!("{l}\n")).collect();
        let configs: Vec<&str> = indented.split("store =").skip(1).collect();
        assert_eq!(configs.len(), 2);
        for config in configs {
            Config::parse(&format!("store ={config}")).unwrap();
        }
    }
}
