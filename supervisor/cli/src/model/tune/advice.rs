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

/// What twice the threads must bring, at the least: they are CPUs that a neighbour does not have.
const THREADS_PAY: f64 = 1.1;
/// How near to the best throughput a smaller batch must be to be preferred: everybody in a batch waits for all of it.
const NEAR: f64 = 0.95;

impl Advice {
    pub(super) fn of(all: &[Figure]) -> Self {
        let best = |threads: u32| -> Vec<&Figure> {
            let known = all.iter().any(|one| one.threads == threads && one.known);
            all.iter().filter(|one| one.threads == threads && one.known == known).collect()
        };
        let alone = |threads: u32| best(threads).iter().find(|one| one.rows == 1).map(|one| one.seconds);
        let mut threads = 1;
        while let (Some(now), Some(twice)) = (alone(threads), alone(threads * 2)) {
            if now <= twice * THREADS_PAY {
                break;
            }
            threads *= 2;
        }
        let speed = |one: &Figure| f64::from(one.rows) / one.seconds;
        let figures = best(threads);
        let most = figures.iter().map(|one| speed(one)).fold(0.0, f64::max);
        let rows = figures.iter().filter(|one| speed(one) >= most * NEAR).map(|one| one.rows).min().unwrap_or(1);
        Self { threads, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(threads: u32, known: bool, rows: u32, ms: f64) -> Figure {
        Figure { threads, known, rows, seconds: ms / 1e3 }
    }

    #[test]
    fn a_thread_and_a_row_must_pay() {
        let off = [figure(1, false, 1, 60.0), figure(1, false, 2, 120.0)];
        let flat = [figure(1, true, 1, 40.0), figure(1, true, 2, 79.0), figure(2, true, 1, 37.0)];
        assert_eq!(Advice::of(&[&off[..], &flat].concat()), Advice { threads: 1, rows: 1 });
        let steep =
            [figure(1, true, 1, 40.0), figure(2, true, 1, 22.0), figure(2, true, 2, 25.0), figure(2, true, 4, 49.0)];
        assert_eq!(Advice::of(&[&off[..], &steep].concat()), Advice { threads: 2, rows: 2 });
        assert_eq!(Advice::of(&off), Advice { threads: 1, rows: 1 });
        assert_eq!(Advice::of(&[]), Advice { threads: 1, rows: 1 });
    }
}
