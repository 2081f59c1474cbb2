//! From figures to two numbers.

/// One setting, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figure {
    /// For one operation.
    pub(super) threads: u32,
    /// Whether the convolutions were known.
    pub(super) known: bool,
    /// In one run.
    pub(super) rows: u32,
    /// That a client waited: the median.
    pub(super) seconds: f64,
}

/// What to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advice {
    /// For one operation.
    pub(super) threads: u32,
    /// Most in one run.
    pub(super) rows: u32,
}

/// Two settings that were asked in turns.
#[derive(Debug)]
pub(super) struct Duel {
    /// Seconds for one row in each round: of the one, of the other.
    pub(super) rounds: Vec<(f64, f64)>,
}

/// What twice the threads must bring, at the least: they are CPUs that a neighbour does not have.
const THREADS_PAY: f64 = 1.1;
/// What freezing must bring, at the least.
const FREEZING_PAYS: f64 = 1.05;
/// How near to the best throughput a smaller batch must be to be preferred: everybody in a batch waits for all of it.
const NEAR: f64 = 0.95;

impl Advice {
    /// With so many threads, what to set.
    pub(super) fn of(all: &[Figure], threads: u32) -> Self {
        let known = all.iter().any(|one| one.threads == threads && one.known);
        let figures: Vec<_> = all.iter().filter(|one| one.threads == threads && one.known == known).collect();
        let speed = |one: &Figure| f64::from(one.rows) / one.seconds;
        let most = figures.iter().map(|one| speed(one)).fold(0.0, f64::max);
        let rows = figures.iter().filter(|one| speed(one) >= most * NEAR).map(|one| one.rows).min().unwrap_or(1);
        Self { threads, rows }
    }
}

impl Duel {
    /// The median of each.
    pub(super) fn seconds(&self) -> (f64, f64) {
        let median = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
        };
        (
            median(self.rounds.iter().map(|round| round.0).collect()),
            median(self.rounds.iter().map(|round| round.1).collect()),
        )
    }

    /// Whether twice the threads pay.
    pub(super) fn threads_pay(&self) -> bool {
        self.surely(THREADS_PAY)
    }

    /// Whether freezing pays.
    pub(super) fn freezing_pays(&self) -> bool {
        self.surely(FREEZING_PAYS)
    }

    /// Whether the other is so many times faster in all rounds but one: chance does not do that, and a neighbour spoils one.
    fn surely(&self, times: f64) -> bool {
        let won = self.rounds.iter().filter(|(one, other)| *one > other * times).count();
        won > 0 && won + 1 >= self.rounds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(threads: u32, known: bool, rows: u32, ms: f64) -> Figure {
        Figure { threads, known, rows, seconds: ms / 1e3 }
    }

    #[test]
    fn a_row_must_pay() {
        let off = [figure(1, false, 1, 60.0), figure(1, false, 2, 120.0)];
        let flat = [figure(1, true, 1, 40.0), figure(1, true, 2, 79.0), figure(2, true, 1, 37.0)];
        assert_eq!(Advice::of(&[&off[..], &flat].concat(), 1), Advice { threads: 1, rows: 1 });
        let steep =
            [figure(1, true, 1, 40.0), figure(2, true, 1, 22.0), figure(2, true, 2, 25.0), figure(2, true, 4, 49.0)];
        assert_eq!(Advice::of(&[&off[..], &steep].concat(), 2), Advice { threads: 2, rows: 2 });
        assert_eq!(Advice::of(&off, 1), Advice { threads: 1, rows: 1 });
        assert_eq!(Advice::of(&[], 1), Advice { threads: 1, rows: 1 });
    }

    #[test]
    fn what_pays_is_faster_in_nearly_every_round() {
        let duel = |rounds: &[(f64, f64)]| Duel { rounds: rounds.to_vec() };
        let pays = [(1.2, 1.0), (1.3, 1.0), (1.2, 1.0), (9.0, 1.0)];
        assert!(duel(&pays).threads_pay());
        assert!(duel(&[&pays[..], &[(1.0, 5.0)]].concat()).threads_pay(), "a neighbour spoils one round");
        assert!(!duel(&[&pays[..], &[(1.0, 5.0), (1.05, 1.0)]].concat()).threads_pay());
        // Some gain is enough for what costs a neighbour nothing.
        let little = duel(&[(1.08, 1.0), (1.09, 1.0), (1.07, 1.0)]);
        assert!(!little.threads_pay() && little.freezing_pays());
        assert_eq!(duel(&pays).seconds(), (1.3, 1.0));
        assert!(!duel(&[]).threads_pay());
    }
}
