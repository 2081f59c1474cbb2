//! How a child ended, and why. A filter's refusal ends a worker with SIGSYS and tells its parent nothing else; a tracer can
//! read which call it was, in the moment before the thread is gone.
//!
//! Each thread that stops is let go on at once, whatever it stopped for, so a traced worker behaves as any other. Where the
//! kernel allows no tracing, workers go on without, and a refusal has no number.

use std::collections::{BTreeMap, VecDeque};
use std::fs;

use casemate_ipc::launch::{Caller, Denied, ExitCause};
use casemate_lockdown::policy;
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::log;
use crate::origin::{self, Images};
use crate::sys::process::{Changed, next_change};
use crate::sys::ptrace::{self, Registers};

/// All children, by process id.
#[derive(Debug, Default)]
pub struct Tracer {
    children: BTreeMap<Pid, Child>,
    /// Threads of traced children, main threads left out.
    threads: BTreeMap<Pid, Pid>,
    ended: VecDeque<Ended>,
    told: bool,
    /// Files that a refused call's instruction may lie in, by name.
    images: Images,
}

/// A child that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which process it was.
    pub pid: Pid,
    /// How it ended.
    pub end: End,
    /// The system call that a filter refused, if that was read.
    pub denied: Option<Denied>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What the launcher knows besides, when a worker ended.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The front asked for it, or is gone itself.
    pub asked: bool,
    /// The kernel killed some process for want of memory since this was last looked at.
    pub out_of_memory: bool,
}

/// Counts what the kernel kills for want of memory.
#[derive(Debug, Default)]
pub struct OutOfMemory(Option<u64>);

#[derive(Debug, Default)]
struct Child {
    refused: Option<Denied>,
    /// The fault that it was killed for.
    fault: Option<i32>,
}

/// Signals that the CPU raises for an instruction. A worker has no handler for any of them: it resets them before it
/// meets its model, and may not set them after.
const FAULTS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

// === impl Tracer ===

impl Tracer {
    /// Nobody yet.
    pub fn new(images: Images) -> Self {
        Self { images, ..Self::default() }
    }

    /// Waits for the end of a child from now on.
    pub fn watch(&mut self, pid: Pid) {
        self.children.insert(pid, Child::default());
    }

    /// Whether its end is waited for.
    pub fn knows(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid)
    }

    /// Traces it, where the kernel allows that.
    pub fn trace(&mut self, pid: Pid) {
        if let Err(errno) = ptrace::seize(pid)
            && !std::mem::replace(&mut self.told, true)
        {
            let what = "a refused system call is reported without its number";
            log::warn("tracing-impossible", &[("error", &errno), ("so", &what)]);
        }
    }

    /// Handles everything that children and their threads did since the last time.
    pub fn pump(&mut self) {
        // An error means that there is no child at all.
        while let Ok(Some(Changed { pid, status })) = next_change() {
            if libc::WIFSTOPPED(status) {
                self.stopped(pid, libc::WSTOPSIG(status), status >> 16);
            } else if libc::WIFEXITED(status) {
                self.gone(pid, End::Code(libc::WEXITSTATUS(status)));
            } else if libc::WIFSIGNALED(status) {
                self.gone(pid, End::Signal(libc::WTERMSIG(status)));
            }
        }
    }

    /// The next child that is gone.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// A fault of the program itself. A worker is the first process of its pid namespace, and the kernel keeps such a one
    /// from dying of a signal that a tracer hands on: the faulting instruction would run again, and fault again, for ever.
    fn faulted(&mut self, tid: Pid, signal: i32) -> nix::Result<()> {
        let Some(main) = self.child_of(tid) else { return ptrace::go_on(tid, signal) };
        if let Some(child) = self.children.get_mut(&main) {
            child.fault.get_or_insert(signal);
        }
        // Sent to a child that has not been waited for, so the number cannot mean another process by now.
        nix::sys::signal::kill(main, nix::sys::signal::Signal::SIGKILL)
    }

    fn stopped(&mut self, tid: Pid, signal: i32, event: i32) {
        const GROUP_STOPS: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        let went_on = match event {
            libc::PTRACE_EVENT_EXIT => {
                self.exiting(tid);
                ptrace::go_on(tid, 0)
            }
            libc::PTRACE_EVENT_CLONE => {
                let thread = ptrace::event_message(tid).ok().and_then(|message| i32::try_from(message).ok());
                if let (Some(thread), Some(child)) = (thread, self.child_of(tid)) {
                    self.threads.insert(Pid::from_raw(thread), child);
                }
                ptrace::go_on(tid, 0)
            }
            // Somebody stopped the whole process: it stays so until somebody continues it.
            libc::PTRACE_EVENT_STOP if GROUP_STOPS.contains(&signal) => ptrace::listen(tid),
            0 => {
                // Older kernels show a refusal as a signal that can be looked at before it strikes.
                if signal == libc::SIGSYS {
                    self.read(tid);
                }
                if FAULTS.contains(&signal) { self.faulted(tid, signal) } else { ptrace::go_on(tid, signal) }
            }
            _ => ptrace::go_on(tid, 0),
        };
        // ESRCH: killed meanwhile, and its end comes next.
        if let Err(errno) = went_on
            && errno != Errno::ESRCH
        {
            log::warn("tracing-failed", &[("pid", &tid), ("error", &errno)]);
        }
    }

    /// A thread is about to end; all threads of a process that a filter ends show the same status.
    fn exiting(&mut self, tid: Pid) {
        const SIGNAL: u64 = 0x7f;
        let sigsys = libc::SIGSYS.unsigned_abs();
        if ptrace::event_message(tid).is_ok_and(|status| status & SIGNAL == u64::from(sigsys)) {
            self.read(tid);
        }
    }

    fn read(&mut self, tid: Pid) {
        let Some(child) = self.child_of(tid).and_then(|pid| self.children.get_mut(&pid)) else { return };
        // The first thread whose call was taken back is the one; the others die with it, somewhere in a call of their own.
        if child.refused.is_none()
            && let Ok(registers) = ptrace::registers(tid)
            && registers.taken_back
        {
            // The thread is held here, its memory still mapped: the one moment in which its maps can be read.
            let caller = Caller {
                thread: tid.as_raw().unsigned_abs(),
                name: origin::thread_name(tid),
                origin: self.images.origin(tid, registers.instruction),
            };
            let Registers { number, args, instruction, .. } = registers;
            child.refused = Some(Denied { number, args, instruction, caller: Some(caller) });
        }
    }

    fn gone(&mut self, pid: Pid, end: End) {
        self.threads.remove(&pid);
        let Some(child) = self.children.remove(&pid) else { return };
        self.threads.retain(|_, main| *main != pid);
        // The kill was ours, the cause was the fault.
        let end = match (end, child.fault) {
            (End::Signal(libc::SIGKILL), Some(fault)) => End::Signal(fault),
            (end, _) => end,
        };
        self.ended.push_back(Ended { pid, end, denied: child.refused });
    }

    fn child_of(&mut self, tid: Pid) -> Option<Pid> {
        if self.children.contains_key(&tid) {
            return Some(tid);
        }
        // A new thread may stop before its maker tells of it.
        let main = self.threads.get(&tid).copied().or_else(|| main_thread(tid))?;
        self.threads.insert(tid, main);
        self.children.contains_key(&main).then_some(main)
    }
}

