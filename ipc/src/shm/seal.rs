//! Memory files that keep their promises: once sealed they can neither shrink under a reader (which would be SIGBUS) nor
//! grow, and a frozen one can never change again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, ftruncate, lseek};
use thiserror::Error;

/// Why a descriptor is not the memory that it should be.
#[derive(Debug, Error)]
pub enum SealError {
    /// A call failed; an `EINVAL` here means that the descriptor is no memory file at all.
    #[error("{step}: {source}")]
    Call {
        /// Which one.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Its seals are not those that were promised.
    #[error("memory file has seals {found:#x}, expected {expected:#x}")]
    Seals {
        /// Seals set.
        found: i32,
        /// Seals promised.
        expected: i32,
    },
    /// It can be written through this descriptor, and should not be.
    #[error("memory file is open for writing")]
    Writable,
    /// Its length is not the promised one.
    #[error("memory file has {found} bytes, expected {expected}")]
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// More bytes than allowed.
    #[error("more than {0} bytes")]
    TooLong(u64),
}

/// What a memory file still allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// Writing by everybody who holds it; its length is fixed.
    Fixed,
    /// Nothing.
    Frozen,
}

// Not in nix's sets: F_SEAL_EXEC and MFD_NOEXEC_SEAL (6.3).
const F_SEAL_EXEC: i32 = 0x20;
const MFD_NOEXEC_SEAL: u32 = 0x8;

impl Sealing {
    fn flags(self) -> SealFlag {
        let fixed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        match self {
            Self::Fixed => fixed,
            Self::Frozen => fixed | SealFlag::F_SEAL_WRITE,
        }
    }
}

/// A memory file of this many zero bytes, not sealed yet. Pages are taken when they are first touched.
pub fn create(name: &str, bytes: u64) -> Result<OwnedFd, SealError> {
    let file = blank(name)?;
    let length = i64::try_from(bytes).map_err(|_| SealError::TooLong(bytes))?;
    ftruncate(&file, length).map_err(call("ftruncate"))?;
    Ok(file)
}

/// A frozen memory file with everything that `source` still holds; refused if that is more than `limit` bytes.
pub fn freeze(name: &str, source: impl Read, limit: u64) -> Result<OwnedFd, SealError> {
    let io = |step: &'static str| move |source: io::Error| SealError::Call { step, source };
    let mut file = File::from(blank(name)?);
    // One byte over the limit tells "exactly the limit" from "more".
    let copied = io::copy(&mut source.take(limit.saturating_add(1)), &mut file).map_err(io("copy"))?;
    if copied > limit {
        return Err(SealError::TooLong(limit));
    }
    file.flush().map_err(io("copy"))?;
    let file = OwnedFd::from(file);
    apply(&file, Sealing::Frozen)?;
    Ok(file)
}

/// Seals a memory file, for good.
pub fn apply(file: impl AsFd, sealing: Sealing) -> Result<(), SealError> {
    fcntl(file, FcntlArg::F_ADD_SEALS(sealing.flags())).map_err(call("seal"))?;
    Ok(())
}

/// Proves that a descriptor is a memory file with exactly this sealing, and returns its length in bytes.
pub fn check(file: impl AsFd, sealing: Sealing) -> Result<u64, SealError> {
    let found = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_err(call("read seals"))?;
    let expected = sealing.flags().bits();
    // Where the kernel knows it, the seal against execution is there too, from the start.
    if found & !F_SEAL_EXEC != expected {
        return Err(SealError::Seals { found, expected });
    }
    // Not fstat: libc makes it of a call that takes a path, and the front has none of those.
    let length = lseek(file, 0, Whence::SeekEnd).map_err(call("lseek"))?;
    u64::try_from(length).map_err(|_| SealError::Length { found: 0, expected: 0 })
}

/// The same memory by a descriptor that can only read: what is mapped through it can never be written, made longer or
/// shorter, or sealed. Whoever has it and no `/proc` gets no other. Not the seal against future writers: that would refuse
/// [`release`] too.
pub fn read_only(file: impl AsFd) -> Result<OwnedFd, SealError> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    File::open(path).map(OwnedFd::from).map_err(|source| SealError::Call { step: "open for reading", source })
}

/// Proves that memory cannot be written through this descriptor.
pub fn check_read_only(file: impl AsFd) -> Result<(), SealError> {
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(call("access"))?;
    if flags & OFlag::O_ACCMODE.bits() == OFlag::O_RDONLY.bits() { Ok(()) } else { Err(SealError::Writable) }
}

/// Gives whole pages of a memory file back to the system; they are zeros from then on. The file must not be sealed against
/// writers, and the descriptor must be able to write.
pub fn release(file: impl AsFd, offset: u64, bytes: u64) -> Result<(), SealError> {
    let number = |n: u64| i64::try_from(n).map_err(|_| SealError::TooLong(n));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, hole, number(offset)?, number(bytes)?).map_err(call("release"))
}

fn blank(name: &str) -> Result<OwnedFd, SealError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Where the kernel knows it, the file can never be executed either.
    match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(nix::errno::Errno::EINVAL) => memfd_create(name, flags).map_err(call("memfd_create")),
        other => other.map_err(call("memfd_create")),
    }
}

fn call(step: &'static str) -> impl Fn(nix::errno::Errno) -> SealError {
    move |errno| SealError::Call { step, source: errno.into() }
}
