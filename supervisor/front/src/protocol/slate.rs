//! Short texts of requests and answers, written one behind the other into blocks that are used again: a short text of its own
//! would be one or two more allocations for each.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Where they are written. A clone is the same slate.
#[derive(Debug, Clone, Default)]
pub struct Slate(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    /// What is being written, until its length is known.
    draft: Vec<u8>,
    /// The block; what is ahead in it belongs to those who had it written.
    block: BytesMut,
}

/// Longest text that goes into a block, in bytes.
pub const SHORT: usize = 2048;
/// What one text may keep from being used again as long as it is held. hyper's own buffer is as long.
const BLOCK: usize = 8192;

impl Slate {
    /// These bytes, once more. Whoever holds them keeps nothing else alive but a block.
    pub fn copy(&self, bytes: &[u8]) -> Bytes {
        self.write(|draft| draft.extend_from_slice(bytes)).0
    }

    /// What `write` writes, and what it gives. A long text gets memory of its own.
    pub fn write<T>(&self, write: impl FnOnce(&mut Vec<u8>) -> T) -> (Bytes, T) {
        // What is half written is cleared before the next one.
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Written { draft, block } = &mut *written;
        draft.clear();
        let given = write(draft);
        if draft.len() > SHORT {
            return (Bytes::from(std::mem::take(draft)), given);
        }
        if block.capacity() < draft.len() {
            block.reserve(BLOCK);
        }
        block.extend_from_slice(draft);
        (block.split().freeze(), given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_stays_as_it_was() {
        let slate = Slate::default();
        let texts: Vec<Bytes> = (0..5000).map(|n: u32| slate.copy(n.to_string().as_bytes())).collect();
        assert!(texts.iter().enumerate().all(|(n, text)| *text == n.to_string()));
        let long = vec![7; SHORT + 1];
        assert_eq!(slate.copy(&long), long);
        assert_eq!(slate.write(|draft| draft.push(b'x')), (Bytes::from_static(b"x"), ()));
        assert!(slate.copy(b"").is_empty());
    }

    #[test]
    fn a_block_that_nobody_holds_is_used_again() {
        let slate = Slate::default();
        let places: std::collections::BTreeSet<usize> =
            (0..5000).map(|_| slate.copy(&[1; 1000]).as_ptr().addr()).collect();
        assert!(places.len() < 20, "{} places", places.len());
    }
}
