//! How far a worker's arenas are filled, and what of them is given back. Their pages are taken when they are first touched;
//! what the last requests did not need any more goes back to the system after a rest. A small part of each slot stays: to
//! take it anew for every request would cost more than it holds.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use casemate_ipc::shm::seal;

/// The arenas of one worker.
#[derive(Debug)]
pub struct Tides {
    /// Both arenas: requests, responses.
    files: [OwnedFd; 2],
    slot_bytes: [u64; 2],
    marks: Vec<[Mark; 2]>,
    rest: Duration,
    due: Option<Instant>,
}

/// How far a slot of an arena is filled.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// By anybody, since it was last given back.
    highest: u64,
    /// Since the clock last struck.
    lately: u64,
}

/// Bytes of a slot that are never given back.
pub const KEPT: u64 = 1 << 20;

impl Tides {
    /// Arenas that nobody has written yet. The slots of both are as long as this; unused pages are given back after `rest`.
    pub fn new(files: [OwnedFd; 2], slots: u32, slot_bytes: [u64; 2], rest: Duration) -> Self {
        let marks = (0..slots).map(|_| <[Mark; 2]>::default()).collect();
        Self { files, slot_bytes, marks, rest, due: None }
    }

    /// A slot is free again; so many bytes of it were used in each arena, as far as is known.
    pub fn landed(&mut self, slot: u32, used: [u64; 2], now: Instant) {
        let Some(marks) = usize::try_from(slot).ok().and_then(|slot| self.marks.get_mut(slot)) else { return };
        for ((mark, used), whole) in marks.iter_mut().zip(used).zip(self.slot_bytes) {
            mark.lately = mark.lately.max(used.min(whole));
            mark.highest = mark.highest.max(mark.lately);
            if mark.highest > KEPT && self.due.is_none() {
                self.due = Some(now + self.rest);
            }
        }
    }

    /// When to look again; never, while there is nothing to give back.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives back what was not needed since the last time, in the slots that are free.
    pub fn ebb(&mut self, is_free: impl Fn(u32) -> bool, now: Instant) {
        let mut left = false;
        for (slot, marks) in (0u32..).zip(&mut self.marks) {
            for ((mark, file), whole) in marks.iter_mut().zip(&self.files).zip(self.slot_bytes) {
                let keep = mark.lately.max(KEPT).next_multiple_of(PAGE);
                if mark.highest > keep && is_free(slot) {
                    // To the end: what a worker has touched beyond its answer goes too.
                    let start = u64::from(slot) * whole + keep;
                    if let Err(error) = seal::release(file, start, whole.saturating_sub(keep)) {
                        tracing::warn!(%error, "an arena's pages could not be given back");
                    }
                    mark.highest = keep;
                }
                if is_free(slot) {
                    mark.lately = 0;
                }
                left |= mark.highest > KEPT;
            }
        }
        self.due = left.then(|| now + self.rest);
    }
}

const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use casemate_ipc::launch::Geometry;
    use casemate_ipc::shm::arena;
    use casemate_ipc::tensor::{DType, Shape};

    use super::*;

    const SLOT: u64 = 8 << 20;
    const REST: Duration = Duration::from_secs(5);

    /// Pages that a memory file holds.
    fn held(file: &OwnedFd) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::File::from(file.try_clone().unwrap()).metadata().unwrap().blocks() * 512
    }

    #[test]
    fn what_is_no_longer_needed_is_given_back_and_the_rest_stays() {
        let geometry = Geometry { slots: 2, slot_bytes: SLOT };
        let (writer, file) = arena::requests(geometry).unwrap();
        let (_reader, other) = arena::responses(geometry).unwrap();
        let mut tides = Tides::new([file, other], 2, [SLOT, SLOT], REST);
        let start = Instant::now();
        let place = |slot: u32, bytes: u64| {
            let data = vec![7; usize::try_from(bytes).unwrap()];
            let shape = Shape::new(vec![bytes]).unwrap();
            writer.slot(slot).unwrap().place(DType::Uint8, shape, &[&data]).unwrap();
        };
        tides.landed(0, [KEPT, KEPT], start);
        assert_eq!(tides.due(), None, "little is no reason to look");
        place(0, SLOT);
        place(1, SLOT);
        tides.landed(0, [SLOT, 100], start);
        tides.landed(1, [SLOT, u64::MAX], start);
        assert_eq!((held(&tides.files[0]), tides.due()), (2 * SLOT, Some(start + REST)));
        // All of it was needed lately.
        tides.ebb(|_| true, start);
        assert_eq!((held(&tides.files[0]), tides.due()), (2 * SLOT, Some(start + REST)));
        // A slot that is in use is left alone; of the other, what was needed since stays.
        tides.landed(0, [2 * KEPT, 0], start);
        tides.ebb(|slot| slot == 0, start);
        assert_eq!(held(&tides.files[0]), 2 * KEPT + SLOT);
        tides.ebb(|_| true, start);
        tides.ebb(|_| true, start);
        assert_eq!(held(&tides.files[0]), 2 * KEPT);
        assert_eq!(tides.due(), None);
        // It can be used again.
        place(1, SLOT);
        tides.landed(1, [SLOT, 0], start);
        assert_eq!((held(&tides.files[0]), tides.due()), (KEPT + SLOT, Some(start + REST)));
    }
}
