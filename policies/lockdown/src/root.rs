//! Swaps the root for an empty one: after that there is no path left to name.
//!
//! The jail leaves a mount without an entry at [`EMPTY_FOLDER`]. It becomes the root; the old root, with the libraries in
//! it, is detached. What is mapped stays mapped.

use std::ffi::OsString;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

/// Where the jail leaves the mount that becomes the root.
pub const EMPTY_FOLDER: &str = "/empty";

/// Why the root is not the empty one: the step that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The jail left no such folder.
    #[error("entering {EMPTY_FOLDER}: {0}")]
    Enter(#[source] Errno),
    /// It is not a mount of its own, or the capability for it is gone already.
    #[error("pivot_root: {0}")]
    Pivot(#[source] Errno),
    /// The old root is still there.
    #[error("detaching the old root: {0}")]
    Detach(#[source] Errno),
    /// The new root cannot be entered.
    #[error("entering the new root: {0}")]
    Return(#[source] Errno),
    /// The new root cannot be listed.
    #[error("listing the new root: {0}")]
    List(#[source] io::Error),
    /// The new root holds something.
    #[error("the new root is not empty")]
    NotEmpty,
}

/// Swaps, then lists what is there.
pub(crate) fn swap() -> Result<(), RootError> {
    go()?;
    if list()?.is_empty() { Ok(()) } else { Err(RootError::NotEmpty) }
}

/// The same for a zygote, whose jail leaves a folder in that root, and nothing else: the place where each of its workers
/// mounts its own.
pub(crate) fn swap_for_threshold() -> Result<(), RootError> {
    go()?;
    let place = EMPTY_FOLDER.trim_start_matches('/');
    if list()?.iter().all(|name| name == place) { Ok(()) } else { Err(RootError::NotEmpty) }
}

/// Makes the root of a process that a zygote bore, in its own mount namespace: a file system of its own, with room for no
/// entry at all.
pub fn lay_empty_folder() -> Result<(), Errno> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("empty"), EMPTY_FOLDER, Some("tmpfs"), flags, Some("mode=0555,size=4k,nr_inodes=1"))
}

fn go() -> Result<(), RootError> {
    chdir(EMPTY_FOLDER).map_err(RootError::Enter)?;
    // With "." twice the old root is stacked upon the new one, so no folder in the empty root is needed to hold it.
    pivot_root(".", ".").map_err(RootError::Pivot)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(RootError::Detach)?;
    chdir("/").map_err(RootError::Return)
}

fn list() -> Result<Vec<OsString>, RootError> {
    let entries = fs::read_dir("/").map_err(RootError::List)?;
    entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>().map_err(RootError::List)
}
