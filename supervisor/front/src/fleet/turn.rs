//! Turns at starting. When a server starts all its models want a worker at once, and what each one does before it looks at
//! its model costs processor time: without turns every worker is slow, and all of them can be too late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// As many starts at once as there are CPUs to start on.
#[derive(Debug, Clone)]
pub struct Turns {
    free: Arc<Semaphore>,
    longest: Duration,
}

/// A place among those that start; given back when it is dropped, or by itself when it was held for too long.
///
/// It is for what comes before a worker has verified its model, which is code of this project alone: no model can hold a
/// turn, however it loads.
#[derive(Debug)]
pub struct Turn {
    /// When it came.
    pub since: Instant,
    /// Its drop ends the turn; nothing is ever sent.
    _held: oneshot::Sender<()>,
}

/// A worker of ours has verified its model long before.
const LONGEST: Duration = Duration::from_secs(10);

impl Turns {
    /// For a machine of so many CPUs.
    pub fn new(cpus: usize) -> Self {
        Self::of(cpus, LONGEST)
    }

    fn of(places: usize, longest: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), longest }
    }

    /// Waits for a turn; who came first has it first.
    pub async fn take(&self) -> Turn {
        // Nobody closes it; if somebody did, everybody's turn would have come.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (held, dropped) = oneshot::channel();
        tokio::spawn(keep(place, dropped, self.longest));
        Turn { since: Instant::now(), _held: held }
    }
}

async fn keep(place: Option<OwnedSemaphorePermit>, dropped: oneshot::Receiver<()>, longest: Duration) {
    if timeout(longest, dropped).await.is_err() {
        tracing::warn!("a worker has not verified its model yet; it goes on, and the next one starts beside it");
    }
    drop(place);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_turn_comes_when_another_is_over() {
        let turns = Turns::of(2, LATE);
        let (first, _second) = (turns.take().await, turns.take().await);
        assert!(timeout(SOON, turns.take()).await.is_err(), "there were two places and three turns");
        drop(first);
        let third = timeout(LATE, turns.take()).await.unwrap();
        assert!(third.since <= Instant::now());
    }

    #[tokio::test]
    async fn nobody_holds_a_turn_for_ever() {
        let turns = Turns::of(1, SOON);
        let _held = turns.take().await;
        let before = Instant::now();
        let _next = timeout(LATE, turns.take()).await.unwrap();
        assert!(before.elapsed() < LATE);
    }
}
