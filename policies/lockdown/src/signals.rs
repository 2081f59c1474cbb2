//! The handlers of the signals that a crash raises, back to the default. **Unsafe** lives here.
//!
//! Rust's runtime handles SIGSEGV and SIGBUS to report an overflowed stack; its handler ends by calling `rt_sigaction`,
//! which the last filter does not allow, and libtorch installs some of its own. With the default action a crash is a
//! crash: the process ends and its parent reads which signal it was.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Resets each of them, and SIGPIPE: the runtime ignores it, and a worker whose front is gone has nothing left to do.
pub(crate) fn reset() -> Result<(), Errno> {
    reset_crashes()?;
    to_default(&[Signal::SIGPIPE])
}

/// Resets those that a crash raises.
pub(crate) fn reset_crashes() -> Result<(), Errno> {
    to_default(&CRASHES)
}

fn to_default(signals: &[Signal]) -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in signals {
        // SAFETY: a handler must be sound to run at any point of the program. The default action runs no code of this
        // process, and the handler it replaces is not called again.
        unsafe { sigaction(*signal, &default) }?;
    }
    Ok(())
}

const CRASHES: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGSYS];
