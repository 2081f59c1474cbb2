//! How long to look out for an answer before going to sleep over it.
//!
//! Sleeping costs a wake-up, which on a virtual machine takes longer than a small model runs. Looking costs the CPU for as
//! long as it lasts; and where the worker has no other CPU to run on, looking is what keeps the answer from coming. So it is
//! done where answers have been coming soon, and whoever has looked in vain does it less and less often.

use std::time::{Duration, Instant};

/// What one worker's answers have taught.
#[derive(Debug)]
pub struct Vigil {
    most: Duration,
    /// How long answers have taken lately.
    usual: Duration,
    /// Answers that are slept over before the next look.
    rest: u32,
    /// How many that will be the next time.
    penance: u32,
}

impl Vigil {
    /// At most so long; nothing where nobody is to look at all.
    pub fn new(most: Duration) -> Self {
        Self { most, usual: Duration::ZERO, rest: 0, penance: 0 }
    }

    /// An answer came after this time.
    pub fn learn(&mut self, took: Duration) {
        match (self.looks(), took > self.most) {
            (true, true) => {
                self.penance = self.penance.saturating_mul(2).clamp(1, LONGEST);
                self.rest = self.penance;
            }
            (true, false) => self.penance /= 2,
            (false, _) => self.rest = self.rest.saturating_sub(1),
        }
        // One that took for ever says no more than one that took too long.
        let took = took.min(self.most.saturating_mul(2));
        self.usual = (self.usual.saturating_mul(7) + took) / 8;
    }

    /// Until when to look for the answer to what was given at `since`; not at all where it is likely to come later.
    pub fn until(&self, since: Instant) -> Option<Instant> {
        self.looks().then(|| since + self.most)
    }

    fn looks(&self) -> bool {
        self.rest == 0 && self.usual < self.most
    }
}

/// Most answers that are slept over for one look in vain.
const LONGEST: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// How many of so many answers are looked for, where a look delays them by itself.
    fn looks(vigil: &mut Vigil, answers: usize, slept: Duration, looked: Duration) -> usize {
        let now = Instant::now();
        let look = |_: &usize| {
            let looks = vigil.until(now).is_some();
            vigil.learn(if looks { looked } else { slept });
            looks
        };
        (0..answers).filter(look).count()
    }

    #[test]
    fn slow_answers_are_slept_over_and_quick_ones_are_not() {
        let (quick, slow) = (Duration::from_micros(20), Duration::from_secs(9));
        let mut vigil = Vigil::new(MOST);
        assert_eq!(looks(&mut vigil, 100, quick, quick), 100);
        vigil.learn(slow);
        assert!(looks(&mut vigil, 100, quick, quick) >= 98, "one slow answer is no habit");
        assert!(looks(&mut vigil, 1000, slow, slow) < 10);
        assert!(looks(&mut vigil, 3000, quick, quick) > 900, "what was slow may be quick again");
        assert_eq!(looks(&mut Vigil::new(Duration::ZERO), 100, quick, quick), 0);
    }

    #[test]
    fn who_keeps_the_answer_away_by_looking_soon_stops() {
        // The worker has no CPU of its own: whoever sleeps has the answer at once, whoever looks has it afterwards.
        let found = looks(&mut Vigil::new(MOST), 10_000, Duration::from_micros(20), Duration::from_micros(70));
        assert!(found < 30, "{found}");
    }
}
