//! What came of a load: how many answers of which kind, and how long the good ones took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::generator::{Outcome, Sample};
use crate::histogram::Histogram;

/// Counts, from the first request to the last answer.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Latencies of answers with status 200.
    pub good: Histogram,
    /// Other answers by their status.
    pub refused: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    span: Option<(Instant, Instant)>,
}

impl Tally {
    /// One more.
    pub fn add(&mut self, sample: &Sample) {
        match sample.outcome {
            Outcome::Answered(200) => self.good.add(sample.took),
            Outcome::Answered(status) => *self.refused.entry(status).or_default() += 1,
            Outcome::Unanswered(_) => self.unanswered += 1,
        }
        let end = sample.due + sample.took;
        let (first, last) = self.span.unwrap_or((sample.due, end));
        self.span = Some((first.min(sample.due), last.max(end)));
    }

    /// Requests that were not answered with 200.
    pub fn failed(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.unanswered
    }

    /// From the first request to the last answer.
    pub fn lasted(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Good answers in a second.
    pub fn per_second(&self) -> f64 {
        let seconds = self.lasted().as_secs_f64();
        if seconds > 0.0 { self.good.count() as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn only_good_answers_have_a_latency() {
        let (begun, mut tally) = (Instant::now(), Tally::default());
        let ms = Duration::from_millis;
        let outcomes = [Outcome::Answered(200), Outcome::Answered(503), Outcome::Unanswered(ErrorKind::TimedOut)];
        for (at, outcome) in (0..).zip(outcomes) {
            tally.add(&Sample { due: begun + ms(at * 100), took: ms(50), outcome });
        }
        assert_eq!((tally.good.count(), tally.failed(), tally.unanswered), (1, 2, 1));
        assert_eq!(tally.refused, BTreeMap::from([(503, 1)]));
        assert_eq!(tally.lasted(), ms(250));
        assert!((tally.per_second() - 4.0).abs() < 1e-9);
    }
}
