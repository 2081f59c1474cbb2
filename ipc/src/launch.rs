//! All that the front may ask of the launcher, all that the launcher answers, and the grant that a worker is born with.
//!
//! The front asks by name. No path, uid, flag, policy or limit ever comes over this channel: the launcher takes those
//! from its own copy of the config.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::frame::Message;
use crate::id::{ModelId, WorkerId};
use crate::layer::{Reading, Waiver};

/// Front to launcher.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LaunchRequest {
    /// Start a worker for a model of the catalogue. Two descriptors ride along: the request arena and the response
    /// arena, sealed, of the geometry that the config gives. Answered by `Started` or `Refused`.
    Start {
        /// Whose worker.
        model: ModelId,
    },
    /// Kill a worker now. Answered by its `Exited`, also when it is already gone.
    Kill {
        /// Which one.
        worker: WorkerId,
    },
    /// Read the layers of a worker's cage from the kernel. Answered by `Attested`.
    Attest {
        /// Which one.
        worker: WorkerId,
    },
}

/// Launcher to front.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum LaunchReply {
    /// One model that may be started. Sent for each, first thing.
    Model {
        /// Its name and version.
        model: ModelId,
    },
    /// The catalogue is complete.
    Catalogue {
        /// Number of `Model` replies sent before.
        models: u32,
        /// Layers that the operator goes without, by name.
        waived: Vec<Waiver>,
    },
    /// A worker runs. Two descriptors ride along: the front's end of its channel, and the read end of its log pipe.
    Started {
        /// Whose worker.
        model: ModelId,
        /// The worker.
        worker: WorkerId,
        /// Its process id as the launcher sees it.
        pid: u32,
        /// Its uid on the host, where it has one of its own.
        uid: Option<u32>,
        /// Time from the request until its program was running, in microseconds.
        spawn_us: u64,
        /// Whether its model has a `model.shapes` that it does without: a zygote bore it, whose filter lets nothing make code.
        shapes_left_aside: bool,
    },
    /// No worker was started.
    Refused {
        /// For whom.
        model: ModelId,
        /// Why, for the operator's log.
        reason: String,
        /// Whether a later try could end otherwise.
        retry: bool,
    },
    /// A worker is gone; said once for each `Started`.
    Exited {
        /// Which one.
        worker: WorkerId,
        /// How it ended.
        cause: ExitCause,
    },
    /// The layers of a worker, read from the kernel from outside; empty when the worker is gone.
    Attested {
        /// Which one.
        worker: WorkerId,
        /// One for each layer.
        readings: Vec<Reading>,
    },
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ExitCause {
    /// By itself, with this code; see [`exit_code`].
    Exited(i32),
    /// Killed on the front's request.
    Killed,
    /// By a signal that nobody here sent.
    Signal(i32),
    /// By the system call filter.
    Syscall(Denied),
    /// By the kernel, for want of memory.
    OutOfMemory,
}

/// A system call that a filter answered with death.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Denied {
    /// Its number on this CPU; -1 if it could not be read.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where it was called from.
    pub instruction: u64,
    /// Who called; nothing if that could not be read.
    pub caller: Option<Caller>,
}

/// The thread that made a refused call. Read from the kernel while the thread was held on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Caller {
    /// Its id, as the launcher sees it. The worker's own pid for the main thread.
    pub thread: u32,
    /// Its name: at most 15 printable characters. Nobody vouches for it.
    pub name: String,
    /// What the instruction lies in: a file that the launcher gave the worker, by name and offset in that file, such as
    /// `libc.so.6+0x11b2a`; or `anonymous`, `vdso`, `unknown-file`, `unmapped`.
    pub origin: String,
}

/// What a worker is born with: who it is, what it may use, which layers the operator goes without.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// Whose worker.
    pub model: ModelId,
    /// Which one.
    pub worker: WorkerId,
    /// Threads that one operator may use.
    pub threads: u32,
    /// Batches that it runs at once, each on a thread of its own.
    pub instances: u32,
    /// CPUs, by number, that it keeps to; all that it may run on where there is none.
    pub cores: Vec<u32>,
    /// The request arena.
    pub requests: Geometry,
    /// The response arena.
    pub responses: Geometry,
    /// Layers that the operator goes without, by name.
    pub waived: Vec<Waiver>,
    /// Whether machine code may be made while the model runs.
    pub run_time_code: RunTimeCode,
    /// Which operators the model may use.
    pub graph: GraphPolicy,
    /// The text of the model's `model.shapes`, unread; empty where it has none. See [`crate::convolution`].
    pub shapes: Vec<u8>,
}

