//! All that the launcher says to a tenant's zygote, to a worker that was just born of one, and what they answer.
//!
//! A zygote is told to bear, and nothing else: the one descriptor that rides along is the newborn's end of a wire of its
//! own, and the zygote closes it unread. What belongs to a worker (its channel, its model, its grant) goes over that wire,
//! from the launcher to the newborn.

use bincode::{Decode, Encode};

use crate::frame::Message;

/// Launcher to zygote.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToZygote {
    /// Bear a worker. One descriptor rides along. Answered by `Born` or `Barren`.
    Bear {
        /// Whether this kernel has namespaces for clocks.
        clock: bool,
    },
}

/// Zygote to launcher.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromZygote {
    /// It is warm, and in its cage.
    Warm,
    /// A process was made.
    Born {
        /// Its number, as both see it.
        pid: u32,
    },
    /// None was made.
    Barren {
        /// The kernel's answer.
        errno: i32,
    },
    /// It cannot become a zygote; it ends.
    Unfit {
        /// Why, for the operator's log.
        why: String,
    },
}

/// Launcher to newborn, once: what it has to put on. Its descriptors ride along, in the order of [`fds`], with `doors` more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Cradle {
    /// Files of control groups among the descriptors, to go in by.
    pub doors: u8,
    /// Limits of the kernel by number, and how much, soft and hard.
    pub ceilings: Vec<(u32, u64)>,
    /// The seed of its generators of random numbers: its siblings have a copy of the same ones.
    pub seed: u64,
}

/// Newborn to launcher.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromNewborn {
    /// It can be mapped and traced, and waits for its cradle.
    Waits,
    /// It could not take a step, and ends. Silence, ended by the end of the wire, means that it took them all.
    Failed {
        /// Which.
        step: String,
        /// The kernel's answer; 0 where it was not the kernel.
        errno: i32,
    },
}

/// What rides along with a [`Cradle`], by place.
pub mod fds {
    /// The write end of the worker's log pipe.
    pub const LOG: usize = 0;
    /// Its channel to the front.
    pub const CHANNEL: usize = 1;
    /// The request arena.
    pub const REQUESTS: usize = 2;
    /// The response arena.
    pub const RESPONSES: usize = 3;
    /// The model.
    pub const MODEL: usize = 4;
    /// The manifest.
    pub const MANIFEST: usize = 5;
    /// The grant.
    pub const GRANT: usize = 6;
    /// Where the model's SHA-256 comes from.
    pub const DIGEST: usize = 7;
    /// How many there are without the doors.
    pub const COUNT: usize = 8;
    /// The most that there are with them.
    pub const MOST: usize = COUNT + 8;
}

/// The uid by which a zygote's user namespace knows the first of its workers to be; the others follow.
pub const FIRST_UNBORN: u32 = 2000;

impl Message for ToZygote {
    const KIND: u8 = 6;
}
impl Message for FromZygote {
    const KIND: u8 = 7;
}
impl Message for Cradle {
    const KIND: u8 = 8;
}
impl Message for FromNewborn {
    const KIND: u8 = 9;
}
