//! How fast a model's queue empties, as it was seen: how long somebody who comes now will wait. Pure: time comes in.
//!
//! Measured only while somebody was left behind by each batch, so it says nothing of a model that has time, and nobody is
//! refused for a model's slow day once its queue is empty.

use std::time::{Duration, Instant};

/// What was seen of one queue.
#[derive(Debug, Default)]
pub struct Tempo {
    /// When the last batch left, if it left somebody behind.
    since: Option<Instant>,
    /// When anything was last seen.
    last: Option<Instant>,
    /// Time between batches with somebody waiting all along, and what left in it.
    busy: Duration,
    jobs: u32,
    departures: u32,
    /// A usual run of a batch.
    run: Duration,
}

/// So many batches, and so long a time, are the memory; at twice that, half is forgotten.
const DEPARTURES: u32 = 8;
const WINDOW: Duration = Duration::from_millis(250);
/// Fewer say nothing.
const ENOUGH: u32 = 2;
/// What was seen before so long a rest says nothing either.
const STALE: Duration = Duration::from_secs(60);

impl Tempo {
    /// A batch of so many left, and left so many behind.
    pub fn departed(&mut self, jobs: usize, behind: usize, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > STALE) {
            let run = self.run;
            *self = Self { run, ..Self::default() };
        }
        if let Some(since) = self.since {
            self.busy += now.saturating_duration_since(since);
            self.jobs = self.jobs.saturating_add(u32::try_from(jobs).unwrap_or(u32::MAX));
            self.departures += 1;
            if self.departures >= 2 * DEPARTURES && self.busy >= 2 * WINDOW {
                (self.busy, self.jobs, self.departures) = (self.busy / 2, self.jobs / 2, self.departures / 2);
            }
        }
        self.last = Some(now);
        self.since = (behind > 0).then_some(now);
    }

    /// The pause that comes now is not the model's pace: its worker is gone, or nobody is left.
    pub fn interrupted(&mut self) {
        self.since = None;
    }

    /// A batch ran so long.
    pub fn ran(&mut self, run: Duration) {
        self.run = if self.run.is_zero() { run } else { (self.run * 7 + run) / 8 };
    }

    /// How long a batch usually runs; zero where none has.
    pub fn run(&self) -> Duration {
        self.run
    }

    /// How long it takes until so many have left; nothing where that cannot be told.
    pub fn wait(&self, ahead: usize) -> Option<Duration> {
        if self.departures < ENOUGH || self.jobs == 0 {
            return None;
        }
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
        Some(self.busy.saturating_mul(ahead) / self.jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_a_queue_that_never_empties_tells_a_pace() {
        let mut tempo = Tempo::default();
        let start = Instant::now();
        for n in 0..100 {
            tempo.departed(1, 0, start + 100 * n * MS);
        }
        assert_eq!(tempo.wait(1000), None, "nobody ever waited");
        let start = start + 10_000 * MS;
        for n in 0..4 {
            tempo.departed(2, 5, start + 10 * n * MS);
        }
        // Three pauses of 10 ms, two left after each.
        assert_eq!(tempo.wait(6), Some(30 * MS));
        assert_eq!(tempo.wait(0), Some(Duration::ZERO));
        tempo.interrupted();
        tempo.departed(2, 5, start + 5000 * MS);
        assert_eq!(tempo.wait(6), Some(30 * MS), "a worker's restart is not its pace");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut tempo = Tempo::default();
        let start = Instant::now();
        for n in 0..40 {
            tempo.departed(1, 1, start + 1000 * n * MS);
        }
        assert_eq!(tempo.wait(1), Some(1000 * MS));
        let start = start + 40_000 * MS;
        for n in 0..40 {
            tempo.departed(1, 1, start + 100 * n * MS);
        }
        assert!(tempo.wait(1).is_some_and(|wait| wait < 150 * MS), "{:?}", tempo.wait(1));
        tempo.departed(1, 1, start + 1_000_000 * MS);
        assert_eq!(tempo.wait(1), None);
    }
}
