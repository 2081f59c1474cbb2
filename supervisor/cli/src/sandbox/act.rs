//! One forbidden act: what came of it without the cage, what came of it inside, and what that proves.

use casemate_ipc::inquiry::{End, Refused, Rehearsal};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::Serialize;

/// An act, as `casemate-probe --list` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act {
    pub(crate) name: String,
    /// When a worker's script must do it.
    pub(crate) at: String,
    /// What must refuse it.
    pub(crate) by: Mechanism,
    /// The number of the call that a filter must stop it at; nothing where no filter is to.
    pub(crate) stop: Option<i64>,
}

/// What refuses an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mechanism {
    Seccomp,
    /// The same, at a door that has numbers of its own.
    Door,
    Mapping,
    Seal,
    DataLimit,
    StackLimit,
    Deadline,
}

/// What an act printed: whether it was begun, and what the kernel answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Said {
    pub(crate) reached: bool,
    /// What it returned, and the errno where that is -1.
    pub(crate) returned: Option<(i64, i32)>,
}

/// What an act proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The cage refused it, and nothing else could have.
    Held,
    /// The cage let it pass.
    NotHeld,
    /// Nothing: it was never tried, or would have failed without the cage too.
    Unproven,
}

/// The proof of one act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Proof {
    pub(crate) act: String,
    pub(crate) by: Mechanism,
    pub(crate) outcome: Outcome,
    /// Without the cage.
    pub(crate) control: String,
    /// What refused it.
    pub(crate) mechanism: String,
    /// Inside.
    pub(crate) caged: String,
}

impl Act {
    /// Reads a line of the list.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split('\t').map(str::to_owned);
        let (name, at, by, stop) = (words.next()?, words.next()?, Mechanism::parse(&words.next()?)?, words.next()?);
        let stop = if stop == "-" { None } else { Some(stop.parse().ok()?) };
        Some(Self { name, at, by, stop })
    }

    /// What its worker's model says.
    pub(crate) fn script(&self) -> String {
        format!("at = \"{}\"\nprobe = \"{}\"\n", self.at, self.name)
    }

    /// What it proves that this came of it outside, and that inside.
    pub(crate) fn judge(&self, control: Said, worker: &Rehearsal) -> Proof {
        let caged = Said::of(&self.name, &worker.log);
        let (outcome, said) = self.outcome(control, caged, worker);
        Proof {
            act: self.name.clone(),
            by: self.by,
            outcome,
            control: control.in_words(),
            mechanism: self.mechanism(&worker.end),
            caged: said,
        }
    }

    fn outcome(&self, control: Said, caged: Said, worker: &Rehearsal) -> (Outcome, String) {
        let end = ended(&worker.end);
        if !caged.reached {
            let why = worker.answer.as_deref().unwrap_or("the act was never begun");
            return (Outcome::Unproven, format!("{why}; {end}"));
        }
        let expected = match (self.by, caged.returned, &worker.end) {
            (Mechanism::Seccomp | Mechanism::Door, None, End::Syscall(refused)) => {
                if self.stop != Some(refused.number) {
                    return (Outcome::Unproven, self.elsewhere(refused));
                }
                true
            }
            (Mechanism::Deadline, None, End::Deadline) => true,
            (Mechanism::Mapping | Mechanism::StackLimit, None, End::Signal { number }) => {
                *number == Signal::SIGSEGV as i32
            }
            (Mechanism::Seal, Some((-1, errno)), _) => errno == Errno::EACCES as i32,
            (Mechanism::DataLimit, Some((-1, errno)), _) => errno == Errno::ENOMEM as i32,
            _ => false,
        };
        match (expected, caged.returned) {
            (true, returned) if control.proves(self.by) => (Outcome::Held, returned.map_or(end, |_| caged.in_words())),
            (true, _) => (Outcome::Unproven, "its control proves nothing".to_owned()),
            (false, Some(_)) => (Outcome::NotHeld, caged.in_words()),
            // Something else ended it first. That may be as good, and is not what is claimed.
            (false, None) => (Outcome::Unproven, end),
        }
    }

    /// In words, that the filter refused a call, and not the one that the act makes.
    fn elsewhere(&self, refused: &Refused) -> String {
        let stop = self.stop.map_or("none".to_owned(), |number| number.to_string());
        if refused.number < 0 {
            return format!("killed (SIGSYS) at a call that could not be read; its own is call {stop}");
        }
        let name = refused.name.as_deref().filter(|_| self.by == Mechanism::Seccomp).unwrap_or("another");
        format!("killed (SIGSYS) at call {} ({name}); its own is call {stop}", refused.number)
    }

    fn mechanism(&self, end: &End) -> String {
        let text = match (self.by, end) {
            (Mechanism::Seccomp, End::Syscall(refused)) => return rule(refused),
            (Mechanism::Seccomp, _) => "seccomp",
            (Mechanism::Door, _) => "seccomp: no rule for another table of calls",
            (Mechanism::Mapping, _) => "mapped for reading only",
            (Mechanism::Seal, _) => "the memory file is sealed",
            (Mechanism::DataLimit, _) => "RLIMIT_DATA",
            (Mechanism::StackLimit, _) => "RLIMIT_STACK",
            (Mechanism::Deadline, _) => "the deadline of its request",
        };
        text.to_owned()
    }
}

