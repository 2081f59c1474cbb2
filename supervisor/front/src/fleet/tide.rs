//! How far a worker's arenas are filled, and what of them is given back. Their pages are taken when they are first touched;
//! what the last requests did not need any more goes back to the system after a rest. A small part of each slot stays: to
//! take it anew for every request would cost more than it holds.
//!
//! Giving back takes the kernel as long as it takes to free the pages, so a desk does it, one slot after the other. A slot is
//! nobody's meanwhile; there is one more than a worker has instances, so that none of these has to wait for it.

use std::future::pending;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::shm::seal;

use super::flight::Flight;
use crate::desk::{Desk, Errand};

/// The arenas of one worker.
#[derive(Debug)]
pub struct Tides {
    /// Both arenas: requests, responses.
    files: Arc<[OwnedFd; 2]>,
    slot_bytes: [u64; 2],
    marks: Vec<[Mark; 2]>,
    rest: Duration,
    due: Option<Instant>,
    /// Slots that were looked at this time.
    looked: u32,
    desk: Desk,
    ebbing: Option<Ebbing>,
}

/// How far a slot of an arena is filled.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// By anybody, since it was last given back.
    highest: u64,
    /// Since the clock last struck.
    lately: u64,
}

/// A slot whose pages are being given back.
#[derive(Debug)]
struct Ebbing {
    slot: u32,
    errand: Errand<()>,
}

/// Part of an arena.
#[derive(Debug, Clone, Copy)]
struct Hole {
    arena: usize,
    start: u64,
    bytes: u64,
}

/// Bytes of a slot that are never given back.
pub const KEPT: u64 = 1 << 20;

impl Tides {
    /// Arenas that nobody has written yet. The slots of both are as long as this; unused pages are given back after `rest`.
    pub fn new(files: [OwnedFd; 2], slots: u32, slot_bytes: [u64; 2], rest: Duration, desk: Desk) -> Self {
        let marks = (0..slots).map(|_| <[Mark; 2]>::default()).collect();
        Self { files: Arc::new(files), slot_bytes, marks, rest, due: None, looked: 0, desk, ebbing: None }
    }

    /// A slot is free again; so many bytes of it were used in each arena, as far as is known.
    pub fn landed(&mut self, slot: u32, used: [u64; 2], now: Instant) {
        let Some(marks) = usize::try_from(slot).ok().and_then(|slot| self.marks.get_mut(slot)) else { return };
        for ((mark, used), whole) in marks.iter_mut().zip(used).zip(self.slot_bytes) {
            mark.lately = mark.lately.max(used.min(whole));
            mark.highest = mark.highest.max(mark.lately);
            // While it is being looked, what comes next is known at the end of that.
            if mark.highest > KEPT && self.due.is_none() && self.ebbing.is_none() {
                self.due = Some(now + self.rest);
            }
        }
    }

    /// When to look again; never, while there is nothing to give back.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at the slots that are free, and gives back what was not needed since the last time: of the next slot that has
    /// such a thing, which is taken out of the flight. To be called again when that has [ebbed](Self::ebbed).
    pub fn ebb(&mut self, flight: &mut Flight, now: Instant) {
        self.due = None;
        while let Some(slot) = self.next() {
            if !flight.is_free(slot) {
                continue;
            }
            let holes = self.holes(slot);
            if !holes.is_empty() && flight.reserve(slot) {
                let files = Arc::clone(&self.files);
                let errand = self.desk.bring(move || release(&files, &holes));
                self.ebbing = Some(Ebbing { slot, errand });
                return;
            }
        }
        self.looked = 0;
        let left = self.marks.iter().flatten().any(|mark| mark.highest > KEPT);
        self.due = left.then(|| now + self.rest);
    }

    /// Waits for what is under way, for ever where nothing is; the slot can be used again then. May be dropped half way.
    pub async fn ebbed(&mut self) -> u32 {
        let Some(Ebbing { slot, errand }) = &mut self.ebbing else { return pending().await };
        // What could not be done has been said by whom it happened to; the pages stay, and do no harm.
        let _ = errand.await;
        let slot = *slot;
        self.ebbing = None;
        slot
    }

    fn next(&mut self) -> Option<u32> {
        let slot = self.looked;
        self.looked += 1;
        ((slot as usize) < self.marks.len()).then_some(slot)
    }

    /// What a slot did not need lately; it is as good as given back.
    fn holes(&mut self, slot: u32) -> Vec<Hole> {
        let mut holes = Vec::new();
        let marks = self.marks.get_mut(slot as usize).into_iter().flatten();
        for ((arena, mark), whole) in marks.enumerate().zip(self.slot_bytes) {
            let keep = mark.lately.max(KEPT).next_multiple_of(PAGE);
            mark.lately = 0;
            if mark.highest > keep {
                mark.highest = keep;
                // To the end: what a worker has touched beyond its answer goes too.
                let (start, bytes) = (u64::from(slot) * whole + keep, whole.saturating_sub(keep));
                holes.push(Hole { arena, start, bytes });
            }
        }
        holes
    }
}

