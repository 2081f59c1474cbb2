//! Mappings of shared memory, and copies into and out of them.
//!
//! Memory that another process may be writing is only ever copied, never borrowed: a `&[u8]` into it could change under
//! the compiler's feet. Memory that is frozen may be borrowed.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mprotect, munmap};

use super::seal::{self, SealError, Sealing};

/// A frozen memory file, readable in place.
#[derive(Debug)]
pub struct Frozen(Mapping);

/// A frozen memory file once more, to work in: its pages are the file's, which everybody shares, until this process writes to
/// them; then they are copies of its own.
#[derive(Debug)]
pub struct Private(Mapping);

/// Memory that only other processes write.
#[derive(Debug)]
pub struct Incoming(Mapping);

/// Memory that this process writes and others read.
#[derive(Debug)]
pub struct Outgoing(Mapping);

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is plain memory of the process, not of a thread; it is unmapped only when the last owner drops it.
unsafe impl Send for Mapping {}
// SAFETY: shared access only copies bytes; see `Incoming::copy_out` and `Outgoing::copy_in` for who may race.
unsafe impl Sync for Mapping {}

impl Frozen {
    /// Maps a memory file after proving that it is frozen.
    pub fn map(file: impl AsFd) -> Result<Self, SealError> {
        let length = seal::check(file.as_fd(), Sealing::Frozen)?;
        Mapping::new(file, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED).map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        if self.0.length == 0 {
            return &[];
        }
        // SAFETY: mapped readable for `length` bytes until drop, and the write seal was checked: nobody, this process
        // included, can change or shrink the file any more.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.length) }
    }
}

impl Private {
    /// Maps a memory file after proving that it is frozen. It cannot be written yet, and so is no data in the kernel's eyes.
    pub fn map(file: impl AsFd) -> Result<Self, SealError> {
        let length = seal::check(file.as_fd(), Sealing::Frozen)?;
        Mapping::new(file, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE).map(Self)
    }

