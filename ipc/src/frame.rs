//! One packet is one frame: a header of eight bytes (magic, version, kind, length of the body), then a body in bincode's
//! legacy format. Encoding and decoding work on slices; nothing here does I/O.
//!
//! bincode is unmaintained (RUSTSEC-2025-0141), so this file is the only one that calls it, under rules that make it
//! safe to keep: `=2.0.1`, its own derive, the fixed-width legacy format (byte for byte what bincode 1, wincode and
//! bincode-next write), a limit on every decode, the length checked before and the count of decoded bytes after it, and
//! no zero-sized, recursive or map types in any message.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use thiserror::Error;

/// Largest frame in bytes, header included. Control messages only: tensors never pass through here.
pub const MAX_FRAME: usize = 64 * 1024;

/// Room for a frame of the usual kind, in bytes.
pub const SMALL: usize = 512;

const HEADER: usize = 8;
const MAGIC: u16 = 0xCA5E;
const VERSION: u8 = 1;

/// A type that may be the body of a frame. `KIND` differs for every type, so that a packet on the wrong channel is
/// refused before it is decoded.
pub trait Message: Encode + Decode<()> {
    /// The frame's kind byte.
    const KIND: u8;
}

/// Why bytes are not a frame, or a message does not fit in one.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Shorter than a header.
    #[error("frame of {0} bytes is shorter than its header")]
    Short(usize),
    /// Over [`MAX_FRAME`].
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// Not ours, or of another version.
    #[error("frame with magic {magic:#06x} and version {version}, expected {MAGIC:#06x} and {VERSION}")]
    Foreign {
        /// First two bytes.
        magic: u16,
        /// Third byte.
        version: u8,
    },
    /// A message for another channel.
    #[error("frame of kind {found}, expected {expected}")]
    Kind {
        /// What came.
        found: u8,
        /// What this channel carries.
        expected: u8,
    },
    /// The header's length is not the packet's.
    #[error("frame announces {announced} bytes and holds {found}")]
    Length {
        /// What the header says.
        announced: usize,
        /// What is there.
        found: usize,
    },
    /// bincode refused the body.
    #[error("body cannot be decoded: {0}")]
    Decode(#[source] bincode::error::DecodeError),
    /// bincode took a part of the body and left the rest.
    #[error("{0} bytes are left over behind the message")]
    Trailing(usize),
    /// The message cannot be encoded.
    #[error("message cannot be encoded: {0}")]
    Encode(#[source] bincode::error::EncodeError),
}

/// The bytes of one frame.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut packet = Vec::with_capacity(256);
    encode_into(message, &mut packet)?;
    Ok(packet)
}

/// The bytes of one frame, into a buffer that is cleared first.
pub fn encode_into<M: Message>(message: &M, packet: &mut Vec<u8>) -> Result<(), FrameError> {
    packet.clear();
    packet.extend_from_slice(&[0; HEADER]);
    bincode::encode_into_std_write(message, packet, FORMAT).map_err(FrameError::Encode)?;
    if packet.len() > MAX_FRAME {
        return Err(FrameError::TooLong(packet.len()));
    }
    if let Some((header, body)) = packet.split_first_chunk_mut() {
        *header = head::<M>(body.len())?;
    }
    Ok(())
}

/// The bytes of one frame, in `room` where they fit: what is said for each batch is short, and takes no memory of its own.
pub fn encode_within<'a, M: Message>(message: &M, room: &'a mut [u8; SMALL]) -> Result<Option<&'a [u8]>, FrameError> {
    let length = match bincode::encode_into_slice(message, &mut room[HEADER..], FORMAT) {
        Ok(length) => length,
        Err(bincode::error::EncodeError::UnexpectedEnd) => return Ok(None),
        Err(error) => return Err(FrameError::Encode(error)),
    };
    room[..HEADER].copy_from_slice(&head::<M>(length)?);
    Ok(Some(&room[..HEADER + length]))
}

