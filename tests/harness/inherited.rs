//! What a program that starts the server has done to signals: `nohup`, a shell's background job and some supervisors ignore or
//! block them, and every program that is started after them inherits it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};

/// Signals that the server finds ignored and blocked as it starts.
#[derive(Debug, Clone, Copy)]
pub struct Inherited {
    /// Ignored.
    pub ignored: &'static [Signal],
    /// Blocked.
    pub blocked: &'static [Signal],
}

impl Inherited {
    /// Lets a program start with them.
    pub fn around(self, command: &mut Command) {
        let mut blocked = SigSet::empty();
        self.blocked.iter().for_each(|signal| blocked.add(*signal));
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        let set = move || -> std::io::Result<()> {
            for signal in self.ignored {
                // SAFETY: an ignored signal runs no code.
                unsafe { sigaction(*signal, &ignore) }?;
            }
            Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?)
        };
        // SAFETY: between fork and exec this makes system calls over memory that was laid out before, and allocates nothing.
        unsafe { command.pre_exec(set) };
    }
}