    /// Makes all up to `end` writable. From now on that counts against the process's limit on data, written to or not; an
    /// error where it does not fit.
    pub fn make_writable(&mut self, end: usize) -> io::Result<()> {
        let length = end.min(self.0.length);
        if length == 0 {
            return Ok(());
        }
        // SAFETY: the pages are this mapping's own, and nobody has a reference into them; they only become writable.
        unsafe { mprotect(self.0.start.cast(), length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }?;
        Ok(())
    }

    /// Where it begins. Nothing here reads or writes by it, so whoever does has it for himself.
    pub fn start(&self) -> NonNull<u8> {
        self.0.start
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Leaves it mapped until the process ends, for those who know its address.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Incoming {
    /// Maps a memory file for reading.
    pub fn map(file: impl AsFd, sealing: Sealing, expected: u64) -> Result<Self, SealError> {
        checked(file.as_fd(), sealing, expected)?;
        Mapping::new(file, expected, ProtFlags::PROT_READ, MapFlags::MAP_SHARED).map(Self)
    }

    /// Where it lies in this process.
    pub fn address(&self) -> usize {
        self.0.start.as_ptr().expose_provenance()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Copies `into.len()` bytes from `offset` on; `None`, and nothing copied, where that is outside.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let from = self.0.at(offset, into.len())?;
        // SAFETY: `at` proved the range; the length is sealed, so it stays mapped and backed. The other process may write
        // meanwhile: then the copy holds a mix of old and new bytes, which the caller must be able to bear (front: checked
        // after the copy; worker: the front does not write a slot that it has handed over). No reference is made.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// The same, into a new vector that is filled without being zeroed first.
    pub fn to_vec(&self, offset: usize, length: usize) -> Option<Vec<u8>> {
        let from = self.0.at(offset, length)?;
        let mut into: Vec<u8> = Vec::with_capacity(length);
        // SAFETY: as in `copy_out`; the vector has room for `length` bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), length) };
        // SAFETY: exactly `length` bytes have just been written.
        unsafe { into.set_len(length) };
        Some(into)
    }
}

impl Outgoing {
    /// Where it lies in this process.
    pub fn address(&self) -> usize {
        self.0.start.as_ptr().expose_provenance()
    }

    /// Maps a memory file for writing. The caller must hold the only write access that matters: a front maps the request
    /// arena and then seals it against new writers; a worker maps the response arena that its front maps read-only.
    pub fn map(file: impl AsFd, expected: u64) -> Result<Self, SealError> {
        Mapping::new(file, expected, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED).map(Self)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Copies `from` to `offset`; `None`, and nothing copied, where that does not fit.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Option<()> {
        let into = self.0.at(offset, from.len())?;
        // SAFETY: `at` proved the range; the length is sealed, so it stays mapped and backed. Two writers of one slot are
        // kept apart by whoever hands slots out (front: `fleet/link`; worker: one batch at a time). No reference is made.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Some(())
    }
}

impl Mapping {
    fn new(file: impl AsFd, bytes: u64, protection: ProtFlags, flags: MapFlags) -> Result<Self, SealError> {
        let length = usize::try_from(bytes).map_err(|_| SealError::TooLong(bytes))?;
        let Some(nonzero) = NonZeroUsize::new(length) else {
            return Ok(Self { start: NonNull::dangling(), length: 0 });
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody refers to.
        let start = unsafe { mmap(None, nonzero, protection, flags, file, 0) };
        let start = start.map_err(|errno| SealError::Call { step: "mmap", source: io::Error::from(errno) })?;
        Ok(Self { start: start.cast(), length })
    }

    /// The address of `length` bytes from `offset` on, if they are inside.
    fn at(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.length {
            return None;
        }
        // SAFETY: `offset` is at most `self.length`, so the sum stays inside the mapping or one past its end.
        Some(unsafe { self.start.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: this mapping was made in `new` and nothing borrowed from it can outlive it. An error would only
            // leave it mapped.
            let _ = unsafe { munmap(self.start.cast(), self.length) };
        }
    }
}

fn checked(file: impl AsFd, sealing: Sealing, expected: u64) -> Result<(), SealError> {
    let found = seal::check(file, sealing)?;
    if found == expected { Ok(()) } else { Err(SealError::Length { found, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_read_or_written() {
        let file = seal::create("test", 8192).unwrap();
        let writer = Outgoing::map(&file, 8192).unwrap();
        seal::apply(&file, Sealing::Fixed).unwrap();
        let narrow = seal::read_only(&file).unwrap();
        let reader = Incoming::map(&narrow, Sealing::Fixed, 8192).unwrap();
        writer.copy_in(8190, b"ab").unwrap();
        assert_eq!(reader.to_vec(8190, 2).unwrap(), b"ab");
        for (offset, length) in [(8191, 2), (8193, 0), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(reader.0.at(offset, length).is_none(), "{offset}+{length}");
        }
        assert!(writer.copy_in(8191, b"ab").is_none());
        assert!(reader.copy_out(8192, &mut [0]).is_none());
        // Who holds the narrow descriptor can neither write nor seal nor give back; nobody can make it shorter.
        assert!(Outgoing::map(&narrow, 8192).is_err());
        assert!(seal::apply(&narrow, Sealing::Frozen).is_err() && seal::release(&narrow, 0, 4096).is_err());
        assert!(seal::check_read_only(&narrow).is_ok() && seal::check_read_only(&file).is_err());
        assert!(nix::unistd::ftruncate(&file, 0).is_err() && nix::unistd::ftruncate(&narrow, 0).is_err());
        seal::release(&file, 4096, 4096).unwrap();
        assert_eq!(reader.to_vec(8190, 2).unwrap(), [0, 0]);
    }

    #[test]
    fn only_frozen_memory_can_be_borrowed() {
        let file = seal::create("test", 4096).unwrap();
        assert!(Frozen::map(&file).is_err());
        seal::apply(&file, Sealing::Fixed).unwrap();
        assert!(Frozen::map(&file).is_err());
        let frozen = seal::freeze("test", &b"bytes"[..], 5).unwrap();
        assert_eq!(Frozen::map(&frozen).unwrap().bytes(), b"bytes");
        assert!(matches!(seal::freeze("test", &b"bytes"[..], 4), Err(SealError::TooLong(4))));
        assert!(nix::unistd::write(&frozen, b"x").is_err());
        let mut own = Private::map(&frozen).unwrap();
        assert!(Private::map(&file).is_err() && own.len() == 5);
        own.make_writable(5).unwrap();
        let (before, place) = (Frozen::map(&frozen).unwrap(), own.start());
        // SAFETY: the first byte of a mapping of five, writable, to which nobody has a reference.
        unsafe { place.write(b'B') };
        // SAFETY: as above.
        assert_eq!(unsafe { place.read() }, b'B');
        assert_eq!((before.bytes(), Frozen::map(&frozen).unwrap().bytes()), (&b"bytes"[..], &b"bytes"[..]));
        assert_eq!(Frozen::map(seal::freeze("empty", &b""[..], 5).unwrap()).unwrap().bytes(), b"");
    }
}
