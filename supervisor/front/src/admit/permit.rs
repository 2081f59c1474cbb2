//! Room: how many bytes of requests this server holds at once, over all models.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The room of the whole server.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    taken: AtomicU64,
}

/// A share of the room; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    /// Room for this many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicU64::new(0) })
    }

    /// Takes a share, or nothing. A share larger than the whole room is given when the room is empty: otherwise a
    /// request within its own limit could never be served.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let fits = |taken: u64| {
            let sum = taken.checked_add(bytes)?;
            (sum <= self.limit || taken == 0).then_some(sum)
        };
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.is_ok().then(|| Permit { room: Arc::clone(self), bytes })
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }
}

impl Permit {
    /// Gives back what turned out not to be needed.
    pub fn shrink(&mut self, bytes: u64) {
        let spare = self.bytes.saturating_sub(bytes);
        self.room.taken.fetch_sub(spare, Ordering::AcqRel);
        self.bytes -= spare;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_never_overbooked_and_always_given_back() {
        let room = Room::new(10);
        let mut a = room.take(6).unwrap();
        assert!(room.take(5).is_none());
        a.shrink(2);
        let b = room.take(8).unwrap();
        assert!(room.take(1).is_none());
        drop((a, b));
        assert_eq!(room.taken(), 0);
        drop(room.take(100).unwrap());
        assert!(room.take(u64::MAX).is_some());
        assert_eq!(room.taken(), 0);
    }
}