impl Mechanism {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "seccomp" => Self::Seccomp,
            "door" => Self::Door,
            "mapping" => Self::Mapping,
            "seal" => Self::Seal,
            "data-limit" => Self::DataLimit,
            "stack-limit" => Self::StackLimit,
            "deadline" => Self::Deadline,
            _ => return None,
        })
    }
}

impl Said {
    /// Reads what an act printed, among other lines.
    pub(crate) fn of(name: &str, text: &str) -> Self {
        let (reached, returned) = (format!("probe {name} reached"), format!("probe {name} returned "));
        let answer = text.lines().find_map(|line| line.strip_prefix(&returned)).and_then(|rest| {
            let (value, errno) = rest.split_once(" errno ")?;
            Some((value.parse().ok()?, errno.trim().parse().ok()?))
        });
        Self { reached: text.lines().any(|line| line == reached), returned: answer }
    }

    /// Whether a control with this outcome says something about the cage. A filter ends a call before the kernel looks at
    /// it, so any answer of the kernel is another outcome; what is refused by an answer must have succeeded outside.
    fn proves(self, by: Mechanism) -> bool {
        match (by, self.returned) {
            (_, None) => false,
            (Mechanism::Seccomp | Mechanism::Door, Some(_)) => true,
            (_, Some((returned, _))) => returned != -1,
        }
    }

    fn in_words(self) -> String {
        match self.returned {
            _ if !self.reached => "never begun".to_owned(),
            None => "never came back".to_owned(),
            Some((-1, errno)) => format!("answered {:?}", Errno::from_raw(errno)),
            Some(_) => "succeeded".to_owned(),
        }
    }
}

/// Which rule refused a call, if it is one that a rule names.
fn rule(refused: &Refused) -> String {
    let Refused { number, name, only, .. } = refused;
    match (name, only) {
        _ if *number < 0 => "seccomp".to_owned(),
        (Some(name), Some(only)) => format!("seccomp: {name} only if {only}"),
        (Some(name), None) => format!("seccomp: no rule for {name}"),
        (None, _) => format!("seccomp: no rule for call {number}"),
    }
}

