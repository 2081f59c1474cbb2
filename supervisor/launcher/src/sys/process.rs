//! Birth and death of processes, descriptors by number, and what a process inherits.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The one that made it.
    Parent {
        /// The child.
        pid: Pid,
        /// The child, by a handle that no other process can ever take over.
        pidfd: OwnedFd,
    },
}

/// A process that changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// The process, or a thread of a traced one.
    pub pid: Pid,
    /// As `waitpid` gives it. Raw, since nix has no name for a real-time signal and would lose the status.
    pub status: c_int,
}

/// `struct clone_args` of the kernel, up to the group that a child is born into (Linux 5.7).
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks, with new namespaces for the child, and into a control group of version 2. Refused in a program of several threads: the child would hold locks whose
/// owners it does not have.
pub fn fork(namespaces: CloneFlags, group: Option<BorrowedFd<'_>>) -> nix::Result<Forked> {
    // Does nothing with one thread and fails with two.
    unshare(CloneFlags::CLONE_THREAD)?;
    let mut pidfd: c_int = -1;
    let flags = namespaces | CloneFlags::from_bits_retain(libc::CLONE_PIDFD);
    let born_in = group.map_or(0, |_| CLONE_INTO_CGROUP);
    let arguments = CloneArgs {
        flags: u64::from(flags.bits().cast_unsigned()) | born_in,
        pidfd: (&raw mut pidfd).addr() as u64,
        // A sibling's is its parent's, and must not be said.
        exit_signal: if flags.contains(CloneFlags::CLONE_PARENT) { 0 } else { libc::SIGCHLD as u64 },
        cgroup: group.map_or(0, |group| u64::from(group.as_raw_fd().unsigned_abs())),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child gets a copy of this program's memory, and with no stack given it goes on here on
    // a copy of this one. One thread was proven above, so no lock is held by a thread that the child lacks. The kernel
    // writes the descriptor into `pidfd`, which outlives the call, and reads no more than the size it is told.
    let answer = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match Errno::result(answer)? {
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: Pid::from_raw(i32::try_from(pid).unwrap_or(-1)), pidfd })
        }
    }
}

/// Ends this process at once: no destructor, no handler, nothing flushed. For a forked child, whose copies of the parent's
/// values must not act.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process and touches no memory.
    unsafe { libc::_exit(code) }
}

/// The next child or traced thread that changed its state; `None` when there is none now.
pub fn next_change() -> nix::Result<Option<Changed>> {
    let mut status: c_int = 0;
    // SAFETY: the kernel writes one int into `status`, which outlives the call.
    let answer = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    match Errno::result(answer)? {
        0 => Ok(None),
        pid => Ok(Some(Changed { pid: Pid::from_raw(pid), status })),
    }
}

/// Sends a signal to exactly the process that the handle was made for.
pub fn send_signal(pidfd: impl AsFd, signal: nix::sys::signal::Signal) -> nix::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no signal information is given, so the kernel reads no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as c_int, none, 0) };
    Errno::result(answer).map(drop)
}

/// A handle of a child that has not been waited for, so that the number is still its own.
pub fn handle_of(child: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: two numbers go in, no memory is touched.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, child.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(answer)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A copy of a descriptor of another process.
pub fn borrow_descriptor(pidfd: impl AsFd, number: i32) -> nix::Result<OwnedFd> {
    // SAFETY: three numbers go in, no memory is touched.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0) };
    let fd = i32::try_from(Errno::result(answer)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> nix::Result<()> {
    close_range(first, 0)
}

/// Lets every descriptor from `first` on be closed by the next exec.
pub fn close_from_on_exec(first: u32) -> nix::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC.cast_signed())
}

/// A second name of a descriptor, of number `least` or above, that does not outlive an exec.
pub fn duplicate_above(fd: impl AsFd, least: i32) -> nix::Result<OwnedFd> {
    // SAFETY: three numbers go in, no memory is touched.
    let answer = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    let number = Errno::result(answer)?;
    // SAFETY: the kernel has just opened it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `number` another name of `fd`, kept over an exec. What had that number before is closed.
pub fn place(fd: impl AsFd, number: i32) -> nix::Result<()> {
    // SAFETY: no memory is touched. What loses its number is this process's own: callers are children that have moved
    // everything they still need out of the way, and that never return to code that owns a descriptor by number.
    let answer = unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) };
    Errno::result(answer).map(drop)
}

/// Forgets the environment, so that no library reads its orders from it.
pub fn clear_environment() -> nix::Result<()> {
    // SAFETY: called first thing in `main`, while there is one thread and nobody holds a pointer into the environment.
    Errno::result(unsafe { libc::clearenv() }).map(drop)
}

/// Gives every signal its default meaning back: what is ignored stays so over an exec. That is SIGPIPE by Rust's start, and
/// whatever `nohup`, a shell or a supervisor had ignored when it started the launcher.
pub fn default_signals() -> nix::Result<()> {
    (1..=LAST_SIGNAL).filter(|number| ![libc::SIGKILL, libc::SIGSTOP].contains(number)).try_for_each(default_signal)
}

/// The same for one. Not by libc, which keeps two of the real-time signals to itself and lets nobody set them.
pub fn default_signal(number: c_int) -> nix::Result<()> {
    const SET_BYTES: usize = 8;
    // The kernel's own layout: the action, flags, on some CPUs a way back, the mask. All of it nothing is `SIG_DFL`.
    let default = [0_u64; 4];
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: the kernel reads no more than the four words of `default`, on any CPU that the house is built for, and writes
    // nothing. The default action runs no code of ours.
    let answer = unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), none, SET_BYTES) };
    Errno::result(answer).map(drop)
}

/// The kernel's `_NSIG`.
const LAST_SIGNAL: c_int = 64;

/// Hides the host's NIS domain name; the kernel shows it to anybody who asks.
pub fn clear_domain_name() -> nix::Result<()> {
    const NAME: &[u8] = b"(none)";
    // SAFETY: the kernel reads exactly as many bytes as it is told, all of them inside `NAME`.
    let answer = unsafe { libc::setdomainname(NAME.as_ptr().cast(), NAME.len()) };
    Errno::result(answer).map(drop)
}

/// The newest Landlock that this kernel has; an error where it has none, or was started without.
pub fn landlock_version() -> nix::Result<u32> {
    const VERSION: c_int = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asked for its version the call takes no attributes, so the kernel reads no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    Ok(u32::try_from(Errno::result(answer)?).unwrap_or(0))
}

fn close_range(first: u32, flags: c_int) -> nix::Result<()> {
    // SAFETY: no memory is touched. Callers close at the start of a program, before anything owns a descriptor, or mark
    // for an exec, which ends every owner.
    Errno::result(unsafe { libc::close_range(first, u32::MAX, flags) }).map(drop)
}
