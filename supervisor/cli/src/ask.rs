//! The launcher, asked: one of its tasks that serve nobody, and what it answers, a line of JSON each.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::escape::short;
use crate::exit::Exit;
use crate::programs::{self, ProgramsError};
use crate::stop::Stop;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    #[error("cannot start the launcher")]
    Start(#[source] io::Error),
    #[error("cannot hear the launcher")]
    Hear(#[source] io::Error),
    #[error("the launcher's answer is none")]
    Answer(#[source] serde_json::Error),
    #[error("{said}")]
    Refused { code: Option<i32>, said: String },
    #[error("interrupted")]
    Interrupted,
}

/// What of its log is looked at.
const MAX_LOG: u64 = 256 << 10;

/// One answer.
pub(crate) fn once<T: DeserializeOwned>(config: &Path, task: &[&str]) -> Result<T, AskError> {
    let mut answer = None;
    each(config, task, &Stop::none(), |found| answer = Some(found))?;
    answer.ok_or_else(|| AskError::Refused { code: None, said: "the launcher said nothing".to_owned() })
}

/// All answers, one by one, as they come.
pub(crate) fn each<T: DeserializeOwned>(
    config: &Path,
    task: &[&str],
    stop: &Stop,
    mut found: impl FnMut(T),
) -> Result<(), AskError> {
    let mut command = Command::new(programs::launcher()?);
    command.arg("--config").arg(config).args(task);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(AskError::Start)?;
    let log = child.stderr.take().map(|log| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut log = log;
            let _ = (&mut log).take(MAX_LOG).read_to_end(&mut text);
            // Whatever comes after it, so that it never waits for us.
            let _ = io::copy(&mut log, &mut io::sink());
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let mut heard = Ok(());
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        heard = line.map_err(AskError::Hear).and_then(|line| {
            found(serde_json::from_str(&line).map_err(AskError::Answer)?);
            if stop.asked() { Err(AskError::Interrupted) } else { Ok(()) }
        });
        if heard.is_err() {
            break;
        }
    }
    if heard.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(AskError::Hear)?;
    let log = log.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if stop.asked() {
        return Err(AskError::Interrupted);
    }
    heard?;
    if status.success() { Ok(()) } else { Err(AskError::Refused { code: status.code(), said: last_words(&log) }) }
}

/// Why it failed, from its log.
fn last_words(log: &str) -> String {
    let failed = log.lines().rev().find_map(|line| line.split_once(" event=failed error=")).map(|(_, error)| error);
    let said = failed.or_else(|| log.lines().last()).unwrap_or("the launcher ended without a word");
    // The launcher's own escapes: a quote is the only one that it needs in ordinary words.
    short(&said.trim_matches('"').replace("\\\"", "\""), 2000)
}

impl AskError {
    /// The number for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Programs(_) | Self::Start(_) => Exit::Unavailable,
            Self::Refused { code: Some(66), .. } => Exit::NoInput,
            Self::Refused { code: Some(78), .. } => Exit::Config,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_reason() {
        let log = "casemate-launcher: level=warn event=store-empty store=/srv\n\
                   casemate-launcher: level=error event=failed error=\"write sandbox.accept_missing = [\\\"landlock\\\"]\"\n";
        assert_eq!(last_words(log), "write sandbox.accept_missing = [\"landlock\"]");
        assert_eq!(last_words(""), "the launcher ended without a word");
    }
}
