//! The few orders of `ptrace` that read how a thread died. nix has most of them, but with signals that leave out the
//! real-time ones, and without `PTRACE_LISTEN`.

use std::ffi::{c_int, c_long, c_uint};

use nix::errno::Errno;
use nix::unistd::Pid;

/// What a thread had in its registers when it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The number of the system call it is in; negative if it is in none.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where it was called from.
    pub instruction: u64,
    /// Whether the call was taken back before it ran, as the kernel does for one that a filter refuses. Tells the thread
    /// that was refused from those that die with it.
    pub taken_back: bool,
}

/// Becomes the tracer of a process without stopping it: told when a thread of it starts or ends, and the process dies with
/// this one.
pub fn seize(pid: Pid) -> nix::Result<()> {
    let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    order(libc::PTRACE_SEIZE, pid, options as usize)
}

/// Lets a stopped thread go on, with a signal or (0) without.
pub fn go_on(tid: Pid, signal: c_int) -> nix::Result<()> {
    order(libc::PTRACE_CONT, tid, usize::try_from(signal).unwrap_or(0))
}

/// Leaves a thread stopped, and hears when it is continued.
pub fn listen(tid: Pid) -> nix::Result<()> {
    order(libc::PTRACE_LISTEN, tid, 0)
}

/// What belongs to the event that a thread stopped for: the exit status, or the new thread's number.
pub fn event_message(tid: Pid) -> nix::Result<u64> {
    let mut message: libc::c_ulong = 0;
    order(libc::PTRACE_GETEVENTMSG, tid, (&raw mut message).addr())?;
    Ok(message)
}

/// The registers of a stopped thread.
#[cfg(target_arch = "x86_64")]
pub fn registers(tid: Pid) -> nix::Result<Registers> {
    let regs = nix::sys::ptrace::getregs(tid)?;
    Ok(Registers {
        number: regs.orig_rax.cast_signed(),
        args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
        instruction: regs.rip,
        taken_back: regs.rax == regs.orig_rax && regs.orig_rax.cast_signed() >= 0,
    })
}

/// The registers of a stopped thread.
#[cfg(target_arch = "aarch64")]
pub fn registers(tid: Pid) -> nix::Result<Registers> {
    const NT_ARM_SYSTEM_CALL: usize = 0x404;
    let mut number: c_int = -1;
    let mut set = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<c_int>() };
    // SAFETY: the kernel writes at most `iov_len` bytes through `iov_base`, which is `number`, and the length back; both
    // outlive the call.
    let answer = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid.as_raw(), NT_ARM_SYSTEM_CALL, &raw mut set) };
    Errno::result(answer)?;
    let regs = nix::sys::ptrace::getregset::<nix::sys::ptrace::regset::NT_PRSTATUS>(tid)?;
    let [a0, a1, a2, a3, a4, a5, ..] = regs.regs;
    // The first argument shares its register with the result: an interrupted call has an error there by now.
    let failed = (-4095..0).contains(&a0.cast_signed());
    Ok(Registers {
        number: i64::from(number),
        args: [a0, a1, a2, a3, a4, a5],
        instruction: regs.pc,
        taken_back: number >= 0 && !failed,
    })
}

fn order(request: c_uint, tid: Pid, data: usize) -> nix::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: of the requests that this file passes only PTRACE_GETEVENTMSG writes through `data`, one unsigned long, and
    // its caller passes the address of one that outlives the call; the others take a number.
    let answer: c_long = unsafe { libc::ptrace(request, tid.as_raw(), none, data) };
    Errno::result(answer).map(drop)
}
