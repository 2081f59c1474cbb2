//! A program of the house: found beside the launcher, opened once, run with its own name and an empty environment.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{execve, execveat};
use thiserror::Error;

use crate::owner::{Owner, OwnerError};
use crate::sys::process::duplicate_above;

/// A program that this launcher starts.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    text: CString,
    name: CString,
    /// Of a number above those that a child's own descriptors are put in place of.
    file: OwnedFd,
}

/// More descriptors than any child is born with.
const ABOVE: i32 = 64;

/// Why a program cannot be started.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// Where the launcher itself stands.
    #[error("finding the launcher's own folder: {0}")]
    Own(io::Error),
    /// It is not there.
    #[error("{}: {source}; it belongs beside casemate-launcher", path.display())]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could have written it.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Not a program, or not for everybody.
    #[error("{} is not a program that everybody may run (chmod 755)", .0.display())]
    Mode(PathBuf),
}

impl Program {
    /// The program of that name beside this one.
    pub fn beside(name: &str, owner: Owner) -> Result<Self, ProgramError> {
        let own = std::env::current_exe().map_err(ProgramError::Own)?;
        Self::open(own.with_file_name(name), owner)
    }

    /// The program at a path.
    pub fn open(path: PathBuf, owner: Owner) -> Result<Self, ProgramError> {
        let opened = File::options().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(&path);
        let file = opened.map_err(|source| ProgramError::Open { path: path.clone(), source })?;
        let metadata = owner.check(&path, &file)?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o555 != 0o555 {
            return Err(ProgramError::Mode(path));
        }
        let bytes = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).ok();
        let high = duplicate_above(&file, ABOVE);
        let file = high.map_err(|errno| ProgramError::Open { path: path.clone(), source: errno.into() })?;
        match (bytes(path.as_os_str()), path.file_name().and_then(bytes)) {
            (Some(text), Some(name)) => Ok(Self { path, text, name, file }),
            _ => Err(ProgramError::Mode(path)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Becomes it.
    pub fn exec(&self) -> Result<Infallible, Errno> {
        let (arguments, environment): ([&CStr; 1], [&CStr; 0]) = ([&self.name], []);
        // By path where that is possible, so that `ps` shows the name on kernels before 6.14 too; by descriptor where a
        // folder on the way is closed to the new identity.
        match execve(&self.text, &arguments, &environment) {
            Err(Errno::EACCES) => execveat(&self.file, c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH),
            other => other,
        }
    }
}
