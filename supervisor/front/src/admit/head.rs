//! What can be refused before a byte of the body is read: too much announced, no room, going down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::permit::{Permit, Room};
use crate::refusal::{Kind, Refusal};

/// A request whose head was admitted; holds its share of the room until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Visitor {
    permit: Permit,
    clock: Clock,
    body_limit: u64,
}

/// What a request's time counts from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// When its head was there.
    pub arrived: Instant,
    /// How long its client waits, where it has said so.
    pub patience: Option<Duration>,
}

/// When a request's time is over.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// For its client.
    pub deadline: Instant,
    /// For the operator, who may be more patient.
    pub limit: Instant,
}

/// Admits a head. `announced` is the Content-Length; without one the largest body is set aside until it is known.
pub fn admit(room: &Arc<Room>, body_limit: u64, announced: Option<u64>, now: Instant) -> Result<Visitor, Refusal> {
    let bytes = announced.unwrap_or(body_limit);
    if bytes > body_limit {
        let message = format!("the body has {bytes} bytes; at most {body_limit} are accepted (limits.request_bytes)");
        return Err(Refusal::new(Kind::TooLarge, message));
    }
    let permit = room.take(bytes).ok_or_else(|| {
        let message = "the server holds as many bytes of requests as it may (limits.in_flight_bytes); come again";
        Refusal::new(Kind::Busy, message).retry_after(Duration::from_secs(1))
    })?;
    Ok(Visitor { permit, clock: Clock { arrived: now, patience: None }, body_limit })
}

impl Visitor {
    /// Most bytes that this request's body may have.
    pub fn body_limit(&self) -> u64 {
        self.body_limit
    }

    /// How long its client waits, where it has said so.
    pub fn within(self, patience: Option<Duration>) -> Self {
        Self { clock: Clock { patience, ..self.clock }, ..self }
    }

    /// What its time counts from.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The body is there and has this many bytes.
    pub fn settle(mut self, bytes: u64) -> Permit {
        self.permit.shrink(bytes);
        self.permit
    }
}

impl Clock {
    /// When its time is over, at a model that gives a request so many milliseconds.
    pub fn time(self, deadline_ms: u64) -> Time {
        let limit = self.arrived + Duration::from_millis(deadline_ms);
        // Addition cannot overflow: what a client may say is bounded.
        let deadline = self.patience.map_or(limit, |patience| limit.min(self.arrived + patience));
        Time { deadline, limit }
    }
}
