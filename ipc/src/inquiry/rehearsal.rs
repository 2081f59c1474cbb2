//! The answer to `prove`: what one worker did that was started as any other, asked once, and watched until its end.

use serde::{Deserialize, Serialize};

use crate::layer::Reading;

/// One worker's short life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Its model.
    pub model: String,
    /// The model's version.
    pub version: String,
    /// Whether it loaded its model and became ready, in its cage.
    pub ready: bool,
    /// What it answered to the one request, or why it refused before; nothing where it never did.
    pub answer: Option<String>,
    /// What it printed, cut.
    pub log: String,
    /// Its layers as the kernel showed them when it was ready.
    pub layers: Vec<Reading>,
    /// How it ended.
    pub end: End,
    /// From its start to its end, in milliseconds.
    pub ms: u64,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum End {
    /// It was never born.
    Spawn {
        /// Why not.
        why: String,
    },
    /// By itself.
    Exit {
        /// With this code.
        code: i32,
    },
    /// By the system call filter.
    Syscall(Refused),
    /// By a signal.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Killed, since it did not answer in time.
    Deadline,
    /// By the kernel, for want of memory.
    Oom,
}

/// A call that a filter refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its number; -1 where it could not be read.
    pub number: i64,
    /// Its name on this CPU, if it has one.
    pub name: Option<String>,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// When the serving filter allows that call; nothing where no rule names it.
    pub only: Option<String>,
}
