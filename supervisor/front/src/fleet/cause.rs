//! Why a worker is gone, for the operator: a stable word for metrics, and a sentence with the system call by name.

use casemate_ipc::launch::{ExitCause, exit_code};
use casemate_ipc::layer::Layer;
use casemate_ipc::work::{GateCode, Step};
use nix::sys::signal::Signal;

use super::violation::{Call, Guard, Violation};
use crate::telemetry;

/// How one worker's time ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// A stable word; one of [`Cause::WORDS`].
    pub word: &'static str,
    /// The whole story, safe to print: for the log.
    pub detail: String,
    /// The story without what a model may have said, where it may have said something.
    told: Option<String>,
    /// What was refused or ended, if something was; not every end is one.
    pub violation: Option<Violation>,
    /// Nothing was heard but silence, so how it died says more.
    pub silent: bool,
}

impl Cause {
    /// Every word, for the metrics.
    pub const WORDS: [&'static str; 10] =
        ["oom", "syscall", "signal", "exit", "refused", "deadline", "protocol", "cage", "spawn", "stopped"];

    /// As the launcher saw it.
    pub fn from_exit(exit: ExitCause) -> Self {
        match exit {
            ExitCause::Exited(code) => Self::plain("exit", format!("exited with code {code}{}", step(code))),
            ExitCause::Killed => Self::plain("stopped", "killed by this server".to_owned()),
            ExitCause::Signal(number) => {
                let detail = format!("died of {}", signal(number));
                Self { violation: limit(number), ..Self::plain("signal", detail) }
            }
            ExitCause::Syscall(denied) => {
                let violation = Violation::syscall(denied);
                let (detail, told) = violation.call.as_deref().map(syscall).unwrap_or_default();
                Self { told, violation: Some(violation), ..Self::plain("syscall", detail) }
            }
            ExitCause::OutOfMemory => Self {
                violation: Some(Violation::of(Guard::Layer(Layer::Cgroup), "oom")),
                ..Self::plain("oom", "killed by the kernel for want of memory".to_owned())
            },
        }
    }

    /// What everybody may read.
    pub fn told(&self) -> &str {
        self.told.as_deref().unwrap_or(&self.detail)
    }

    /// Whether the model may have done it: such deaths count for its breaker. Not what this server did or refused.
    pub fn is_the_models(&self) -> bool {
        matches!(self.word, "oom" | "syscall" | "signal" | "exit" | "deadline" | "protocol")
    }

    /// The worker refused its model. Its text goes to the log, escaped. That of a step which runs the model can be the
    /// model's own, and clients can read a status, so there it is left out.
    pub fn refused(at: Step, detail: &str) -> Self {
        let told = at.runs_the_model().then(|| format!("refused at the step {:?}; the log says why", at.name()));
        let detail = format!("refused at the step {:?}: {}", at.name(), telemetry::escape(detail));
        // What stands before the loader; what the loader itself refuses is a broken model, not an attempt.
        let violation = match at.name() {
            word @ ("verify" | "gate") => Some(Violation::of(Guard::Archive, word)),
            _ => None,
        };
        Self { told, violation, ..Self::plain("refused", detail) }
    }

    /// The gate refused its model. Everybody may know the code, which is one of ours; the words name what is in the archive,
    /// and that is between the operator and the model.
    pub fn gated(code: GateCode, detail: &str) -> Self {
        let told = format!("refused at the step \"gate\": {}; the log says where and why", code.name());
        Self { told: Some(told), ..Self::refused(Step::Gate, detail) }
    }

    /// The launcher would not start it.
    pub fn spawn(reason: &str) -> Self {
        Self::plain("spawn", format!("not started: {}", telemetry::escape(reason)))
    }

    /// It did not answer in time and was killed.
    pub fn deadline(what: &str) -> Self {
        let violation = Some(Violation::of(Guard::Supervision, "deadline"));
        Self { violation, ..Self::plain("deadline", format!("killed: {what}")) }
    }

    /// The kernel does not confirm a layer of its cage, so it was killed before it served.
    pub fn cage(layer: Layer, what: &str) -> Self {
        let detail = format!("killed before it served: {layer} {}", telemetry::escape(what));
        Self { violation: Some(Violation::of(Guard::Layer(layer), "cage")), ..Self::plain("cage", detail) }
    }

    /// It broke the protocol and was killed.
    pub fn protocol(what: &str) -> Self {
        let violation = Some(Violation::of(Guard::Supervision, "protocol"));
        Self { violation, ..Self::plain("protocol", format!("killed: it broke the protocol: {what}")) }
    }

    /// It is not there any more, or does not listen: a breach of the protocol, unless its death explains it.
    pub fn silent(what: &str) -> Self {
        Self { silent: true, ..Self::protocol(what) }
    }

    fn plain(word: &'static str, detail: String) -> Self {
        Self { word, detail, told: None, violation: None, silent: false }
    }
}

/// For the log, and for everybody: the model chose the arguments, and may have put into them what it was asked.
fn syscall(call: &Call) -> (String, Option<String>) {
    if call.number < 0 {
        return ("died of a refused system call that could not be read (no ptrace on this host)".to_owned(), None);
    }
    if call.is_abort() {
        return ("aborted (its own abort() was refused as tgkill)".to_owned(), None);
    }
    if call.is_report() {
        let found = "the C library found something broken, corrupted memory most often";
        return (format!("aborted ({found}; its report was refused as writev)"), None);
    }
    let Call { name, number, instruction, caller, .. } = call;
    let origin = caller.as_ref().map(|caller| format!(" in {}", caller.origin)).unwrap_or_default();
    let what = format!("killed by the system call filter: {name} ({number})");
    (format!("{what}, arguments {}, at {instruction:#x}{origin}", call.arguments()), Some(format!("{what}{origin}")))
}

/// Signals by which the kernel itself holds a limit.
fn limit(signal: i32) -> Option<Violation> {
    let cause = match Signal::try_from(signal).ok()? {
        Signal::SIGXCPU => "cpu-time",
        Signal::SIGXFSZ => "file-size",
        _ => return None,
    };
    Some(Violation::of(Guard::Layer(Layer::ResourceLimits), cause))
}

fn signal(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| format!("{} ({number})", s.as_str()))
}

