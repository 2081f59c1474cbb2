//! How often each latency was seen, in a fixed amount of memory: buckets whose width is at most 1/128 of what they hold.

use std::time::Duration;

/// Latencies by bucket.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    least: u64,
    most: u64,
}

/// Bits of a number that its bucket keeps.
const KEPT: u32 = 8;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; place(u64::MAX) + 1], count: 0, sum: 0, least: u64::MAX, most: 0 }
    }
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(place(ns)) {
            *bucket = bucket.saturating_add(1);
        }
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(u128::from(ns));
        (self.least, self.most) = (self.least.min(ns), self.most.max(ns));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latency that this share of all does not exceed, to within 1 %; zero where there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0_u64;
        let found = self.buckets.iter().position(|bucket| {
            seen = seen.saturating_add(*bucket);
            seen >= rank
        });
        found.map_or(Duration::ZERO, |place| Duration::from_nanos(top(place).clamp(self.least, self.most)))
    }

    /// The mean; zero where there are none.
    pub fn mean(&self) -> Duration {
        let mean = self.sum.checked_div(u128::from(self.count)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The longest; zero where there are none.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.most)
    }
}

/// The bucket of a number: the number itself up to 255, above that its highest eight bits and how far they were shifted.
fn place(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(KEPT);
    // At most 56 · 128 + 255.
    usize::try_from((u64::from(shift) << (KEPT - 1)) + (ns >> shift)).unwrap_or(0)
}

/// The greatest number of a bucket.
fn top(place: usize) -> u64 {
    let half = 1_usize << (KEPT - 1);
    let shift = (place / half).saturating_sub(1);
    let kept = (place - shift * half) as u64;
    ((u128::from(kept) + 1) << shift).saturating_sub(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_numbers_and_no_others() {
        let mut last = 0;
        for ns in (0..2000).chain([1 << 20, (1 << 20) + 1, 123_456_789, u64::MAX >> 1, u64::MAX]) {
            let place = place(ns);
            assert!(place >= last, "{ns}");
            last = place;
            let top = top(place);
            assert!(top >= ns && top - ns <= ns / 128, "{ns} in a bucket up to {top}");
            assert_eq!(super::place(top), place, "{ns}");
        }
    }

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (Duration::ZERO, Duration::ZERO));
        (1..=10_000).for_each(|us| histogram.add(Duration::from_micros(us)));
        for (share, us) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0), (1.0, 10_000.0), (0.0, 1.0)] {
            let found = histogram.quantile(share).as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.01, "{share}: {found}, not {us}");
        }
        assert_eq!(histogram.longest(), Duration::from_millis(10));
        assert_eq!((histogram.mean(), histogram.count()), (Duration::from_nanos(5_000_500), 10_000));
    }
}
