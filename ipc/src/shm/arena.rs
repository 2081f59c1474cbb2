//! Arenas: memory cut into slots, a slot holding the tensors of one batch one after the other.
//!
//! The front makes both. The launcher passes the request arena on by a descriptor that can only read; the response arena
//! is written by the worker and mapped read-only by the front, which copies out first and checks afterwards. Both are as
//! long as the operator's limits from the start, their pages are taken when they are first touched, and the front gives
//! back what is no longer needed ([`seal::release`]).

use std::os::fd::{AsFd, OwnedFd};

use thiserror::Error;

use super::map::{Incoming, Outgoing};
use super::seal::{self, SealError, Sealing};
use crate::launch::Geometry;
use crate::tensor::{DType, Shape, TensorError};
use crate::work::Placed;

/// Every tensor starts at a multiple of this, so that vector instructions find it aligned.
pub const ALIGN: usize = 64;

/// The writing side of an arena.
#[derive(Debug)]
pub struct Writer {
    memory: Outgoing,
    geometry: Geometry,
}

/// The reading side of an arena.
#[derive(Debug)]
pub struct Reader {
    memory: Incoming,
    geometry: Geometry,
}

/// Fills one slot, tensor by tensor.
#[derive(Debug)]
pub struct SlotWriter<'a> {
    writer: &'a Writer,
    start: usize,
    used: usize,
}

/// Why a tensor cannot be placed or taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArenaError {
    /// No such slot.
    #[error("slot {0} does not exist")]
    Slot(u32),
    /// Too many bytes.
    #[error("{needed} bytes do not fit into the {room} that are left")]
    Full {
        /// Bytes needed.
        needed: usize,
        /// Bytes left.
        room: usize,
    },
    /// Shape and length do not agree, or are beyond any memory.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The bytes are not as many as the shape says.
    #[error("{found} bytes for a tensor of {expected}")]
    Length {
        /// Bytes there.
        found: u64,
        /// Bytes that shape and type make.
        expected: u64,
    },
    /// The tensor does not lie inside its slot.
    #[error("a tensor at {offset} of {bytes} bytes does not lie in its slot")]
    Outside {
        /// Where it claims to start.
        offset: u64,
        /// How long it claims to be.
        bytes: u64,
    },
}

/// A new request arena: the front's writer, and the file. A worker gets it narrowed by [`seal::read_only`].
pub fn requests(geometry: Geometry) -> Result<(Writer, OwnedFd), SealError> {
    let (file, bytes) = blank("casemate-requests", geometry)?;
    seal::apply(&file, Sealing::Fixed)?;
    let memory = Outgoing::map(&file, bytes)?;
    Ok((Writer { memory, geometry }, file))
}

/// A new response arena: the front's reader, and the file that a worker can write.
pub fn responses(geometry: Geometry) -> Result<(Reader, OwnedFd), SealError> {
    let (file, bytes) = blank("casemate-responses", geometry)?;
    // Sealed before anybody else holds it: a shrinking file would kill its reader with SIGBUS.
    seal::apply(&file, Sealing::Fixed)?;
    let memory = Incoming::map(&file, Sealing::Fixed, bytes)?;
    Ok((Reader { memory, geometry }, file))
}

fn blank(name: &str, geometry: Geometry) -> Result<(OwnedFd, u64), SealError> {
    let bytes = geometry.bytes().ok_or(SealError::TooLong(u64::MAX))? as u64;
    Ok((seal::create(name, bytes)?, bytes))
}

// === impl Writer ===

impl Writer {
    /// The worker's side of a response arena.
    pub fn open(file: impl AsFd, geometry: Geometry) -> Result<Self, SealError> {
        let expected = geometry.bytes().ok_or(SealError::TooLong(u64::MAX))? as u64;
        let found = seal::check(file.as_fd(), Sealing::Fixed)?;
        if found != expected {
            return Err(SealError::Length { found, expected });
        }
        Ok(Self { memory: Outgoing::map(file, expected)?, geometry })
    }

    /// Begins to fill a slot. Who hands out slots sees to it that nobody else does.
    pub fn slot(&self, slot: u32) -> Result<SlotWriter<'_>, ArenaError> {
        Ok(SlotWriter { writer: self, start: start(self.geometry, slot)?, used: 0 })
    }
}

impl SlotWriter<'_> {
    /// Places a dense tensor behind the last one; `parts` are its bytes, in order.
    pub fn place(&mut self, dtype: DType, shape: Shape, parts: &[&[u8]]) -> Result<Placed, ArenaError> {
        self.place_parts(dtype, shape, parts.iter().copied())
    }

    /// The same, of parts that lie in no list of their own.
    pub fn place_parts<'p>(
        &mut self,
        dtype: DType,
        shape: Shape,
        parts: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> Result<Placed, ArenaError> {
        let expected = shape.bytes(dtype)?;
        let found = parts.clone().map(<[u8]>::len).sum::<usize>();
        if found != expected {
            return Err(ArenaError::Length { found: found as u64, expected: expected as u64 });
        }
        let slot = usize::try_from(self.writer.geometry.slot_bytes).unwrap_or(usize::MAX);
        let full = || ArenaError::Full { needed: found, room: slot.saturating_sub(self.used) };
        let offset = self.used.checked_next_multiple_of(ALIGN).ok_or_else(full)?;
        let end = offset.checked_add(found).filter(|end| *end <= slot).ok_or_else(full)?;
        let mut at = self.start + offset;
        for part in parts {
            self.writer.memory.copy_in(at, part).ok_or_else(full)?;
            at += part.len();
        }
        self.used = end;
        Ok(Placed { dtype, shape, offset: offset as u64, bytes: found as u64 })
    }
}

