//! The breakers of all models that are served, by the SHA-256 of their bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::breaker::{Breaker, Opened, Rules, Stand};
use crate::status::{BreakerState, BreakerStatus};

/// All of them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Breakers {
    rules: Rules,
    by_digest: Arc<Mutex<BTreeMap<[u8; 32], SharedBreaker>>>,
}

/// One of them, for every model with these bytes; cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedBreaker(Arc<Mutex<Breaker>>);

impl Breakers {
    /// None yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, by_digest: Arc::default() }
    }

    /// The breaker for these bytes.
    pub fn of(&self, digest: [u8; 32]) -> SharedBreaker {
        let mut breakers = self.by_digest.lock().unwrap_or_else(PoisonError::into_inner);
        // An operator may put other bytes in the store under the same name, again and again.
        breakers.retain(|known, breaker| *known == digest || Arc::strong_count(&breaker.0) > 1);
        let fresh = || SharedBreaker(Arc::new(Mutex::new(Breaker::new(self.rules))));
        breakers.entry(digest).or_insert_with(fresh).clone()
    }
}

impl SharedBreaker {
    /// How long nobody may start or be asked; nothing where it is not open.
    pub fn open_for(&self) -> Option<Duration> {
        match self.with(|breaker, now| breaker.stand(now)) {
            Stand::Open(left) => Some(left),
            Stand::Closed | Stand::HalfOpen => None,
        }
    }

    /// A worker gave a good answer.
    pub fn answered(&self) {
        self.with(Breaker::answered);
    }

    /// A worker died of what its model did.
    pub fn died(&self) -> Option<Opened> {
        self.with(Breaker::died)
    }

    /// For the model's status.
    pub fn status(&self) -> BreakerStatus {
        let (stand, deaths) = self.with(|breaker, now| (breaker.stand(now), breaker.deaths()));
        let (state, until) = match stand {
            Stand::Closed => (BreakerState::Closed, None),
            Stand::HalfOpen => (BreakerState::HalfOpen, None),
            Stand::Open(left) => {
                let until = SystemTime::now().checked_add(left).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                (BreakerState::Open, until.map(|at| at.as_secs().saturating_add(1)))
            }
        };
        BreakerStatus { state, deaths, until }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breaker, Instant) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_share_a_breaker_and_others_do_not() {
        let second = Duration::from_secs(1);
        let breakers = Breakers::new(Rules { deaths: 1, window: second, rest: 60 * second, longest: 60 * second });
        let (one, two, other) = (breakers.of([1; 32]), breakers.of([1; 32]), breakers.of([2; 32]));
        assert!(one.died().is_some());
        assert!(two.open_for().is_some());
        assert_eq!(two.status().state, BreakerState::Open);
        assert!(other.open_for().is_none());
        // What nobody holds is forgotten.
        drop((one, two));
        drop(breakers.of([3; 32]));
        assert!(breakers.of([1; 32]).open_for().is_none());
    }
}