fn main_thread(tid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let number = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    number.trim().parse().ok().map(Pid::from_raw)
}

/// The name of a call that a filter refused, as far as this build knows it.
pub fn name_of(number: i64) -> &'static str {
    u32::try_from(number).ok().and_then(policy::call_name).unwrap_or("unknown")
}

/// Whether a process that has not been waited for is on its way out, or out. What it dies of is then decided, and its
/// descriptors are not closed yet.
pub fn is_dying(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| flags(&stat).is_some_and(|f| f & EXITING != 0))
}

/// The kernel's flags of a process. Its name comes before them, in brackets, and can hold anything.
fn flags(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()
}

/// `PF_EXITING` of the kernel.
const EXITING: u64 = 4;

// === impl Ended ===

impl Ended {
    /// Why a worker ended.
    pub fn cause(&self, around: Circumstances) -> ExitCause {
        const UNREAD: Denied = Denied { number: -1, args: [0; 6], instruction: 0, caller: None };
        match self.end {
            End::Code(code) => ExitCause::Exited(code),
            End::Signal(libc::SIGSYS) => ExitCause::Syscall(self.denied.clone().unwrap_or(UNREAD)),
            End::Signal(libc::SIGKILL) if around.asked => ExitCause::Killed,
            End::Signal(libc::SIGKILL) if around.out_of_memory => ExitCause::OutOfMemory,
            End::Signal(signal) => ExitCause::Signal(signal),
        }
    }
}

// === impl OutOfMemory ===

impl OutOfMemory {
    /// Whether the count moved since the last look. Both the host's killer and that of a cgroup count here.
    pub fn moved(&mut self) -> bool {
        let now = fs::read_to_string("/proc/vmstat").ok().and_then(|text| kills(&text));
        let before = std::mem::replace(&mut self.0, now);
        matches!((before, now), (Some(before), Some(now)) if now > before)
    }
}

fn kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_dies_is_seen_to() {
        assert!(!is_dying(Pid::this()));
        assert_eq!(flags("7 (a) b) c) S 1 2 3 4 5 4194308 0"), Some(4_194_308));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(!is_dying(pid));
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_dying(pid) {
            assert!(std::time::Instant::now() < until, "it was killed, and shows nothing of it");
        }
        child.wait().unwrap();
    }

    #[test]
    fn the_cause_is_told() {
        let denied = Denied { number: 110, args: [1, 2, 3, 4, 5, 6], instruction: 7, caller: None };
        let ended = |end, denied| Ended { pid: Pid::from_raw(1), end, denied };
        let around = |asked, out_of_memory| Circumstances { asked, out_of_memory };
        let killed = ended(End::Signal(libc::SIGKILL), None);
        assert_eq!(killed.cause(around(true, true)), ExitCause::Killed);
        assert_eq!(killed.cause(around(false, true)), ExitCause::OutOfMemory);
        assert_eq!(killed.cause(around(false, false)), ExitCause::Signal(9));
        let refused = ended(End::Signal(libc::SIGSYS), Some(denied.clone()));
        assert_eq!(refused.cause(around(true, true)), ExitCause::Syscall(denied));
        let unread = ended(End::Signal(libc::SIGSYS), None).cause(around(false, false));
        assert!(matches!(unread, ExitCause::Syscall(Denied { number: -1, .. })));
        assert_eq!(ended(End::Code(73), None).cause(around(true, false)), ExitCause::Exited(73));
        assert_eq!(ended(End::Signal(40), None).cause(around(false, false)), ExitCause::Signal(40));
    }

    #[test]
    fn memory_kills_are_counted() {
        assert_eq!(kills("pgfault 1\noom_kill 12\noom_kill_x 9\n"), Some(12));
        assert_eq!(kills("pgfault 1\n"), None);
        let mut counter = OutOfMemory::default();
        assert!(!counter.moved(), "the first look has nothing to compare with");
        counter.0 = counter.0.and_then(|n| n.checked_sub(1));
        if counter.0.is_some() {
            assert!(counter.moved());
        }
        assert!(!counter.moved());
    }
}
