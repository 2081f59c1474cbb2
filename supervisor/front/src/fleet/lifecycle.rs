//! What comes after a worker: another one, when, or none. Pure: time comes in and goes out as durations.

use std::time::Duration;

/// The memory that the decision needs, for one model.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// Starts in a row that never came to serve.
    failed_starts: u32,
    /// Refusals to start in a row that pass by themselves.
    refusals: u32,
    /// Deaths in service since the last answer.
    deaths: u32,
    attempts: u32,
}

/// How a worker's time ended, as far as the decision goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It never came to serve; another try could end otherwise.
    Stillborn,
    /// There was no worker: the launcher has no room for one now, and will have.
    NotYet,
    /// It never came to serve, and never will: the digest differs, the launcher refuses for good.
    Hopeless,
    /// It died in service.
    Died,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start another after this pause.
    After(Duration),
    /// Give the model up.
    GiveUp,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Lifecycle {
    /// Gives up after this many failed starts in a row.
    pub fn new(attempts: u32) -> Self {
        Self { failed_starts: 0, refusals: 0, deaths: 0, attempts }
    }

    /// A worker came to serve.
    pub fn ready(&mut self) {
        self.failed_starts = 0;
        self.refusals = 0;
    }

    /// A worker gave a good answer.
    pub fn answered(&mut self) {
        self.deaths = 0;
    }

    /// A worker's time ended.
    ///
    /// A death in service never gives the model up: otherwise a client could switch a model off for everybody by sending
    /// what kills it. Nor does a refusal that will pass: nothing is wrong with the model. The first death costs no pause beyond the start itself, so that one bad request is one bad request.
    pub fn ended(&mut self, end: End) -> Next {
        match end {
            End::Hopeless => Next::GiveUp,
            End::NotYet => {
                self.refusals = self.refusals.saturating_add(1);
                Next::After(pause(self.refusals))
            }
            End::Stillborn => {
                self.refusals = 0;
                self.failed_starts = self.failed_starts.saturating_add(1);
                if self.failed_starts >= self.attempts {
                    return Next::GiveUp;
                }
                Next::After(pause(self.failed_starts))
            }
            End::Died => {
                let before = self.deaths;
                self.deaths = self.deaths.saturating_add(1);
                Next::After(if before == 0 { Duration::ZERO } else { pause(before) })
            }
        }
    }
}

fn pause(times: u32) -> Duration {
    let factor = 1u32 << times.saturating_sub(1).min(10);
    (FIRST_PAUSE * factor).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_starts_are_paused_and_then_given_up() {
        let mut life = Lifecycle::new(4);
        let ms = |n| Next::After(Duration::from_millis(n));
        assert_eq!([(); 4].map(|()| life.ended(End::Stillborn)), [ms(100), ms(200), ms(400), Next::GiveUp]);
        let mut life = Lifecycle::new(2);
        life.ended(End::Stillborn);
        life.ready();
        assert_eq!(life.ended(End::Stillborn), ms(100));
        assert_eq!(life.ended(End::Hopeless), Next::GiveUp);
    }

    #[test]
    fn a_refusal_that_passes_never_gives_up_and_hides_no_failed_start() {
        let mut life = Lifecycle::new(2);
        assert_eq!(life.ended(End::NotYet), Next::After(FIRST_PAUSE));
        for _ in 0..100 {
            assert!(matches!(life.ended(End::NotYet), Next::After(pause) if pause <= LONGEST_PAUSE));
        }
        assert_eq!(life.ended(End::NotYet), Next::After(LONGEST_PAUSE));
        assert_eq!(life.ended(End::Stillborn), Next::After(FIRST_PAUSE));
        assert_eq!(life.ended(End::NotYet), Next::After(FIRST_PAUSE), "a worker was started in between");
        assert_eq!(life.ended(End::Stillborn), Next::GiveUp);
    }

    #[test]
    fn deaths_in_service_never_give_up_but_slow_down() {
        let mut life = Lifecycle::new(2);
        assert_eq!(life.ended(End::Died), Next::After(Duration::ZERO));
        for _ in 0..100 {
            assert!(
                matches!(life.ended(End::Died), Next::After(pause) if pause <= LONGEST_PAUSE && pause >= FIRST_PAUSE)
            );
        }
        assert_eq!(life.ended(End::Died), Next::After(LONGEST_PAUSE));
        life.answered();
        assert_eq!(life.ended(End::Died), Next::After(Duration::ZERO));
    }
}