/// Whether a worker may make machine code while its model runs, as `models.NAME.run_time_code` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunTimeCode {
    /// No page becomes executable once the model can run. oneDNN has the code that the warm-up made for the sizes in
    /// `model.shapes`, and is off where there is none.
    #[default]
    Refused,
    /// oneDNN is on, and may write its kernels into memory of the worker's own.
    Allowed,
}

/// Which operators a model may use. Whatever it says, the structure of the archive is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct GraphPolicy {
    /// Everything but what is forbidden; otherwise only what is listed.
    pub open: bool,
    /// Operators by name that are allowed whatever the lists say.
    pub extra_ops: Vec<String>,
}

/// The cut of an arena: `slots` pieces of `slot_bytes` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Geometry {
    /// Number of slots.
    pub slots: u32,
    /// Bytes of one; a multiple of 4096.
    pub slot_bytes: u64,
}

impl Message for LaunchRequest {
    const KIND: u8 = 1;
}
impl Message for LaunchReply {
    const KIND: u8 = 2;
}
impl Message for Grant {
    const KIND: u8 = 5;
}

/// Descriptors by number, in a front and in a worker. Both are born with these and nothing else.
pub mod fd {
    /// A front's channel to its launcher.
    pub const FRONT_LAUNCHER: i32 = 3;
    /// A front's listening socket.
    pub const FRONT_LISTENER: i32 = 4;
    /// The text of the config file, sealed.
    pub const FRONT_CONFIG: i32 = 5;

    /// A worker's channel to its front.
    pub const WORKER_CHANNEL: i32 = 3;
    /// The request arena; a worker can map it for reading only.
    pub const WORKER_REQUESTS: i32 = 4;
    /// The response arena.
    pub const WORKER_RESPONSES: i32 = 5;
    /// The model file's bytes, sealed.
    pub const WORKER_MODEL: i32 = 6;
    /// The manifest's text, sealed.
    pub const WORKER_MANIFEST: i32 = 7;
    /// The encoded [`super::Grant`], sealed.
    pub const WORKER_GRANT: i32 = 8;
    /// A socket over which the 32 bytes of the model's SHA-256 come, once, as soon as the launcher has them.
    pub const WORKER_DIGEST: i32 = 9;
}

/// Exit codes of a worker: which step of its trip failed. Its last message says why.
pub mod exit_code {
    /// Drained, or its front is gone.
    pub const DONE: i32 = 0;
    /// Its descriptors or its grant are not what it was promised.
    pub const BOOT: i32 = 70;
    /// A layer of the cage could not be put on.
    pub const LOCK: i32 = 71;
    /// The engine could not be warmed up.
    pub const WARM: i32 = 72;
    /// The model is not what its manifest says.
    pub const VERIFY: i32 = 73;
    /// The engine refused the model.
    pub const LOAD: i32 = 74;
    /// The model did not survive its first run.
    pub const TRIAL: i32 = 75;
    /// The front broke the protocol.
    pub const PROTOCOL: i32 = 76;
    /// The gate refused the model.
    pub const GATE: i32 = 77;
}

impl RunTimeCode {
    /// The word in config, logs and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Allowed => "allowed",
        }
    }
}

impl Geometry {
    /// Bytes of the whole arena.
    pub fn bytes(self) -> Option<usize> {
        u64::from(self.slots).checked_mul(self.slot_bytes).and_then(|n| usize::try_from(n).ok())
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed => f.write_str("killed by this server"),
            Self::Signal(signal) => write!(f, "died of signal {signal}"),
            Self::Syscall(denied) => write!(f, "died of the refused system call {}", denied.number),
            Self::OutOfMemory => f.write_str("killed by the kernel for want of memory"),
        }
    }
}