fn ended(end: &End) -> String {
    match end {
        End::Spawn { why } => format!("not started: {why}"),
        End::Exit { code } => format!("exited with code {code}"),
        End::Syscall(_) => "killed (SIGSYS)".to_owned(),
        End::Signal { number } => {
            let name = Signal::try_from(*number).map_or(format!("signal {number}"), |signal| signal.to_string());
            format!("killed ({name})")
        }
        End::Deadline => "killed at its deadline".to_owned(),
        End::Oom => "killed for want of memory".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(by: &str) -> Act {
        let stop = if matches!(by, "seccomp" | "door") { "257" } else { "-" };
        Act::parse(&format!("x\trun\t{by}\t{stop}")).unwrap()
    }

    fn worker(log: &str, end: End) -> Rehearsal {
        let (model, version) = ("x".to_owned(), "1".to_owned());
        Rehearsal { model, version, ready: true, answer: None, log: log.to_owned(), layers: Vec::new(), end, ms: 1 }
    }

    fn sigsys() -> End {
        refused_at(257)
    }

    fn refused_at(number: i64) -> End {
        End::Syscall(Refused { number, name: Some("openat".into()), arguments: [0; 6], only: None })
    }

    const OUTSIDE: Said = Said { reached: true, returned: Some((3, 0)) };
    const REFUSED: Said = Said { reached: true, returned: Some((-1, 1)) };
    const SILENT: Said = Said { reached: true, returned: None };

    #[test]
    fn only_the_mechanism_that_is_claimed_holds() {
        let outcome = |by: &str, control, log: &str, end| act(by).judge(control, &worker(log, end)).outcome;
        let (begun, back) = ("probe x reached\n", "probe x reached\nprobe x returned 3 errno 0\n");
        let errno = |errno| format!("{begun}probe x returned -1 errno {errno}\n");
        let gone = End::Exit { code: 0 };
        let segv = End::Signal { number: 11 };
        assert_eq!(outcome("seccomp", OUTSIDE, begun, sigsys()), Outcome::Held);
        assert_eq!(outcome("seccomp", REFUSED, begun, sigsys()), Outcome::Held);
        assert_eq!(outcome("mapping", OUTSIDE, begun, segv.clone()), Outcome::Held);
        assert_eq!(outcome("data-limit", OUTSIDE, &errno(12), gone.clone()), Outcome::Held);
        assert_eq!(outcome("seal", OUTSIDE, &errno(13), gone.clone()), Outcome::Held);
        assert_eq!(outcome("deadline", OUTSIDE, begun, End::Deadline), Outcome::Held);
        // It came back.
        assert_eq!(outcome("seccomp", OUTSIDE, back, gone.clone()), Outcome::NotHeld);
        assert_eq!(outcome("seccomp", OUTSIDE, &errno(1), gone.clone()), Outcome::NotHeld);
        assert_eq!(outcome("mapping", OUTSIDE, back, gone.clone()), Outcome::NotHeld);
        assert_eq!(outcome("data-limit", OUTSIDE, back, gone.clone()), Outcome::NotHeld);
        assert_eq!(outcome("data-limit", OUTSIDE, &errno(1), gone.clone()), Outcome::NotHeld);
        assert_eq!(outcome("deadline", OUTSIDE, back, gone.clone()), Outcome::NotHeld);
        // Nothing was shown.
        assert_eq!(outcome("seccomp", SILENT, begun, sigsys()), Outcome::Unproven);
        assert_eq!(outcome("mapping", REFUSED, begun, segv.clone()), Outcome::Unproven);
        assert_eq!(outcome("seccomp", OUTSIDE, "", sigsys()), Outcome::Unproven);
        assert_eq!(outcome("seccomp", OUTSIDE, begun, segv), Outcome::Unproven);
        assert_eq!(outcome("seccomp", OUTSIDE, begun, gone), Outcome::Unproven);
        assert_eq!(outcome("seccomp", OUTSIDE, begun, End::Deadline), Outcome::Unproven);
        // It was stopped at another call than its own, or nobody knows at which.
        for (by, number) in [("seccomp", 9), ("door", 9), ("seccomp", -1)] {
            assert_eq!(outcome(by, OUTSIDE, begun, refused_at(number)), Outcome::Unproven, "{by} {number}");
        }
    }

    #[test]
    fn the_words_name_the_rule() {
        let end = |name: Option<&str>, only: Option<&str>| {
            End::Syscall(Refused {
                number: 9,
                name: name.map(Into::into),
                arguments: [0; 6],
                only: only.map(Into::into),
            })
        };
        assert_eq!(act("seccomp").mechanism(&end(Some("openat"), None)), "seccomp: no rule for openat");
        let only = act("seccomp").mechanism(&end(Some("mmap"), Some("prot lacks PROT_EXEC")));
        assert_eq!(only, "seccomp: mmap only if prot lacks PROT_EXEC");
        // The number of another table means another call.
        assert!(!act("door").mechanism(&end(Some("writev"), None)).contains("writev"));
    }
}
