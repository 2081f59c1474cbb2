//! Whether the bytes of a model may be run now. Pure: time comes in as an argument.
//!
//! Back-off ([`super::lifecycle`]) slows one model's restarts down and lets its requests wait. The breaker answers them at
//! once instead, and is kept for the bytes: all names of the same bytes share one, a new version has its own.
//!
//! A request can kill a worker, so whoever may ask can make deaths. The breaker must not become their switch:
//!
//! - Deaths count in a row; a good answer ends the row. Somebody who kills now and then, between the answers that others
//!   get, opens nothing.
//! - A worker can also answer well on purpose and die in between. Many deaths in one window therefore open it whatever was
//!   answered: [`INTERLEAVED`] times as many as in a row.
//! - It is never given up. It rests for a bounded time, then lets workers start again (half-open); the first good answer
//!   closes it, the first death opens it again, for twice as long, up to the longest rest. A quiet window starts afresh.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When to open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Deaths in a row that open it.
    pub deaths: u32,
    /// How long a death counts.
    pub window: Duration,
    /// The first rest.
    pub rest: Duration,
    /// The longest.
    pub longest: Duration,
}

/// The breaker of one model's bytes.
#[derive(Debug, Clone)]
pub struct Breaker {
    rules: Rules,
    /// Deaths since the last good answer, within the window.
    row: VecDeque<Instant>,
    /// All deaths since it was last opened, within the window.
    all: VecDeque<Instant>,
    /// Rests since the last quiet window.
    rests: u32,
    /// The last death, or the end of the last rest.
    unrest: Option<Instant>,
    state: State,
}

/// What a breaker says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// Go on.
    Closed,
    /// Nobody starts and nobody is asked for so long.
    Open(Duration),
    /// Workers start and serve; the next death opens it, the next good answer closes it.
    HalfOpen,
}

/// It was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// For so long.
    pub rest: Duration,
    /// Deaths that did it.
    pub deaths: u32,
}

/// So many times the deaths in a row open it even where good answers lie between them.
pub const INTERLEAVED: u32 = 4;

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    /// Until then open, from then on half-open.
    Resting(Instant),
}

impl Breaker {
    /// Closed.
    pub fn new(rules: Rules) -> Self {
        let (row, all) = (VecDeque::new(), VecDeque::new());
        Self { rules, row, all, rests: 0, unrest: None, state: State::Closed }
    }

    /// What it says now. Half-open ends by itself after a whole window without a death.
    pub fn stand(&self, now: Instant) -> Stand {
        match self.state {
            State::Resting(until) if now < until => Stand::Open(until.duration_since(now)),
            State::Resting(until) if now < until + self.rules.window => Stand::HalfOpen,
            State::Resting(_) | State::Closed => Stand::Closed,
        }
    }

    /// A worker gave a good answer.
    pub fn answered(&mut self, now: Instant) {
        // One that another name's worker gives while it rests was on its way, and says nothing about those that died.
        if !matches!(self.stand(now), Stand::Open(_)) {
            self.state = State::Closed;
            self.row.clear();
        }
    }

    /// A worker died of what its model did.
    pub fn died(&mut self, now: Instant) -> Option<Opened> {
        let stand = self.stand(now);
        if self.unrest.is_some_and(|since| now.saturating_duration_since(since) > self.rules.window) {
            self.rests = 0;
        }
        self.unrest = Some(now);
        for deaths in [&mut self.row, &mut self.all] {
            deaths.push_back(now);
            while deaths.front().is_some_and(|at| now.saturating_duration_since(*at) > self.rules.window) {
                deaths.pop_front();
            }
        }
        let (row, all) = (count(&self.row), count(&self.all));
        match stand {
            // Another name's worker, too late to matter.
            Stand::Open(_) => None,
            Stand::HalfOpen => Some(self.open(now, row.max(1))),
            Stand::Closed if row >= self.rules.deaths => Some(self.open(now, row)),
            Stand::Closed if all >= self.rules.deaths.saturating_mul(INTERLEAVED) => Some(self.open(now, all)),
            Stand::Closed => None,
        }
    }

    /// Deaths in a row that count now.
    pub fn deaths(&self) -> u32 {
        count(&self.row)
    }

    fn open(&mut self, now: Instant, deaths: u32) -> Opened {
        let factor = 1_u32 << self.rests.min(16);
        let rest = self.rules.rest.saturating_mul(factor).min(self.rules.longest).max(self.rules.rest);
        self.rests = self.rests.saturating_add(1);
        self.state = State::Resting(now + rest);
        self.unrest = Some(now + rest);
        self.row.clear();
        self.all.clear();
        Opened { rest, deaths }
    }
}

fn count(deaths: &VecDeque<Instant>) -> u32 {
    u32::try_from(deaths.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
