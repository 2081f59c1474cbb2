//! Swaps the root for an empty one: after that there is no path left to name.
//!
//! The jail leaves a mount without an entry at [`EMPTY_FOLDER`]. It becomes the root; the old root, with the libraries in
//! it, is detached. What is mapped stays mapped.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
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
    chdir(EMPTY_FOLDER).map_err(RootError::Enter)?;
    // With "." twice the old root is stacked upon the new one, so no folder in the empty root is needed to hold it.
    pivot_root(".", ".").map_err(RootError::Pivot)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(RootError::Detach)?;
    chdir("/").map_err(RootError::Return)?;
    match fs::read_dir("/").map_err(RootError::List)?.next() {
        None => Ok(()),
        Some(Ok(_)) => Err(RootError::NotEmpty),
        Some(Err(error)) => Err(RootError::List(error)),
    }
}
