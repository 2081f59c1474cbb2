//! The questions to `prctl` that no crate of ours wraps. **Unsafe** lives here.
//!
//! Each of these options takes plain numbers, never a pointer: the worst that a wrong one can do is an errno.

use nix::errno::Errno;

/// What `PR_GET_SECCOMP` answers under a filter.
pub(crate) const SECCOMP_MODE_FILTER: i32 = 2;

/// Uid 0 means nothing, changing uid keeps nothing, nothing becomes ambient; and none of that can be undone.
pub(crate) const SECUREBITS_LOCKED: i32 = libc::SECBIT_NOROOT
    | libc::SECBIT_NOROOT_LOCKED
    | libc::SECBIT_NO_SETUID_FIXUP
    | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
    | libc::SECBIT_KEEP_CAPS_LOCKED
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

/// Which kind of seccomp is in force.
pub(crate) fn seccomp_mode() -> Result<i32, Errno> {
    ask(libc::PR_GET_SECCOMP, 0)
}

pub(crate) fn securebits() -> Result<i32, Errno> {
    ask(libc::PR_GET_SECUREBITS, 0)
}

pub(crate) fn set_securebits(bits: i32) -> Result<(), Errno> {
    ask(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits.cast_unsigned())).map(drop)
}

/// Whether the bounding set holds a capability; nothing where the kernel does not know it.
pub(crate) fn bounding_holds(capability: u8) -> Result<Option<bool>, Errno> {
    match ask(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability)) {
        Ok(answer) => Ok(Some(answer == 1)),
        Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn drop_from_bounding(capability: u8) -> Result<(), Errno> {
    ask(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)).map(drop)
}

/// Asks the kernel to refuse pages that become executable. Linux 6.3 has it; that it is missing elsewhere is reported,
/// since both filters refuse the same.
pub(crate) fn refuse_exec_gain() {
    let _ = ask(libc::PR_SET_MDWE, libc::c_ulong::from(libc::PR_MDWE_REFUSE_EXEC_GAIN));
}

/// Whether it does.
pub(crate) fn refuses_exec_gain() -> bool {
    let wanted = libc::PR_MDWE_REFUSE_EXEC_GAIN.cast_signed();
    ask(libc::PR_GET_MDWE, 0).is_ok_and(|bits| bits & wanted == wanted)
}

fn ask(option: libc::c_int, value: libc::c_ulong) -> Result<i32, Errno> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: the options that this file passes read no memory of ours and write none; all five arguments are given, so
    // the kernel finds zeros where it demands them.
    let answer = unsafe { libc::prctl(option, value, NONE, NONE, NONE) };
    Errno::result(answer)
}
