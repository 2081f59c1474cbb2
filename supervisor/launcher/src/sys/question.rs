//! Questions to the kernel that change nothing: what it has, and what is set for this process.

use std::ffi::{c_int, c_ulong};

use nix::errno::Errno;

/// A kind of speculation that a process can be kept from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speculation {
    /// Past a store.
    StoreBypass = 0,
    /// At an indirect branch.
    IndirectBranch = 1,
}

/// How this process stands to one kind of speculation: bits of `PR_GET_SPECULATION_CTRL`.
pub fn speculation(kind: Speculation) -> nix::Result<c_int> {
    const PR_GET_SPECULATION_CTRL: c_int = 52;
    number(PR_GET_SPECULATION_CTRL, kind as c_ulong)
}

/// Whether the kernel knows `PR_SET_MDWE`, and what is set.
pub fn exec_gain() -> nix::Result<c_int> {
    const PR_GET_MDWE: c_int = 66;
    number(PR_GET_MDWE, 0)
}

/// Whether the kernel has core scheduling: the cookie of this process, 0 where it shares its core with anybody.
pub fn core_cookie() -> nix::Result<u64> {
    const PR_SCHED_CORE: c_int = 62;
    const GET: c_ulong = 0;
    const THIS: c_ulong = 0;
    const THREAD: c_ulong = 0;
    let mut cookie = 0_u64;
    // SAFETY: the kernel writes one u64 into `cookie`, which outlives the call.
    Errno::result(unsafe { libc::prctl(PR_SCHED_CORE, GET, THIS, THREAD, &raw mut cookie) })?;
    Ok(cookie)
}

/// The faults of its Landlock that this kernel knows to have mended, one bit each.
pub fn landlock_errata() -> nix::Result<u32> {
    const ERRATA: c_int = 2;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asked for its errata the call takes no attributes, so the kernel reads no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, ERRATA) };
    Ok(u32::try_from(Errno::result(answer)?).unwrap_or(0))
}

/// Whether a filter can be put on all threads at once. Asked with no program, which a kernel that could answers by EFAULT.
pub fn filters_all_threads() -> nix::Result<()> {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: there is no program to read, and so nothing is installed.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC, none)
    };
    match Errno::result(answer) {
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn number(option: c_int, value: c_ulong) -> nix::Result<c_int> {
    const NONE: c_ulong = 0;
    // SAFETY: the options that this file passes take and give numbers only.
    Errno::result(unsafe { libc::prctl(option, value, NONE, NONE, NONE) })
}