fn step(code: i32) -> &'static str {
    match code {
        exit_code::DONE => "",
        exit_code::BOOT => ": its descriptors, its grant or its model's digest were not as promised",
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
    use casemate_ipc::launch::Denied;
    use syscalls::Sysno;

    use super::*;

    #[test]
    fn a_refused_call_is_told_by_name_and_number() {
        let number = Sysno::openat.id() as i64;
        let denied = Denied { number, args: [1, 2, 3, 4, 5, 6], instruction: 0xabc, caller: None };
        let cause = Cause::from_exit(ExitCause::Syscall(denied.clone()));
        assert!(cause.detail.contains(&format!("openat ({number})")), "{}", cause.detail);
        assert!(cause.detail.contains("0xabc") && cause.detail.contains("0x6"));
        assert!(cause.told().contains("openat") && !cause.told().contains("0x"), "{}", cause.told());
        let unread = Cause::from_exit(ExitCause::Syscall(Denied { number: -1, ..denied.clone() }));
        assert!(unread.detail.contains("could not be read"));
        let report = Denied { number: Sysno::writev.id().into(), args: [2, 9, 3, 0, 0, 0], ..denied };
        let report = Cause::from_exit(ExitCause::Syscall(report));
        assert!(report.told().contains("corrupted memory") && report.told().contains("writev"), "{report:?}");
        assert!(Cause::from_exit(ExitCause::Signal(11)).detail.contains("SIGSEGV (11)"));
        assert!(Cause::WORDS.contains(&cause.word));
    }

    #[test]
    fn what_was_refused_is_a_violation_and_a_crash_is_none() {
        let guard = |cause: Cause| cause.violation.map(|v| (v.guard.name(), v.cause));
        assert_eq!(guard(Cause::from_exit(ExitCause::Signal(11))), None);
        assert_eq!(guard(Cause::from_exit(ExitCause::Signal(25))), Some(("resource-limits", "file-size")));
        assert_eq!(guard(Cause::from_exit(ExitCause::OutOfMemory)), Some(("cgroup", "oom")));
        assert_eq!(guard(Cause::from_exit(ExitCause::Killed)), None);
        assert_eq!(guard(Cause::deadline("late")), Some(("supervision", "deadline")));
        assert_eq!(guard(Cause::protocol("lie")), Some(("supervision", "protocol")));
        assert_eq!(guard(Cause::cage(Layer::Landlock, "is off")), Some(("landlock", "cage")));
        assert_eq!(guard(Cause::refused(Step::Verify, "digest")), Some(("archive", "verify")));
        assert_eq!(guard(Cause::refused(Step::Load, "no model")), None);
    }

    #[test]
    fn the_words_of_a_model_are_for_the_log() {
        for step in [Step::Load, Step::Trial] {
            let cause = Cause::refused(step, "the secret is 42");
            assert!(cause.detail.contains("secret") && !cause.told().contains("secret"), "{cause:?}");
            assert!(cause.told().contains(step.name()));
        }
        assert!(Cause::refused(Step::Verify, "another digest").told().contains("another digest"));
    }

    #[test]
    fn what_this_server_does_is_not_the_models_doing() {
        let of = |exit| Cause::from_exit(exit).is_the_models();
        assert!(of(ExitCause::Signal(11)) && of(ExitCause::OutOfMemory) && of(ExitCause::Exited(3)));
        assert!(!of(ExitCause::Killed) && !Cause::spawn("no").is_the_models());
        assert!(!Cause::refused(Step::Load, "no model").is_the_models());
    }
}
