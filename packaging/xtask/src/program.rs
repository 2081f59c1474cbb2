//! Other programs that a task runs, and how each can fail.

use std::io;
use std::process::{Command, ExitStatus};

/// Why another program did not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot start `{program}`")]
    Start {
        program: String,
        #[source]
        cause: io::Error,
    },
    /// `code` is what a shell would see: 128 and the signal's number where a signal ended it.
    #[error("`{program}` ended with {code}")]
    Failed { program: String, code: u8 },
    #[error("`{program}` printed what is not UTF-8")]
    NotText { program: String },
}

/// Runs it on our terminal.
pub(crate) fn run(command: &mut Command) -> Result<(), ProgramError> {
    let status = command.status().map_err(|cause| ProgramError::Start { program: name(command), cause })?;
    judge(command, status)
}

/// Runs it and returns what it printed; its complaints go to our terminal.
pub(crate) fn output(command: &mut Command) -> Result<String, ProgramError> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|cause| ProgramError::Start { program: name(command), cause })?;
    judge(command, output.status)?;
    String::from_utf8(output.stdout).map_err(|_| ProgramError::NotText { program: name(command) })
}

/// Says what is run before it is run, as a shell does with `set -x`.
pub(crate) fn announce(command: &Command) {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    eprintln!("xtask: {} {}", name(command), args.join(" "));
}

fn judge(command: &Command, status: ExitStatus) -> Result<(), ProgramError> {
    use std::os::unix::process::ExitStatusExt;
    if status.success() {
        return Ok(());
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Err(ProgramError::Failed { program: name(command), code: u8::try_from(code).unwrap_or(1) })
}

fn name(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_handed_on() {
        let failed = run(Command::new("sh").args(["-c", "exit 101"]));
        assert!(matches!(failed, Err(ProgramError::Failed { code: 101, .. })), "{failed:?}");
    }

    #[test]
    fn a_signal_reads_as_a_shell_would_say_it() {
        let failed = run(Command::new("sh").args(["-c", "kill -9 $$"]));
        assert!(matches!(failed, Err(ProgramError::Failed { code: 137, .. })), "{failed:?}");
    }
}
