//! A child process that does one thing and ends; how it ended is the result. Every test of the cage runs in one, since a
//! filter cannot be taken off again.
//!
//! The test harness has threads, its child has one: after `fork` only the calling thread is left. glibc makes its allocator
//! usable in such a child, which is all that a closure here needs of it.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Exit(i32),
    /// By this signal.
    Killed(Signal),
}

/// What a call in a child gave, where the child lived to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// SIGSYS.
    Killed,
    /// Another signal.
    Crashed(Signal),
    /// It returned: 0, or this errno, or the child ended in the call itself (`exit`).
    Returned(i32),
}

/// It did what it should.
pub(crate) const DONE: End = End::Exit(0);
/// A filter ended it.
pub(crate) const KILLED: End = End::Killed(Signal::SIGSYS);

pub(crate) fn text<T: std::fmt::Display>(error: T) -> String {
    error.to_string()
}

pub(crate) fn ensure(truth: bool, claim: &str) -> Result<(), String> {
    if truth { Ok(()) } else { Err(claim.into()) }
}

pub(crate) fn opens(path: &str) -> Result<(), ErrorKind> {
    File::open(path).map(drop).map_err(|error| error.kind())
}

/// `/proc/self/status` while it can still be opened.
pub(crate) fn status(field: &str) -> Result<String, String> {
    let all = std::fs::read_to_string("/proc/self/status").map_err(text)?;
    let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned()).ok_or_else(|| format!("no {field}"))
}

/// Runs `act` in a child and waits for it. A text in `Err` goes to standard error, and the child exits with 1.
pub(crate) fn run(act: impl FnOnce() -> Result<(), String>) -> End {
    // SAFETY: fork is sound here if the child only uses what survives in the one thread that is left; the module comment
    // says what that is, and the child never returns from this block's branch.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid > 0 {
        return match waitpid(Pid::from_raw(pid), None).unwrap_or_else(|errno| panic!("waitpid: {errno}")) {
            WaitStatus::Exited(_, code) => End::Exit(code),
            WaitStatus::Signaled(_, signal, _) => End::Killed(signal),
            other => panic!("a child was neither ended nor killed: {other:?}"),
        };
    }
    quiet();
    let code = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(())) => 0,
        Ok(Err(text)) => {
            // Not `eprintln!`: the harness captures that, in memory that ends with this child.
            let _ = std::io::stderr().write_all(format!("child: {text}\n").as_bytes());
            1
        }
        Err(_) => 101,
    };
    leave(code)
}

/// Makes one raw call under these programs (none: the positive control), in a child without descriptors above 2.
pub(crate) fn call(programs: &[&[u8]], number: u64, arguments: [u64; 6]) -> Answer {
    let filters: Vec<Vec<seccompiler::sock_filter>> = programs.iter().map(|program| steps(program)).collect();
    let end = run(|| {
        // Installing a filter sets it; with it in the control too, an ordinary user gets the same errno in both.
        nix::sys::prctl::set_no_new_privs().map_err(|error| error.to_string())?;
        // The Rust runtime's handler would make calls of its own.
        // SAFETY: the default action runs no code of this process.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        for filter in &filters {
            seccompiler::apply_filter(filter).map_err(|error| error.to_string())?;
        }
        let result = raw(number, arguments);
        let errno = if result == -1 { nix::errno::Errno::last_raw() } else { 0 };
        leave(errno)
    });
    match end {
        End::Exit(code) => Answer::Returned(code),
        End::Killed(Signal::SIGSYS) => Answer::Killed,
        End::Killed(other) => Answer::Crashed(other),
    }
}

/// One system call by number.
pub(crate) fn raw(number: u64, a: [u64; 6]) -> i64 {
    // SAFETY: what the number does is up to the test that chose it: its child ends right after, and the arguments are
    // chosen so that the kernel writes to no memory of ours (null pointers, lengths of 0).
    unsafe { libc::syscall(number.cast_signed(), a[0], a[1], a[2], a[3], a[4], a[5]) }
}

/// Ends the child at once, by the one call that every filter allows: no destructors, no `atexit`.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// No core file of a killed child, no descriptor but 0 to 2, and an end to a call that blocks.
fn quiet() {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: closes descriptors of this child that nothing in it uses any more: its closure opens its own.
    unsafe { libc::close_range(3, u32::MAX, 0) };
    nix::unistd::alarm::set(20);
}

pub(crate) fn steps(program: &[u8]) -> Vec<seccompiler::sock_filter> {
    let step = |b: &[u8]| seccompiler::sock_filter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    program.chunks_exact(8).map(step).collect()
}
