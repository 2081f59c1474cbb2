//! Every limit of the house: name, unit, default, bounds, and what it is for.
//!
//! Whoever applies limits takes [`Limits`] apart without `..`, so that a new one does not compile until somebody obeys it.

use std::collections::BTreeMap;

use thiserror::Error;

macro_rules! limits {
    ($($(#[doc = $why:literal])+ $name:ident = $default:literal, $least:literal ..= $most:literal;)+) => {
        /// The limits in force.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $why])+ pub $name: u64,)+ }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// The table, for `--help` texts and documents.
            pub const TABLE: &'static [Limit] = &[$(Limit {
                name: stringify!($name),
                default: $default,
                least: $least,
                most: $most,
                why: concat!($($why),+),
            }),+];

            fn field(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)+
                    _ => None,
                }
            }
        }
    };
}

limits! {
    /// Open connections; further ones wait in the kernel's queue.
    connections = 1024, 1..=1_000_000;
    /// Bytes of a request's head; more is answered 431.
    header_bytes = 16_384, 1024..=1_048_576;
    /// Milliseconds until a request's head must be there; a slower client is cut off.
    header_ms = 10_000, 10..=600_000;
    /// Milliseconds until a request's body must be there; a slower client is answered 408.
    body_ms = 30_000, 10..=3_600_000;
    /// Milliseconds that a connection may stay idle between requests.
    idle_ms = 75_000, 10..=3_600_000;
    /// Bytes of a request's body, and of the tensors in one run; more is answered 413.
    request_bytes = 67_108_864, 4096..=4_294_967_296;
    /// Bytes of the tensors that one run may answer with.
    response_bytes = 67_108_864, 4096..=4_294_967_296;
    /// Bytes of request bodies held at once, over all models; beyond it requests are answered 503.
    in_flight_bytes = 536_870_912, 4096..=1_099_511_627_776;
    /// Requests that wait at once, for one model; beyond it requests are answered 503.
    queue = 256, 1..=1_000_000;
    /// Bytes of the tensors that wait at once, for one model; beyond it requests are answered 503.
    queue_bytes = 268_435_456, 4096..=1_099_511_627_776;
    /// Milliseconds after which pages of a worker's arenas that no request has needed since are given back.
    arena_rest_ms = 5_000, 10..=3_600_000;
    /// Milliseconds that a model may take to load and warm up before its worker is killed.
    load_ms = 120_000, 100..=3_600_000;
    /// Milliseconds that running requests have left when the server is told to stop.
    drain_ms = 30_000, 0..=3_600_000;
    /// Milliseconds between two questions to an idle worker whether it is alive; two unanswered ones end it.
    ping_ms = 5_000, 50..=600_000;
    /// Microseconds that the front looks out for an answer before it sleeps over it, where answers have been as quick; 0 for never.
    vigil_us = 75, 0..=1000;
    /// Failed starts in a row after which a model is given up.
    start_attempts = 5, 1..=1000;
    /// Deaths of workers in a row, without a good answer between, that open the breaker of a model's bytes.
    breaker_deaths = 5, 1..=1000;
    /// Milliseconds that a death counts for the breaker.
    breaker_window_ms = 60_000, 100..=3_600_000;
    /// Milliseconds that an opened breaker rests the first time, and answers 503; each time after, twice as long.
    breaker_rest_ms = 1_000, 10..=3_600_000;
    /// Milliseconds that an opened breaker rests at most; never less than the first rest.
    breaker_longest_ms = 10_000, 10..=3_600_000;
    /// Workers that the launcher starts for one model in a minute, whatever the front says.
    starts_per_minute = 60, 1..=100_000;
    /// Bytes of a model file.
    model_bytes = 4_294_967_296, 1..=1_099_511_627_776;
    /// Mebibytes of memory that a worker may take for its data, libtorch's own about 70 included.
    worker_memory_mib = 4096, 64..=16_777_216;
    /// Threads that one operator of a model may use.
    threads = 1, 1..=1024;
    /// Bytes of a worker's printed output that reach the log in a second; the rest is counted and dropped.
    log_bytes_per_second = 16_384, 0..=16_777_216;
}

/// One row of [`Limits::TABLE`].
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Its key in `[limits]`.
    pub name: &'static str,
    /// Where nothing is written.
    pub default: u64,
    /// Least value.
    pub least: u64,
    /// Most.
    pub most: u64,
    /// What it bounds, and what happens beyond it.
    pub why: &'static str,
}

/// Why a limit is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LimitError {
    /// No such key.
    #[error("limits.{0} does not exist; known are {known}", known = names())]
    Unknown(String),
    /// Outside its bounds.
    #[error("limits.{name} is {found}; it must be {least} to {most}")]
    Bounds {
        /// Which.
        name: &'static str,
        /// What was written.
        found: u64,
        /// Least.
        least: u64,
        /// Most.
        most: u64,
    },
}

impl Limits {
    /// The defaults with what was written over them.
    pub fn from_raw(written: &BTreeMap<String, u64>) -> Result<Self, LimitError> {
        let mut limits = Self::default();
        for (name, found) in written {
            let row = Self::TABLE.iter().find(|row| row.name == name);
            let (Some(row), Some(field)) = (row, limits.field(name)) else {
                return Err(LimitError::Unknown(name.chars().take(64).collect()));
            };
            let Limit { name, least, most, .. } = *row;
            if !(least..=most).contains(found) {
                return Err(LimitError::Bounds { name, found: *found, least, most });
            }
            *field = *found;
        }
        Ok(limits)
    }
}

fn names() -> String {
    Limits::TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_default_inside_its_bounds_and_a_reason() {
        for row in Limits::TABLE {
            assert!((row.least..=row.most).contains(&row.default), "{}", row.name);
            assert!(row.why.trim().len() > 20, "{}", row.name);
            for bad in [row.least.checked_sub(1), row.most.checked_add(1)].into_iter().flatten() {
                assert!(Limits::from_raw(&[(row.name.to_owned(), bad)].into()).is_err(), "{} = {bad}", row.name);
            }
        }
        assert!(Limits::from_raw(&[("queu".to_owned(), 1)].into()).is_err());
    }
}
