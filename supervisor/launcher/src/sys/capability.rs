//! The bounding set and the securebits: what a process can ever get back.

use std::ffi::{c_int, c_ulong};

use nix::errno::Errno;

/// Uid 0 means nothing, changing uid keeps nothing, nothing becomes ambient; and none of that can be undone.
const LOCKED: c_int = libc::SECBIT_NOROOT
    | libc::SECBIT_NOROOT_LOCKED
    | libc::SECBIT_NO_SETUID_FIXUP
    | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
    | libc::SECBIT_KEEP_CAPS_LOCKED
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

/// Drops every capability from the bounding set but those.
pub fn bound_to(keep: &[u8]) -> nix::Result<()> {
    // A set is 64 bits wide; the kernel says which of them it knows, also those that are younger than this program.
    for capability in 0..64_u8 {
        let held = match ask(libc::PR_CAPBSET_READ, c_ulong::from(capability)) {
            Err(Errno::EINVAL) => false,
            other => other? == 1,
        };
        if held && !keep.contains(&capability) {
            ask(libc::PR_CAPBSET_DROP, c_ulong::from(capability))?;
        }
    }
    Ok(())
}

/// Locks the securebits. Needs CAP_SETPCAP, so it comes before that goes.
pub fn lock_securebits() -> nix::Result<()> {
    ask(libc::PR_SET_SECUREBITS, c_ulong::from(LOCKED.cast_unsigned())).map(drop)
}

fn ask(option: c_int, value: c_ulong) -> nix::Result<c_int> {
    const NONE: c_ulong = 0;
    // SAFETY: the options that this file passes take numbers only; all five arguments are given, so the kernel finds zeros
    // where it demands them.
    Errno::result(unsafe { libc::prctl(option, value, NONE, NONE, NONE) })
}
