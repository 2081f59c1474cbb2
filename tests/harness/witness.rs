//! A witness of every system call: a filter around the whole server that lets each call wait until this process has looked at
//! it. It sees what the kernel compares: the call and its arguments, and which filters of the house are in force by then.
//!
//! The server traces its workers itself, so nobody else can. This needs no privilege, so it works as any user.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use casemate_lockdown::policy::{self, Filter, Rule, Test};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a server asked for. A copy sees the same.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<Mutex<Fired>>);

/// Rules that were asked for, by stage, call and condition; and which values, where a rule lists several.
pub type Fired = BTreeMap<(&'static str, &'static str, String), BTreeSet<u64>>;

impl Witness {
    /// Watches a program, and all that it starts, from its first act to the end of the last of them.
    pub fn around(&self, command: &mut Command) {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        // Which filters are around this process itself.
        let base = Task::read(std::process::id()).map_or(0, |task| task.filters) + 1;
        let fired = Arc::clone(&self.0);
        thread::spawn(move || {
            let mut word = [0; 8];
            if ours.read_exact(&mut word).is_ok() {
                let [pid, number] =
                    [&word[..4], &word[4..]].map(|half| i32::from_le_bytes(half.try_into().expect("4")));
                Watch { listener: fetch(pid, number), base, zygotes: BTreeSet::new(), fired }.run();
            }
        });
        let install = move || {
            let number = theirs.try_clone()?.as_raw_fd();
            // The number is free again, and the next descriptor's.
            let word = [std::process::id().cast_signed(), number].map(i32::to_le_bytes);
            theirs.write_all(word.as_flattened())?;
            listen_to_all()
        };
        // SAFETY: between fork and exec this makes a few system calls over memory of its own stack, and allocates nothing.
        unsafe { command.pre_exec(install) };
    }

    /// What was asked for until now.
    pub fn fired(&self) -> Fired {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts on a filter whose one rule is to ask its listener.
fn listen_to_all() -> io::Result<()> {
    let ask = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_USER_NOTIF };
    let mut instructions = [ask];
    let program = libc::sock_fprog { len: 1, filter: instructions.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel reads one instruction, which outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    // Not another call from here on: each waits for the listener.
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The listener, out of the process that made it: that one cannot send it, since sending is a call too.
fn fetch(pid: i32, number: i32) -> OwnedFd {
    // SAFETY: two numbers go in, no memory is touched.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    loop {
        // SAFETY: three numbers go in, no memory is touched.
        let answer = unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle, number, 0) };
        match Errno::result(answer) {
            // SAFETY: the kernel has just opened it for this call.
            Ok(fd) => return unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) },
            Err(Errno::EBADF) => thread::sleep(Duration::from_millis(1)),
            Err(errno) => panic!("the listener cannot be had: {errno}"),
        }
    }
}

struct Watch {
    listener: OwnedFd,
    base: usize,
    zygotes: BTreeSet<u32>,
    fired: Arc<Mutex<Fired>>,
}

impl Watch {
    fn run(mut self) {
        while self.wait() {
            let Some(asked) = self.receive() else { continue };
            self.look(&asked);
            self.go_on(asked.id);
        }
    }

    /// Whether there is one more, before all have ended.
    fn wait(&self) -> bool {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)),
            Err(Errno::EINTR) => true,
            Err(errno) => panic!("{errno}"),
        }
    }

    fn receive(&self) -> Option<libc::seccomp_notif> {
        // SAFETY: plain numbers, and the kernel wants them to be 0.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills the structure that the number stands for, which outlives the call.
        let answer = unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        // Gone meanwhile, or called away by a signal.
        (answer == 0).then_some(asked)
    }

    fn go_on(&self, id: u64) {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
        // SAFETY: the kernel reads the structure that the number stands for, which outlives the call.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    }

    fn look(&mut self, asked: &libc::seccomp_notif) {
        // It waits for us, so what is read is still so.
        let Some(task) = Task::read(asked.pid) else { return };
        let name =
            if task.group == asked.pid { task.name } else { Task::read(task.group).map_or(String::new(), |t| t.name) };
        let born = name == "casemate-zygote" && self.zygotes.insert(task.group) || self.zygotes.contains(&task.group);
        let own: &[&str] = match name.as_str() {
            // A newborn's filters lie above its zygote's.
            _ if born => &["zygote", "worker-warm", "worker-serve"],
            "casemate-front" => &["front"],
            "casemate-worker" => &["worker-warm", "worker-serve"],
            _ => &[],
        };
        let mut left = task.filters.saturating_sub(self.base);
        let mut fired = self.fired.lock().unwrap_or_else(PoisonError::into_inner);
        for filter in ["launcher"].iter().chain(own).filter_map(|stage| policy::filter(stage)) {
            let programs = filter.programs().len();
            if left < programs {
                break;
            }
            left -= programs;
            count(&mut fired, filter, u64::try_from(asked.data.nr).unwrap_or(u64::MAX), &asked.data.args);
        }
    }
}

fn count(fired: &mut Fired, filter: &'static Filter, number: u64, arguments: &[u64; 6]) {
    for rule in filter.rules.iter().filter(|rule| u64::from(rule.number) == number && rule.allows(arguments)) {
        let values = fired.entry((filter.stage, rule.call, rule.condition())).or_default();
        values.extend(listed(rule).map(|(index, _)| arguments[index] & u64::from(u32::MAX)));
    }
}

/// The arguments for which a rule lists values, and the values.
pub fn listed(rule: &Rule) -> impl Iterator<Item = (usize, &'static [u64])> {
    rule.clauses.iter().filter_map(|clause| match clause.test {
        Test::In(values) => Some((usize::from(clause.index), values)),
        _ => None,
    })
}

/// `/proc/TID/status`, as far as it matters.
struct Task {
    name: String,
    group: u32,
    filters: usize,
}

impl Task {
    fn read(tid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let (name, group) = (field("Name:")?.to_owned(), field("Tgid:")?.parse().ok()?);
        Some(Self { name, group, filters: field("Seccomp_filters:")?.parse().ok()? })
    }
}