fn head<M: Message>(body: usize) -> Result<[u8; HEADER], FrameError> {
    let [l0, l1, l2, l3] = u32::try_from(body).map_err(|_| FrameError::TooLong(body))?.to_le_bytes();
    let [m0, m1] = MAGIC.to_le_bytes();
    Ok([m0, m1, VERSION, M::KIND, l0, l1, l2, l3])
}

/// The message in one frame; the frame must be exactly that message.
pub fn decode<M: Message>(packet: &[u8]) -> Result<M, FrameError> {
    if packet.len() > MAX_FRAME {
        return Err(FrameError::TooLong(packet.len()));
    }
    let Some((header, body)) = packet.split_first_chunk::<HEADER>() else {
        return Err(FrameError::Short(packet.len()));
    };
    let [m0, m1, version, kind, l0, l1, l2, l3] = *header;
    let magic = u16::from_le_bytes([m0, m1]);
    if magic != MAGIC || version != VERSION {
        return Err(FrameError::Foreign { magic, version });
    }
    if kind != M::KIND {
        return Err(FrameError::Kind { found: kind, expected: M::KIND });
    }
    let announced = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if announced != body.len() {
        return Err(FrameError::Length { announced, found: body.len() });
    }
    let (message, taken) = bincode::decode_from_slice(body, FORMAT).map_err(FrameError::Decode)?;
    // bincode ignores what is left over; a frame that carries more than its message is a lie or a bug.
    if taken != body.len() {
        return Err(FrameError::Trailing(body.len() - taken));
    }
    Ok(message)
}

type Format = Configuration<LittleEndian, Fixint, Limit<MAX_FRAME>>;
const FORMAT: Format = bincode::config::legacy().with_limit::<MAX_FRAME>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BatchId;
    use crate::launch::LaunchRequest;
    use crate::work::{FromWorker, ToWorker};

    #[test]
    fn golden_bytes() {
        let packet = encode(&ToWorker::Ping { token: 7 }).unwrap();
        assert_eq!(packet, [0x5E, 0xCA, 1, 3, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn every_spoilt_header_is_refused() {
        let good = encode(&ToWorker::Ping { token: 7 }).unwrap();
        assert!(decode::<ToWorker>(&good).is_ok());
        assert!(matches!(decode::<FromWorker>(&good), Err(FrameError::Kind { .. })));
        assert!(matches!(decode::<LaunchRequest>(&good), Err(FrameError::Kind { .. })));
        for i in 0..HEADER {
            let mut bad = good.clone();
            bad[i] ^= 0x40;
            assert!(decode::<ToWorker>(&bad).is_err(), "byte {i}");
        }
        for cut in 0..good.len() {
            assert!(decode::<ToWorker>(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut long = good;
        long.push(0);
        assert!(matches!(decode::<ToWorker>(&long), Err(FrameError::Length { .. })));
        long[4] += 1;
        assert!(matches!(decode::<ToWorker>(&long), Err(FrameError::Trailing(1))));
    }

    #[test]
    fn a_length_inside_the_body_reserves_nothing() {
        // FromWorker::Failed with a detail that claims 2^62 bytes.
        let failed =
            FromWorker::Failed { batch: BatchId(1), failure: crate::work::Failure::Model, detail: "x".to_owned() };
        let mut packet = encode(&failed).unwrap();
        let at = packet.len() - 9;
        packet[at..at + 8].copy_from_slice(&(1u64 << 62).to_le_bytes());
        assert!(matches!(decode::<FromWorker>(&packet), Err(FrameError::Decode(_))));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let _ = decode::<ToWorker>(&packet);
            let _ = decode::<FromWorker>(&packet);
            let mut framed = vec![0x5E, 0xCA, 1, 4];
            framed.extend((packet.len() as u32).to_le_bytes());
            framed.extend(&packet);
            let _ = decode::<FromWorker>(&framed);
        }
    }
}
