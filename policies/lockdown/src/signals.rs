//! The handlers of the signals that a crash raises, back to the default. **Unsafe** lives here.
//!
//! Rust's runtime handles SIGSEGV and SIGBUS to report an overflowed stack; its handler ends by calling `rt_sigaction`,
//! which the last filter does not allow, and libtorch installs some of its own. With the default action a crash is a
//! crash: the process ends and its parent reads which signal it was.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Resets each of them.
pub(crate) fn reset() -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in CRASHES {
        // SAFETY: a handler must be sound to run at any point of the program. The default action runs no code of this
        // process, and the handler it replaces is not called again.
        unsafe { sigaction(signal, &default) }?;
    }
    Ok(())
}

/// SIGPIPE among them: the runtime ignores it, and a worker whose front is gone has nothing left to do.
const CRASHES: [Signal; 7] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGSYS, Signal::SIGPIPE];
