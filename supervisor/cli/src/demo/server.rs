//! The launcher as the demo's child.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

use crate::escape::short;

/// What of the log is looked at.
const MAX_LOG: u64 = 256 << 10;
/// Lines of it that are shown when something failed.
const LINES: usize = 20;
/// How long the launcher has to end what it started.
const GRACE: Duration = Duration::from_secs(10);

/// A launcher that runs; ended where it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

/// What is wrong with the server.
#[derive(Debug, Error)]
pub(crate) enum ServerError {
    #[error("cannot write {path:?}: {cause}")]
    Log { path: PathBuf, cause: io::Error },
    #[error("cannot start {launcher:?}: {cause}")]
    Start { launcher: PathBuf, cause: io::Error },
    #[error("the launcher ended by itself: {0}")]
    Ended(String),
    #[error("the server gave the model up: {0}")]
    GivenUp(String),
    #[error("waited {seconds} s for {what}")]
    Late { what: &'static str, seconds: u64 },
}

impl Server {
    /// Starts it, with its words going to `log`.
    pub(crate) fn start(launcher: &Path, config: &Path, log: &Path) -> Result<Self, ServerError> {
        let failed = |cause| ServerError::Log { path: log.to_owned(), cause };
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(log).map_err(failed)?;
        let child = Command::new(launcher)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            // Ctrl-C is for us; the launcher is told once, and in order.
            .process_group(0)
            .spawn()
            .map_err(|cause| ServerError::Start { launcher: launcher.to_owned(), cause })?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Where it listens, once it has said so.
    pub(crate) fn address(&mut self) -> Option<SocketAddr> {
        let text = self.read(SeekFrom::Start(0)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("casemate: listening on http://"))?;
        let address: SocketAddr = line.trim_end_matches('/').trim().parse().ok()?;
        address.ip().is_loopback().then_some(address)
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ServerError> {
        let status = self.child.try_wait().ok()??;
        Some(ServerError::Ended(describe(status)))
    }

    /// The end of what it said, for an error message.
    pub(crate) fn last_lines(&self) -> String {
        let size = self.log.metadata().map_or(0, |found| found.len());
        let text = self.read(SeekFrom::Start(size.saturating_sub(MAX_LOG))).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(|line| format!("\n  | {}", short(line, 500))).collect();
        if lines.is_empty() {
            return "\n  it said nothing".to_owned();
        }
        format!("\nIts last words:{}", lines[lines.len().saturating_sub(LINES)..].concat())
    }

    /// Ends it in order, and waits.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn read(&self, from: SeekFrom) -> io::Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(from)?;
        let mut bytes = Vec::new();
        file.take(MAX_LOG).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn end(&mut self) {
        let until = Instant::now() + GRACE;
        if let Ok(None) = self.child.try_wait() {
            // It has not been waited for, so the number is still its own.
            if let Ok(pid) = i32::try_from(self.child.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}
