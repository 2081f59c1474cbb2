//! How many speak at once. Each of them has a parser and its buffers, some 12 KiB. What the allocator took for a crowd it
//! would keep, since whoever stays has something small among it; so once many have fallen silent it gives that back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::heap;

/// All conversations of a server. A clone is the same crowd.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    speaking: AtomicUsize,
    /// Most that spoke at once since memory was last given back.
    most: AtomicUsize,
    /// Requests that are being answered.
    asking: AtomicUsize,
    thinned: Notify,
}

/// One conversation, until it is dropped.
#[derive(Debug)]
pub(super) struct Speaker(Crowd);

/// One request, until it is dropped.
#[derive(Debug)]
pub(super) struct Asker(Crowd);

/// So many fewer than there were are worth a look: some 6 MiB.
const MANY: usize = 500;
/// How long a quiet moment is waited for at a time.
const PAUSE: Duration = Duration::from_secs(1);
/// At least so long after it was given back: it keeps the reactor for a moment, and nobody is to have that at will.
const REST: Duration = Duration::from_secs(30);
/// So many pauses in which somebody is being answered; then whoever is, waits some milliseconds longer.
const PATIENCE: u32 = 10;

impl Crowd {
    /// One more conversation.
    pub(super) fn join(&self) -> Speaker {
        let now = self.0.speaking.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(now, Ordering::Relaxed);
        Speaker(self.clone())
    }

    /// One more request.
    pub(super) fn ask(&self) -> Asker {
        self.0.asking.fetch_add(1, Ordering::Relaxed);
        Asker(self.clone())
    }

    /// Whenever the crowd has thinned out, gives its memory back in a quiet moment. Never ends.
    pub(super) async fn tidy(&self) {
        loop {
            self.0.thinned.notified().await;
            for _ in 0..PATIENCE {
                sleep(PAUSE).await;
                if self.0.asking.load(Ordering::Relaxed) == 0 {
                    break;
                }
            }
            let Counts { speaking, most, .. } = &*self.0;
            let now = speaking.load(Ordering::Relaxed);
            // Whoever fell silent since then has told it again.
            if most.swap(now, Ordering::Relaxed).saturating_sub(now) >= MANY {
                heap::give_back();
                sleep(REST).await;
            }
        }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let Counts { speaking, most, thinned, .. } = &*self.0.0;
        let now = speaking.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        if most.load(Ordering::Relaxed).saturating_sub(now) >= MANY {
            thinned.notify_one();
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Whether somebody is to look.
    async fn thinned(crowd: &Crowd) -> bool {
        timeout(Duration::from_millis(1), crowd.0.thinned.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn only_many_who_fall_silent_are_worth_a_look() {
        let crowd = Crowd::default();
        let mut speakers: Vec<_> = (0..MANY + 10).map(|_| crowd.join()).collect();
        assert!(!thinned(&crowd).await, "they speak");
        speakers.truncate(11);
        assert!(!thinned(&crowd).await, "one too few");
        speakers.truncate(10);
        assert!(thinned(&crowd).await);
        // Few who come and go are no crowd, however often.
        crowd.0.most.store(speakers.len(), Ordering::Relaxed);
        for _ in 0..2 * MANY {
            drop((crowd.join(), crowd.ask()));
        }
        assert!(!thinned(&crowd).await);
        assert_eq!((crowd.0.speaking.load(Ordering::Relaxed), crowd.0.asking.load(Ordering::Relaxed)), (10, 0));
    }
}
