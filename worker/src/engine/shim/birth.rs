//! One process from another, without an exec between: what a zygote does. libc's own `fork` cannot ask for namespaces, or
//! for the launcher as the parent.

use std::ffi::{c_int, c_long};
use std::io;

/// Where libc keeps the number of this process's one thread, for the locks that know their owner.
#[derive(Debug, Clone, Copy)]
pub struct Place(usize);

/// A sibling with every namespace of its own; in its own it is process 1. No argument of this is anybody's to choose, and the
/// zygote's filter compares all of it.
const FLAGS: c_int = libc::CLONE_PARENT
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::SIGCHLD;

/// Asks for it: libc gave it to the kernel when it started. An error where the kernel does not tell (one without
/// `CONFIG_CHECKPOINT_RESTORE`); a child that kept its parent's number could be taken for one of its own threads.
pub fn place() -> io::Result<Place> {
    const PR_GET_TID_ADDRESS: c_int = 40;
    const NONE: usize = 0;
    let mut place: usize = 0;
    // SAFETY: the kernel writes one pointer into `place`, which outlives the call.
    let answer = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut place, NONE, NONE, NONE) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a number comes back and nothing is touched.
    let own = unsafe { libc::gettid() };
    // SAFETY: it is the address of an aligned int of libc's, alive as long as the thread; the process has one thread, so
    // nobody writes there now.
    let kept = unsafe { *(place as *const c_int) };
    if kept == own { Ok(Place(place)) } else { Err(io::Error::other("libc keeps its thread's number elsewhere")) }
}

/// Makes the process. Nothing comes back in the new one, and its number, as the launcher sees it, in the one that was there
/// before. Refused in a program of several threads.
pub fn bear(place: Place) -> io::Result<Option<u32>> {
    // Does nothing with one thread and fails with two.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_THREAD)?;
    let (flags, stack, nobody) = (c_long::from(FLAGS), 0_usize, 0_usize);
    // The last two stand the other way round on Arm; the one that is not the place is the thread pointer, which no flag sets.
    #[cfg(target_arch = "x86_64")]
    let (fourth, fifth) = (place.0, 0_usize);
    #[cfg(target_arch = "aarch64")]
    let (fourth, fifth) = (0_usize, place.0);
    // SAFETY: without CLONE_VM the child gets a copy of this process's memory, and with no stack given it goes on here on a
    // copy of this one. One thread was proven above, so no lock is held by a thread that the child lacks. The kernel writes
    // the child's number into its own copy of `place`, where libc has an int for exactly that.
    let answer = unsafe { libc::syscall(libc::SYS_clone, flags, stack, nobody, fourth, fifth) };
    match answer {
        0 => Ok(None),
        1.. => Ok(Some(u32::try_from(answer).unwrap_or(u32::MAX))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets no other process run beside this one's threads on a core, but those that it starts.
pub fn own_core() -> nix::Result<()> {
    const PR_SCHED_CORE: c_int = 62;
    const CREATE: libc::c_ulong = 1;
    const THIS: libc::c_ulong = 0;
    const ALL_THREADS: libc::c_ulong = 1;
    const NOWHERE: libc::c_ulong = 0;
    // SAFETY: of this option only the order GET writes; CREATE takes numbers.
    let answer = unsafe { libc::prctl(PR_SCHED_CORE, CREATE, THIS, ALL_THREADS, NOWHERE) };
    nix::errno::Errno::result(answer).map(drop)
}
