//! A front that serves, and how one may fail to.

use std::time::Instant;

use crate::front::Front;

/// A front, and which workers are its own.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) front: Front,
    pub(super) first: u64,
    /// It broke the protocol, or closed its channel: nothing is read from it and nothing said to it any more, and if it is
    /// not gone by then it is killed.
    pub(super) left: Option<Instant>,
}

/// What a front did that no front may do.
pub(super) struct Broken(pub(super) String);