fn release(files: &[OwnedFd; 2], holes: &[Hole]) {
    for Hole { arena, start, bytes } in holes {
        let Some(file) = files.get(*arena) else { continue };
        if let Err(error) = seal::release(file, *start, *bytes) {
            tracing::warn!(%error, "an arena's pages could not be given back");
        }
    }
}

const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

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

    /// Two slots, of one that is written by this and answers of the other.
    fn rig(desk: Desk) -> (arena::Writer, Tides, Flight) {
        let geometry = Geometry { slots: 2, slot_bytes: SLOT };
        let (writer, file) = arena::requests(geometry).unwrap();
        let (_reader, other) = arena::responses(geometry).unwrap();
        (writer, Tides::new([file, other], 2, [SLOT, SLOT], REST, desk), Flight::new(2, 1, true))
    }

    fn place(writer: &arena::Writer, slot: u32, bytes: u64) {
        let data = vec![7; usize::try_from(bytes).unwrap()];
        let shape = Shape::new(vec![bytes]).unwrap();
        writer.slot(slot).unwrap().place(DType::Uint8, shape, &[&data]).unwrap();
    }

    /// A whole look.
    async fn ebb(tides: &mut Tides, flight: &mut Flight, now: Instant) {
        tides.ebb(flight, now);
        while tides.ebbing.is_some() {
            let slot = tides.ebbed().await;
            assert!(!flight.is_free(slot), "nobody may use it meanwhile");
            flight.give_back(slot);
            tides.ebb(flight, now);
        }
    }

    #[tokio::test]
    async fn what_is_no_longer_needed_is_given_back_and_the_rest_stays() {
        let (writer, mut tides, mut flight) = rig(Desk::open(1).unwrap());
        let start = Instant::now();
        tides.landed(0, [KEPT, KEPT], start);
        assert_eq!(tides.due(), None, "little is no reason to look");
        place(&writer, 0, SLOT);
        place(&writer, 1, SLOT);
        tides.landed(0, [SLOT, 100], start);
        tides.landed(1, [SLOT, u64::MAX], start);
        assert_eq!((held(&tides.files[0]), tides.due()), (2 * SLOT, Some(start + REST)));
        // All of it was needed lately.
        ebb(&mut tides, &mut flight, start).await;
        assert_eq!((held(&tides.files[0]), tides.due()), (2 * SLOT, Some(start + REST)));
        // A slot that is in use is left alone; of the other, what was needed since stays.
        tides.landed(0, [2 * KEPT, 0], start);
        assert!(flight.reserve(1));
        ebb(&mut tides, &mut flight, start).await;
        assert_eq!(held(&tides.files[0]), 2 * KEPT + SLOT);
        flight.give_back(1);
        ebb(&mut tides, &mut flight, start).await;
        ebb(&mut tides, &mut flight, start).await;
        assert_eq!(held(&tides.files[0]), 2 * KEPT);
        assert_eq!(tides.due(), None);
        // It can be used again.
        place(&writer, 1, SLOT);
        tides.landed(1, [SLOT, 0], start);
        assert_eq!((held(&tides.files[0]), tides.due()), (KEPT + SLOT, Some(start + REST)));
    }

    #[tokio::test]
    async fn a_desk_gives_back_and_no_instance_waits_for_it() {
        let desk = Desk::open(1).unwrap();
        let ((go, gone), (begin, begun)) = (channel(), channel());
        let busy = desk.bring(move || begin.send(()).is_ok() && gone.recv_timeout(Duration::from_secs(20)).is_ok());
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
        let (writer, mut tides, mut flight) = rig(desk);
        let start = Instant::now();
        place(&writer, 0, SLOT);
        place(&writer, 1, SLOT);
        tides.landed(0, [SLOT, 0], start);
        tides.landed(1, [SLOT, 0], start);
        ebb(&mut tides, &mut flight, start).await;
        // All desks are at work: nothing is done by the thread of this test, and one slot is left for a request.
        tides.ebb(&mut flight, start);
        assert_eq!(held(&tides.files[0]), 2 * SLOT);
        assert_eq!((flight.is_free(0), flight.is_free(1), flight.has_room(true)), (false, true, true));
        let waited = tokio::time::timeout(Duration::from_millis(20), tides.ebbed()).await;
        assert!(waited.is_err() && tides.due().is_none());
        go.send(()).unwrap();
        assert_eq!(busy.await, Ok(true));
        assert_eq!(tides.ebbed().await, 0);
        assert_eq!(held(&tides.files[0]), SLOT + KEPT);
        flight.give_back(0);
        assert!(flight.is_free(0) && !flight.is_free(7));
    }
}
