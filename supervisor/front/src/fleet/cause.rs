//! Why a worker is gone, for the operator: a stable word for metrics, and a sentence with the system call by name.

use casemate_ipc::launch::{Denied, ExitCause, exit_code};
use casemate_ipc::work::Step;
use nix::sys::signal::Signal;
use syscalls::Sysno;

use crate::telemetry;

/// How one worker's time ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// A stable word; one of [`Cause::WORDS`].
    pub word: &'static str,
    /// The whole story, safe to print.
    pub detail: String,
}

impl Cause {
    /// Every word, for the metrics.
    pub const WORDS: [&'static str; 10] =
        ["oom", "syscall", "signal", "exit", "refused", "deadline", "protocol", "cage", "spawn", "stopped"];

    /// As the launcher saw it.
    pub fn from_exit(exit: ExitCause) -> Self {
        match exit {
            ExitCause::Exited(code) => Self { word: "exit", detail: format!("exited with code {code}{}", step(code)) },
            ExitCause::Killed => Self { word: "stopped", detail: "killed by this server".to_owned() },
            ExitCause::Signal(number) => Self { word: "signal", detail: format!("died of {}", signal(number)) },
            ExitCause::Syscall(denied) => Self { word: "syscall", detail: syscall(denied) },
            ExitCause::OutOfMemory => {
                Self { word: "oom", detail: "killed by the kernel for want of memory".to_owned() }
            }
        }
    }

    /// The worker refused its model. Its text goes to the log and the status only, escaped.
    pub fn refused(at: Step, detail: &str) -> Self {
        let detail = format!("refused at the step {:?}: {}", at.name(), telemetry::escape(detail));
        Self { word: "refused", detail }
    }

    /// The launcher would not start it.
    pub fn spawn(reason: &str) -> Self {
        Self { word: "spawn", detail: format!("not started: {}", telemetry::escape(reason)) }
    }

    /// It did not answer in time and was killed.
    pub fn deadline(what: &str) -> Self {
        Self { word: "deadline", detail: format!("killed: {what}") }
    }

    /// The kernel does not confirm a layer of its cage, so it was killed before it served.
    pub fn cage(what: &str) -> Self {
        Self { word: "cage", detail: format!("killed before it served: {}", telemetry::escape(what)) }
    }

    /// It broke the protocol and was killed.
    pub fn protocol(what: &str) -> Self {
        Self { word: "protocol", detail: format!("killed: it broke the protocol: {what}") }
    }
}

fn syscall(denied: Denied) -> String {
    let Denied { number, args, instruction } = denied;
    let Ok(plain) = usize::try_from(number) else {
        return "died of a refused system call that could not be read (no ptrace on this host)".to_owned();
    };
    // Bit 30 is the x32 interface of x86-64: the same numbers, another door.
    let name = Sysno::new(plain).map_or("unknown", |call| call.name());
    // A C library aborts by sending itself SIGABRT; the filter stops that too, and this is what it looks like.
    if name == "tgkill" && args.get(2) == Some(&6) {
        return "aborted (its own abort() was refused as tgkill)".to_owned();
    }
    let args: Vec<String> = args.iter().map(|a| format!("{a:#x}")).collect();
    format!("killed by the system call filter: {name} ({number}), arguments {}, at {instruction:#x}", args.join(" "))
}

fn signal(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| format!("{} ({number})", s.as_str()))
}

fn step(code: i32) -> &'static str {
    match code {
        exit_code::DONE => "",
        exit_code::BOOT => ": its descriptors or its grant were not as promised",
        exit_code::LOCK => ": a layer of the cage could not be put on",
        exit_code::WARM => ": the engine could not be warmed up",
        exit_code::VERIFY => ": the model is not what its manifest says",
        exit_code::GATE => ": the gate refused the model",
        exit_code::LOAD => ": the engine refused the model",
        exit_code::TRIAL => ": the model did not survive its first run",
        exit_code::PROTOCOL => ": it says that the front broke the protocol",
        _ => ", which no worker of ours uses",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_told_by_name_and_number() {
        let number = Sysno::openat.id() as i64;
        let denied = Denied { number, args: [1, 2, 3, 4, 5, 6], instruction: 0xabc };
        let cause = Cause::from_exit(ExitCause::Syscall(denied));
        assert!(cause.detail.contains(&format!("openat ({number})")), "{}", cause.detail);
        assert!(cause.detail.contains("0xabc"));
        let unread = Cause::from_exit(ExitCause::Syscall(Denied { number: -1, ..denied }));
        assert!(unread.detail.contains("could not be read"));
        assert!(Cause::from_exit(ExitCause::Signal(11)).detail.contains("SIGSEGV (11)"));
        assert!(Cause::WORDS.contains(&cause.word));
    }
}