// === impl Reader ===

impl Reader {
    /// The worker's side of a request arena; refused where the worker could write it.
    pub fn open(file: impl AsFd, geometry: Geometry) -> Result<Self, SealError> {
        let expected = geometry.bytes().ok_or(SealError::TooLong(u64::MAX))? as u64;
        seal::check_read_only(file.as_fd())?;
        Ok(Self { memory: Incoming::map(file, Sealing::Fixed, expected)?, geometry })
    }

    /// Where it lies in this process. A number and no more: nothing here reads or writes by it.
    pub fn address(&self) -> usize {
        self.memory.address()
    }

    /// Copies a tensor out. What `placed` says is checked against the slot, the shape and the type before a byte moves;
    /// nothing is allocated for a tensor that does not lie in its slot.
    pub fn take(&self, slot: u32, placed: &Placed) -> Result<Vec<u8>, ArenaError> {
        let (at, bytes) = self.locate(slot, placed)?;
        let outside = ArenaError::Outside { offset: placed.offset, bytes: placed.bytes };
        self.memory.to_vec(at, bytes).ok_or(outside)
    }

    /// The same, into memory that is already there and of the right length.
    pub fn take_into(&self, slot: u32, placed: &Placed, into: &mut [u8]) -> Result<(), ArenaError> {
        let (at, bytes) = self.locate(slot, placed)?;
        if into.len() != bytes {
            return Err(ArenaError::Length { found: into.len() as u64, expected: placed.bytes });
        }
        let outside = ArenaError::Outside { offset: placed.offset, bytes: placed.bytes };
        self.memory.copy_out(at, into).ok_or(outside)
    }

    fn locate(&self, slot: u32, placed: &Placed) -> Result<(usize, usize), ArenaError> {
        let expected = placed.shape.bytes(placed.dtype)? as u64;
        if placed.bytes != expected {
            return Err(ArenaError::Length { found: placed.bytes, expected });
        }
        let outside = || ArenaError::Outside { offset: placed.offset, bytes: placed.bytes };
        let end = placed.offset.checked_add(placed.bytes).ok_or_else(outside)?;
        if end > self.geometry.slot_bytes {
            return Err(outside());
        }
        let offset = usize::try_from(placed.offset).map_err(|_| outside())?;
        let bytes = usize::try_from(placed.bytes).map_err(|_| outside())?;
        Ok((start(self.geometry, slot)? + offset, bytes))
    }
}

fn start(geometry: Geometry, slot: u32) -> Result<usize, ArenaError> {
    if slot >= geometry.slots {
        return Err(ArenaError::Slot(slot));
    }
    // Inside `geometry.bytes()`, which was mapped, so this cannot overflow.
    u64::from(slot).checked_mul(geometry.slot_bytes).and_then(|n| usize::try_from(n).ok()).ok_or(ArenaError::Slot(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { slots: 2, slot_bytes: 4096 };

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims.to_vec()).unwrap()
    }

    #[test]
    fn what_is_placed_is_what_is_taken() {
        let (writer, file) = requests(GEOMETRY).unwrap();
        assert!(Reader::open(&file, GEOMETRY).is_err(), "who can write requests is no worker");
        let file = seal::read_only(file).unwrap();
        let reader = Reader::open(&file, GEOMETRY).unwrap();
        let mut slot = writer.slot(1).unwrap();
        let a = slot.place(DType::Uint8, shape(&[3]), &[b"ab", b"c"]).unwrap();
        let b = slot.place(DType::Fp32, shape(&[2]), &[&[1; 8]]).unwrap();
        assert_eq!((a.offset, b.offset), (0, ALIGN as u64));
        assert_eq!(reader.take(1, &a).unwrap(), b"abc");
        assert_eq!(reader.take(1, &b).unwrap(), [1; 8]);
        assert!(matches!(slot.place(DType::Uint8, shape(&[4096]), &[&[0; 4096]]), Err(ArenaError::Full { .. })));
        assert!(Writer::open(&file, GEOMETRY).is_err(), "a worker must not be able to write requests");
    }

    #[test]
    fn every_lie_about_a_place_is_refused() {
        let (reader, file) = responses(GEOMETRY).unwrap();
        let writer = Writer::open(&file, GEOMETRY).unwrap();
        let good = writer.slot(0).unwrap().place(DType::Fp32, shape(&[4]), &[&[7; 16]]).unwrap();
        assert_eq!(reader.take(0, &good).unwrap(), [7; 16]);
        assert!(reader.take(2, &good).is_err());
        let lies = [
            Placed { bytes: 17, ..good.clone() },
            Placed { offset: 4090, ..good.clone() },
            Placed { offset: u64::MAX - 3, ..good.clone() },
            Placed { shape: shape(&[1 << 40]), bytes: 1 << 42, ..good.clone() },
            Placed { shape: shape(&[1 << 62, 4]), ..good.clone() },
            Placed { dtype: DType::Fp64, ..good.clone() },
        ];
        for lie in lies {
            assert!(reader.take(0, &lie).is_err(), "{lie:?}");
        }
        let other = Geometry { slots: 3, ..GEOMETRY };
        assert!(Writer::open(&file, other).is_err());
    }
}
