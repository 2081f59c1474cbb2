//! How late this machine is by itself, so that a promise about time is held against the server and not against whatever
//! else runs here: a thread sleeps for a moment, again and again, and adds up by how much it woke too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The thread, and what it found so far.
#[derive(Debug)]
pub struct Lag {
    stop: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

const MOMENT: Duration = Duration::from_millis(5);
/// A machine that is later than this forgives nothing more: a server that takes the whole machine must be found out.
const MOST: Duration = Duration::from_secs(3);

impl Lag {
    /// Begins to look.
    pub fn watch() -> Self {
        let (stop, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, sum) = (Arc::clone(&stop), Arc::clone(&late));
        let thread = thread::spawn(move || {
            let mut due = Instant::now() + MOMENT;
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let over = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                sum.fetch_add(over, Ordering::Relaxed);
                due = Instant::now() + MOMENT;
            }
        });
        Self { stop, late, thread: Some(thread) }
    }

    /// By how much the machine was late in all, at most a bound.
    pub fn so_far(&self) -> Duration {
        Duration::from_micros(self.late.load(Ordering::Relaxed)).min(MOST)
    }

    /// Does something that must be done within `limit` on a machine that is never late.
    #[track_caller]
    pub fn within<T>(limit: Duration, what: &str, act: impl FnOnce() -> T) -> T {
        let lag = Self::watch();
        let begun = Instant::now();
        let done = act();
        let (took, late) = (begun.elapsed(), lag.so_far());
        assert!(took < limit + late, "{what} took {took:?}, on a machine that was late by {late:?}");
        done
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_by_itself_is_found_out() {
        assert_eq!(Lag::within(Duration::from_secs(5), "nothing", || 7), 7);
        let slow =
            || Lag::within(Duration::from_millis(10), "a nap", || thread::sleep(Duration::from_millis(10) + MOST * 2));
        assert!(std::panic::catch_unwind(slow).is_err(), "a machine's lag forgives no more than its bound");
    }
}
