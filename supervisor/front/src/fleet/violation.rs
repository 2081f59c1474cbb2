//! What a layer stopped: one record for the log, the metrics and the status, made of words and numbers of our own.

use casemate_ipc::launch::{Caller, Denied};
use casemate_ipc::layer::Layer;
use syscalls::Sysno;

use crate::telemetry;

/// Something that a worker tried, or that was tried on it, and that was refused or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What stopped it.
    pub guard: Guard,
    /// A stable word for what it was.
    pub cause: &'static str,
    /// The system call, where it was one.
    pub call: Option<Box<Call>>,
}

/// What stands in the way of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guard {
    /// A layer of the cage.
    Layer(Layer),
    /// The front, which ends workers that are late or lie.
    Supervision,
    /// The checks of a model's file before its loader.
    Archive,
}

/// A system call that was answered with death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name on this CPU; `unknown` for a number that has none, `unread` where there is no number.
    pub name: &'static str,
    /// Its number; -1 where it could not be read.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where it was called from.
    pub instruction: u64,
    /// Who called, made safe to print.
    pub caller: Option<Caller>,
}

impl Violation {
    /// A system call that the filter refused.
    pub fn syscall(denied: Denied) -> Self {
        let call = Call::of(denied);
        let cause = if call.is_abort() || call.is_report() { "abort" } else { "syscall" };
        Self { guard: Guard::Layer(Layer::Seccomp), cause, call: Some(Box::new(call)) }
    }

    /// Anything but a system call.
    pub const fn of(guard: Guard, cause: &'static str) -> Self {
        Self { guard, cause, call: None }
    }

    /// The model wanted more memory than it may have, and was told no; its worker goes on.
    pub const fn memory() -> Self {
        Self::of(Guard::Layer(Layer::ResourceLimits), "memory")
    }
}

impl Guard {
    /// The word in logs, metrics and status: a layer's name, `supervision` or `archive`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layer(layer) => layer.name(),
            Self::Supervision => "supervision",
            Self::Archive => "archive",
        }
    }
}

impl Call {
    fn of(denied: Denied) -> Self {
        let Denied { number, args, instruction, caller } = denied;
        let name = match usize::try_from(number) {
            // Bit 30 is the x32 interface of x86-64: the same numbers, another door.
            Ok(plain) => Sysno::new(plain).map_or("unknown", |call| call.name()),
            Err(_) => "unread",
        };
        let caller = caller.map(|Caller { thread, name, origin }| Caller {
            thread,
            name: telemetry::escape_to(&name, 64),
            origin: telemetry::escape_to(&origin, 128),
        });
        Self { name, number, args, instruction, caller }
    }

    /// A C library aborts by sending itself SIGABRT; the filter stops that too, and this is what it looks like.
    pub fn is_abort(&self) -> bool {
        self.name == "tgkill" && self.args.get(2) == Some(&6)
    }

    /// Before it aborts, glibc says on standard error what it found. It does so with this call and nothing of ours does, so
    /// it is stopped at the saying.
    pub fn is_report(&self) -> bool {
        self.name == "writev" && self.args.first() == Some(&2)
    }

    /// Its arguments in hexadecimal, with spaces between.
    pub fn arguments(&self) -> String {
        let args: Vec<String> = self.args.iter().map(|a| format!("{a:#x}")).collect();
        args.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_and_its_texts_are_safe() {
        let caller = Caller { thread: 7, name: "a\nb".to_owned(), origin: "libc.so.6+0x1".to_owned() };
        let denied = Denied {
            number: Sysno::openat.id().into(),
            args: [1, 2, 3, 4, 5, 255],
            instruction: 9,
            caller: Some(caller),
        };
        let Violation { guard, cause, call } = Violation::syscall(denied.clone());
        let call = call.unwrap();
        assert_eq!((guard.name(), cause, call.name), ("seccomp", "syscall", "openat"));
        assert_eq!(call.arguments(), "0x1 0x2 0x3 0x4 0x5 0xff");
        assert_eq!(call.caller.as_ref().unwrap().name, "a\\u{a}b");
        let x32 = Violation::syscall(Denied { number: 0x4000_0101, ..denied.clone() });
        assert_eq!(x32.call.unwrap().name, "unknown");
        let unread = Violation::syscall(Denied { number: -1, ..denied.clone() });
        assert_eq!(unread.call.unwrap().name, "unread");
        let abort = Denied { number: Sysno::tgkill.id().into(), args: [1, 1, 6, 0, 0, 0], ..denied.clone() };
        assert_eq!(Violation::syscall(abort).cause, "abort");
        let writes = |file| Denied { number: Sysno::writev.id().into(), args: [file, 9, 3, 0, 0, 0], ..denied.clone() };
        assert_eq!([2, 3].map(|file| Violation::syscall(writes(file)).cause), ["abort", "syscall"]);
    }
}
