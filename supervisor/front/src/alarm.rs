//! A timer for a time that is put off again and again, as a deadline is by every request. It stays with the reactor, and
//! is moved only when it would ring too late: a timer that is made and dropped each time costs a request two calls of
//! the kernel whenever it is the next one to ring.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

/// One timer.
#[derive(Debug)]
pub struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// One that rings for nothing yet.
    pub fn new() -> Self {
        Self(Box::pin(sleep(FAR)))
    }

    /// Waits until then; for ever without a time. May be dropped half way, and asked again with another time.
    pub async fn ring(&mut self, due: Option<Instant>) {
        poll_fn(|cx| self.poll(due, cx)).await;
    }

    /// The same for who polls by hand.
    pub fn poll(&mut self, due: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        // Whatever it was set for before may wake the task once more; that does no harm.
        let Some(due) = due.map(tokio::time::Instant::from) else { return Poll::Pending };
        loop {
            if due < self.0.deadline() {
                self.0.as_mut().reset(due);
            }
            ready!(self.0.as_mut().poll(cx));
            if due <= self.0.deadline() {
                return Poll::Ready(());
            }
            // It rang for a time that was put off since.
            self.0.as_mut().reset(due);
        }
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

/// Longer than any time that is waited for here.
const FAR: Duration = Duration::from_secs(86_400 * 365);

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_the_time_that_was_asked_for_last() {
        let millis = Duration::from_millis;
        let (mut alarm, start) = (Alarm::new(), Instant::now());
        assert!(timeout(millis(5), alarm.ring(None)).await.is_err());
        assert!(timeout(millis(5), alarm.ring(Some(start + millis(30)))).await.is_err());
        // Put off: it must not ring at the earlier time.
        alarm.ring(Some(start + millis(80))).await;
        assert!(start.elapsed() >= millis(80));
        // Brought forward: it must not wait for the later one.
        assert!(timeout(millis(1), alarm.ring(Some(start + Duration::from_secs(90)))).await.is_err());
        timeout(Duration::from_secs(20), alarm.ring(Some(start))).await.unwrap();
    }
}
