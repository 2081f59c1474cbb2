//! Descriptors that a process comes by as plain numbers: born with, or received in a message.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Takes over a descriptor that this process was born with. Each can be taken once; call it before anything else opens
/// a descriptor, or the number may mean something else.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let bit = u32::try_from(number).ok().and_then(|n| 1u64.checked_shl(n)).filter(|bit| *bit != 0);
    let bit = bit.ok_or(io::ErrorKind::InvalidInput)?;
    if TAKEN.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: the number is only asked about; F_GETFD changes nothing, and fails where it is not open.
    let open = fcntl(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD);
    open?;
    Ok(adopt(number))
}

/// Takes over a descriptor that the kernel has just installed for a message.
pub(crate) fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the number is open and nobody else closes it: `take` gives each out once, and what came with a message is
    // known to its receiver alone.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_once() {
        use std::os::fd::IntoRawFd;
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        assert!(take(number).is_ok());
        assert!(take(number).is_err());
        assert!(take(63).is_err());
        assert!(take(64).is_err());
        assert!(take(-1).is_err());
    }
}
