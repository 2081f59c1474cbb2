//! Two controls over what a CPU does beside its instructions: speculation, and who shares a core.

use std::ffi::{c_int, c_long, c_ulong};

use nix::errno::Errno;
use nix::unistd::Pid;

/// What a program can leak by, where the CPU does it: reading before an older store is known, and following a branch that
/// somebody else has trained. Only x86 has a control for the second one; other CPUs are barred by the kernel's own entry.
#[cfg(target_arch = "x86_64")]
const MISFEATURES: &[c_ulong] = &[STORE_BYPASS, INDIRECT_BRANCH];
#[cfg(not(target_arch = "x86_64"))]
const MISFEATURES: &[c_ulong] = &[STORE_BYPASS];

// `linux/prctl.h`; libc has them for x86-64 only.
const PR_GET_SPECULATION_CTRL: c_int = 52;
const PR_SET_SPECULATION_CTRL: c_int = 53;
const STORE_BYPASS: c_ulong = 0;
#[cfg(target_arch = "x86_64")]
const INDIRECT_BRANCH: c_ulong = 1;
const CAN_BE_SET: c_ulong = 1;
const IS_ON: c_ulong = 1 << 1;
const FORCE_OFF: c_ulong = 1 << 3;

const CREATE: c_ulong = 1;
const GET: c_ulong = 0;
const PR_SCHED_CORE: c_int = 62;

/// Turns it off for this process and all that it becomes, for good.
pub fn forbid_speculation() -> nix::Result<()> {
    for &misfeature in MISFEATURES {
        let state = c_ulong::from(ask(PR_GET_SPECULATION_CTRL, misfeature, 0)?.cast_unsigned());
        if state & CAN_BE_SET != 0 {
            ask(PR_SET_SPECULATION_CTRL, misfeature, FORCE_OFF)?;
        } else if state & IS_ON != 0 {
            // The kernel was told to leave it on for everybody.
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// Lets no other process run beside this one's threads on a core, but those that it starts.
pub fn own_core() -> nix::Result<()> {
    schedule(CREATE, Pid::from_raw(0), 0)
}

/// What tells apart who may share a core with whom; 0 is everybody else.
pub fn core_cookie(pid: Pid) -> nix::Result<u64> {
    let mut cookie: u64 = 0;
    schedule(GET, pid, (&raw mut cookie).addr() as c_ulong)?;
    Ok(cookie)
}

/// Where libc keeps this thread's number: what a birth needs to know, and a kernel without `CONFIG_CHECKPOINT_RESTORE` does not
/// tell.
pub fn number_place() -> nix::Result<u64> {
    const NONE: c_ulong = 0;
    let mut place: u64 = 0;
    let at = (&raw mut place).addr() as c_ulong;
    // SAFETY: the kernel writes eight bytes at `place`, which outlives the call.
    let answer = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, at, NONE, NONE, NONE) };
    Errno::result(answer).map(|_| place)
}

fn schedule(order: c_ulong, pid: Pid, place: c_ulong) -> nix::Result<()> {
    const ALL_THREADS: c_ulong = 1;
    const ONE_THREAD: c_ulong = 0;
    let whom = if order == GET { ONE_THREAD } else { ALL_THREADS };
    // SAFETY: of the two orders only GET writes, eight bytes at `place`, where its one caller has as many that outlive the
    // call; the other takes a place of 0.
    let answer = unsafe { libc::prctl(PR_SCHED_CORE, order, c_long::from(pid.as_raw()), whom, place) };
    Errno::result(answer).map(drop)
}

fn ask(option: c_int, misfeature: c_ulong, value: c_ulong) -> nix::Result<c_int> {
    const NONE: c_ulong = 0;
    // SAFETY: both options take numbers only; all five arguments are given, so the kernel finds zeros where it demands them.
    Errno::result(unsafe { libc::prctl(option, misfeature, value, NONE, NONE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_core_scheduling_shows_a_cookie() {
        match core_cookie(Pid::from_raw(0)) {
            Ok(cookie) => println!("cookie {cookie:x}"),
            Err(errno) => {
                println!("no core scheduling: {errno}");
                assert!(matches!(errno, Errno::EINVAL | Errno::ENODEV), "{errno}");
            }
        }
    }
}
