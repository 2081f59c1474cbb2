//! Descriptors in the runtime's reactor. tokio asks for a promise here that only the type of what is registered can give.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use casemate_ipc::seqpacket::Channel;
use tokio::io::unix::AsyncFd;

/// Types that own one open descriptor from their making to their drop and never name another. Only those below: the
/// trait cannot be seen outside this folder.
pub(super) trait Steady: AsRawFd {}

impl Steady for OwnedFd {}
impl<S, R> Steady for Channel<S, R> {}

/// Registers a descriptor with the runtime that this is called in.
pub(super) fn register<T: Steady>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsyncFd` takes the value over, and a `Steady` type keeps its one descriptor open until it is dropped.
    Ok(unsafe { AsyncFd::register(inner) }?)
}
