//! How long to look out for an answer before going to sleep over it.
//!
//! Sleeping costs a wake-up, which on a virtual machine takes longer than a small model runs. Looking costs the CPU for as
//! long as it lasts. So it is done where the answers have been coming soon, and given up where this one is late.

use std::time::{Duration, Instant};

/// What one worker's answers have taught.
#[derive(Debug)]
pub struct Vigil {
    most: Duration,
    /// How long answers have taken lately.
    usual: Duration,
}

impl Vigil {
    /// At most so long; nothing where nobody is to look at all.
    pub fn new(most: Duration) -> Self {
        Self { most, usual: Duration::ZERO }
    }

    /// An answer came after this time.
    pub fn learn(&mut self, took: Duration) {
        // One that took for ever says no more than one that took too long.
        let took = took.min(self.most.saturating_mul(2));
        self.usual = (self.usual.saturating_mul(7) + took) / 8;
    }

    /// Until when to look for the answer to what was given at `since`; not at all where it is likely to come later.
    pub fn until(&self, since: Instant) -> Option<Instant> {
        let worth = !self.most.is_zero() && self.usual < self.most;
        worth.then(|| since + self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_answers_are_slept_over_and_quick_ones_are_not() {
        let (now, micros) = (Instant::now(), Duration::from_micros);
        let mut vigil = Vigil::new(micros(50));
        assert_eq!(vigil.until(now), Some(now + micros(50)));
        (0..20).for_each(|_| vigil.learn(Duration::from_secs(9)));
        assert_eq!(vigil.until(now), None);
        (0..20).for_each(|_| vigil.learn(micros(20)));
        assert_eq!(vigil.until(now), Some(now + micros(50)));
        vigil.learn(Duration::from_secs(9));
        assert_eq!(vigil.until(now), Some(now + micros(50)), "one slow answer is no habit");
        assert_eq!(Vigil::new(Duration::ZERO).until(now), None);
    }
}
