//! The SHA-256 of the model's bytes, promised by the launcher. Its family counts it over the same sealed memory that this worker
//! has mapped, while this worker starts; or has it already, from an earlier worker of the same bytes.
//!
//! It comes over a socket of its own, which is closed before the lock. A worker without it does not begin.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recvmsg};
use thiserror::Error;

/// The end of the socket over which it comes.
#[derive(Debug)]
pub struct Promised(OwnedFd);

/// What came over it: the launcher vouches that it is the digest of the bytes that this worker has mapped. Only the two waits
/// below make one, and `verify` wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched([u8; 32]);

/// Why there is none. The launcher's log says more.
#[derive(Debug, Error)]
pub enum DigestError {
    /// The launcher let go of the other end.
    #[error("its launcher has no SHA-256 of the model's bytes for it")]
    None,
    /// Something else came.
    #[error("its launcher sent {0} bytes for the SHA-256 of the model's bytes")]
    Length(usize),
    /// The socket failed.
    #[error("the SHA-256 of the model's bytes did not come: {0}")]
    Socket(#[from] io::Error),
}

impl Promised {
    /// That end.
    pub const fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Waits for it, by the one call for it that a filter allows which has files read: a program's while it warms up.
    pub fn read(self) -> Result<Vouched, DigestError> {
        let mut socket = File::from(self.0);
        take(|bytes| socket.read(bytes))
    }

    /// Waits for it, by the one call for it that a zygote's filter allows.
    pub fn receive(self) -> Result<Vouched, DigestError> {
        take(|bytes| {
            let mut parts = [IoSliceMut::new(bytes)];
            // No room for descriptors: the kernel installs none.
            let message = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::MSG_CMSG_CLOEXEC);
            Ok(message.map(|message| message.bytes)?)
        })
    }
}

impl Vouched {
    /// The SHA-256.
    pub const fn sha256(self) -> [u8; 32] {
        self.0
    }
}

impl AsFd for Promised {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One packet; room for one byte more than there are tells a longer one.
fn take(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Result<Vouched, DigestError> {
    let mut bytes = [0; 33];
    let length = loop {
        match read(&mut bytes) {
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
            other => break other?,
        }
    };
    match length {
        0 => Err(DigestError::None),
        32 => bytes.first_chunk().copied().map(Vouched).ok_or(DigestError::Length(length)),
        other => Err(DigestError::Length(other)),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, send, socketpair};

    use super::*;

    fn sent(packet: Option<&[u8]>) -> [Result<Vouched, DigestError>; 2] {
        [Promised::read, Promised::receive].map(|wait| {
            let (ours, theirs) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
            if let Some(packet) = packet {
                send(ours.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).unwrap();
            }
            drop(ours);
            wait(Promised::new(theirs))
        })
    }

    #[test]
    fn thirty_two_bytes_and_nothing_else() {
        assert!(sent(Some(&[7; 32])).into_iter().all(|heard| heard.unwrap().sha256() == [7; 32]));
        assert!(sent(None).into_iter().all(|heard| matches!(heard, Err(DigestError::None))));
        for length in [1, 31, 33] {
            let heard = sent(Some(&vec![7; length]));
            assert!(heard.into_iter().all(|heard| matches!(heard, Err(DigestError::Length(found)) if found == length)));
        }
    }
}
