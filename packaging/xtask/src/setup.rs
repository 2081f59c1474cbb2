//! What a bare Debian 12 lacks besides Rust: each tool is looked for, named with the line that installs it, and
//! installed by that very line where we are root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::{self, ProgramError};

/// A system tool, how to see that it works, and the Debian package that has it.
#[derive(Debug)]
pub(crate) struct Tool {
    name: &'static str,
    package: &'static str,
    works: fn() -> bool,
}

/// Why the system is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("missing: {tools}; install with:\n    {line}")]
    Missing { tools: String, line: String },
    #[error("missing: {tools}; this failed:\n    {line}")]
    Install {
        tools: String,
        line: String,
        #[source]
        cause: ProgramError,
    },
    #[error("still missing after installing it: {tools}")]
    StillMissing { tools: String },
}

/// For the worker's C++ shim and torch-sys.
pub(crate) const TO_BUILD: &[Tool] = &[CXX];

/// For laying out libtorch from its wheel.
pub(crate) const TO_LAY_OUT: &[Tool] = &[CXX, BINUTILS, PIP];

const CXX: Tool = Tool { name: "a C++ compiler (c++)", package: "g++", works: || answers("c++", &["--version"]) };
const BINUTILS: Tool = Tool {
    name: "strip and nm",
    package: "binutils",
    works: || answers("strip", &["--version"]) && answers("nm", &["--version"]),
};
const PIP: Tool =
    Tool { name: "Python's pip (python3 -m pip)", package: "python3-pip", works: || python_with_pip().is_some() };

/// The first may be a newer Python without pip; the second is where the Debian package puts its own.
const PYTHONS: [&str; 2] = ["python3", "/usr/bin/python3"];

/// Looks for each tool. As root installs what is missing; otherwise names the line that does.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), SetupError> {
    let missing = lacking(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let (names, line) = (names(&missing), install_line(&missing));
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(SetupError::Missing { tools: names, line });
    }
    eprintln!("xtask: missing: {names}; installing as root:\n    {line}");
    install(&missing).map_err(|cause| SetupError::Install { tools: names, line, cause })?;
    let missing = lacking(tools);
    if missing.is_empty() { Ok(()) } else { Err(SetupError::StillMissing { tools: self::names(&missing) }) }
}

/// A Python whose pip works.
pub(crate) fn python_with_pip() -> Option<PathBuf> {
    PYTHONS.iter().find(|python| answers(python, &["-m", "pip", "--version"])).map(PathBuf::from)
}

fn lacking(tools: &[Tool]) -> Vec<&Tool> {
    tools.iter().filter(|tool| !(tool.works)()).collect()
}

fn install(missing: &[&Tool]) -> Result<(), ProgramError> {
    // Questions would hang a build that nobody watches.
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        program::run(&mut apt)
    };
    apt(&["update"])?;
    let mut args = vec!["install", "-y"];
    args.extend(missing.iter().map(|tool| tool.package));
    apt(&args)
}

fn install_line(missing: &[&Tool]) -> String {
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    format!("apt-get install -y {}", packages.join(" "))
}

fn names(missing: &[&Tool]) -> String {
    missing.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ")
}

fn answers(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The owner of our own `/proc` entry is whom we run as.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool = Tool { name: "a tool that is nowhere", package: "no-such-package", works: || false };

    #[test]
    fn a_missing_tool_is_named_with_the_line_that_installs_it() {
        let tools = [ABSENT, CXX];
        let missing: Vec<_> = tools.iter().collect();
        assert_eq!(install_line(&missing), "apt-get install -y no-such-package g++");
        assert_eq!(names(&missing), "a tool that is nowhere, a C++ compiler (c++)");
    }

    #[test]
    fn only_what_does_not_work_is_lacking() {
        let present = Tool { name: "here", package: "here", works: || true };
        let tools = [present, ABSENT];
        let missing = lacking(&tools);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].package, "no-such-package");
    }

    #[test]
    fn an_absent_program_does_not_answer() {
        assert!(!answers("casemate-no-such-program", &[]));
        assert!(answers("true", &[]));
    }
}
