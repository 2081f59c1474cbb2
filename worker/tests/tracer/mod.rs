//! Watches a worker from its first instruction on: each system call, under which stage's filter it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use casemate_ipc::work::FromWorker;
use casemate_lockdown::Stage;
use casemate_lockdown::policy::{self, Filter, Rule};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd;

use crate::cell::{Birth, Cell};

/// A worker and all that it asks. Belongs to the thread that made it: the kernel speaks to no other.
pub(crate) struct Traced {
    pub(crate) cell: Cell,
    stages: [&'static Filter; 2],
    installed: usize,
    installing: BTreeSet<Pid>,
    known: BTreeSet<Pid>,
    over: bool,
    pub(crate) fired: Fired,
}

/// Rules that were asked for, by stage, call and condition; and how often.
pub(crate) type Fired = BTreeMap<(&'static str, &'static str, String), usize>;

impl Traced {
    pub(crate) fn spawn(birth: Birth, stages: [Stage; 2]) -> Self {
        let stages = stages.map(|stage| policy::filter(stage.name()).unwrap());
        let cell = Birth { traced: true, ..birth }.spawn();
        let pid = Pid::from_raw(cell.pid().cast_signed());
        let stopped = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(_, Signal::SIGTRAP)), "{stopped:?}");
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).unwrap();
        ptrace::syscall(pid, None).unwrap();
        let (installing, known) = (BTreeSet::new(), BTreeSet::from([pid]));
        Self { cell, stages, installed: 0, installing, known, over: false, fired: Fired::new() }
    }

    /// The next message; none when the worker has gone.
    pub(crate) fn hear(&mut self) -> Option<FromWorker> {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            self.pump();
            let mut fds = [PollFd::new(self.cell.front.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO).unwrap() == 1 {
                // What it met is said at any time, and nobody watches while the cell waits for more.
                match self.cell.try_hear_any() {
                    Some(FromWorker::Met { .. }) => continue,
                    other => return other,
                }
            }
            assert!(Instant::now() < until, "the worker says nothing\n{}", self.cell.log());
            std::thread::sleep(Duration::from_micros(if self.over { 1000 } else { 50 }));
        }
    }

    /// Sees it to its end.
    pub(crate) fn end(mut self) -> Fired {
        while !self.over {
            self.pump();
        }
        self.fired
    }

    fn pump(&mut self) {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    self.look(pid);
                    go_on(pid, None);
                }
                Ok(WaitStatus::PtraceEvent(pid, _, _)) => go_on(pid, None),
                // A new thread begins with a stop of its own.
                Ok(WaitStatus::Stopped(pid, _)) if self.known.insert(pid) => go_on(pid, None),
                Ok(WaitStatus::Stopped(pid, signal)) => go_on(pid, Some(signal)),
                Ok(_) => {}
                Err(Errno::ECHILD) => {
                    self.over = true;
                    return;
                }
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    fn look(&mut self, pid: Pid) {
        // Gone meanwhile: killed by what it asked.
        let Ok(info) = ptrace::syscall_info(pid) else { return };
        match info.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: the kernel said which part of the union it filled.
                let entry = unsafe { info.u.entry };
                self.asked(entry.nr, entry.args);
                if entry.nr == libc::SYS_seccomp.cast_unsigned() {
                    self.installing.insert(pid);
                }
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                // SAFETY: as above.
                let exit = unsafe { info.u.exit };
                self.installed += usize::from(self.installing.remove(&pid) && exit.is_error == 0);
            }
            _ => {}
        }
    }

    fn asked(&mut self, number: u64, arguments: [u64; 6]) {
        let [warm, serve] = self.stages;
        // A filter stays in force under the next one.
        let in_force: &[&Filter] = match self.installed.checked_sub(warm.programs().len()) {
            None => &[],
            Some(0) => &[warm],
            Some(_) => &[warm, serve],
        };
        for filter in in_force {
            self.count(filter, number, &arguments);
        }
    }

    fn count(&mut self, filter: &'static Filter, number: u64, arguments: &[u64; 6]) {
        for rule in filter.rules.iter().filter(|rule| u64::from(rule.number) == number && rule.allows(arguments)) {
            *self.fired.entry(key(filter, rule)).or_default() += 1;
        }
        for refusal in filter.refusals.iter().filter(|refusal| u64::from(refusal.number) == number) {
            *self.fired.entry((plain(filter), refusal.call, "never".into())).or_default() += 1;
        }
    }
}

/// What makes a rule the same one in a stage and in the stage that extends it.
pub(crate) fn key(filter: &Filter, rule: &Rule) -> (&'static str, &'static str, String) {
    (plain(filter), rule.call, rule.condition())
}

pub(crate) fn plain(filter: &Filter) -> &'static str {
    filter.stage.trim_end_matches("-code")
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    match ptrace::syscall(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("{errno}"),
    }
}
