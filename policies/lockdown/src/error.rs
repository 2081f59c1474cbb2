//! Why the door did not open: one enum for each step of the trip, a variant for each layer of the step.

use nix::errno::Errno;

use crate::files::FilesError;
use crate::privileges::PrivilegeError;
use crate::root::RootError;
use crate::syscalls::InstallError;

/// Why [`crate::confine`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// There is more than one thread, and a layer would bind one of them only.
    #[error("the worker is not one thread: {0}")]
    Threads(#[source] PrivilegeError),
    /// `no_new_privs` is not in force.
    #[error("no_new_privs: {0}")]
    NoNewPrivs(#[source] PrivilegeError),
    /// The process can still be dumped and traced by its own uid.
    #[error("non-dumpable: {0}")]
    Dumpable(#[source] PrivilegeError),
    /// A signal handler could not be reset.
    #[error("signal handlers: {0}")]
    Signals(#[source] Errno),
    /// The filter of the warm-up is not in force.
    #[error("system call filter: {0}")]
    Filter(#[source] InstallError),
    /// The allocator of a zygote could not be made ready for its workers' last filters.
    #[error("priming the heap: {0}")]
    Heap(#[source] std::io::Error),
}

/// Why [`crate::lock`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The root is not the empty one.
    #[error("empty root: {0}")]
    Root(#[source] RootError),
    /// A capability is left, or the securebits are not locked.
    #[error("capabilities: {0}")]
    Capabilities(#[source] PrivilegeError),
    /// Landlock is not in force.
    #[error("Landlock: {0}")]
    Landlock(#[source] FilesError),
    /// The warm-up started a thread, and Landlock does not bind it.
    #[error("the worker is not one thread: {0}")]
    Threads(#[source] PrivilegeError),
    /// The kernel could not be asked what is in force.
    #[error("reading back: {0}")]
    Report(#[source] PrivilegeError),
    /// The allocator could not be made ready for the last filter.
    #[error("priming the heap: {0}")]
    Heap(#[source] std::io::Error),
}

/// Why [`crate::seal`] or [`crate::seal_front`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The kernel could not be asked whether a filter is in force.
    #[error("reading back the filter: {0}")]
    ReadBack(#[source] Errno),
    /// The filter that should be there by now is gone.
    #[error("no system call filter is in force")]
    NoFilter,
    /// The filter is not in force on every thread.
    #[error("system call filter: {0}")]
    Filter(#[source] InstallError),
}

/// Why [`crate::lock_front`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// There is more than one thread, and a layer would bind one of them only.
    #[error("the front is not one thread: {0}")]
    Threads(#[source] PrivilegeError),
    /// `no_new_privs` is not in force.
    #[error("no_new_privs: {0}")]
    NoNewPrivs(#[source] PrivilegeError),
    /// The process can still be dumped and traced by its own uid.
    #[error("non-dumpable: {0}")]
    Dumpable(#[source] PrivilegeError),
    /// A signal handler could not be reset.
    #[error("signal handlers: {0}")]
    Signals(#[source] Errno),
    /// A core could still be written, with every client's data in it.
    #[error("core limit: {0}")]
    Core(#[source] PrivilegeError),
    /// A capability is left.
    #[error("capabilities: {0}")]
    Capabilities(#[source] PrivilegeError),
    /// Landlock is not in force.
    #[error("Landlock: {0}")]
    Landlock(#[source] FilesError),
    /// The kernel could not be asked what is in force.
    #[error("reading back: {0}")]
    Report(#[source] PrivilegeError),
    /// The allocator could not be made ready for the filter.
    #[error("priming the heap: {0}")]
    Heap(#[source] std::io::Error),
}

/// Why [`crate::confine_launcher`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LauncherError {
    /// There is more than one thread.
    #[error("the launcher is not one thread: {0}")]
    Threads(#[source] PrivilegeError),
    /// The launcher's filter is not in force.
    #[error("system call filter: {0}")]
    Filter(#[source] InstallError),
}
