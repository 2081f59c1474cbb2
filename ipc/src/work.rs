//! What a front and a worker say to each other. Frames carry names and places; the numbers themselves lie in the arenas.

use bincode::{Decode, Encode};
use serde::Serialize;

use crate::convolution::Convolution;
use crate::frame::Message;
use crate::id::BatchId;
use crate::layer::Layer;
use crate::tensor::{DType, ModelSignature, Shape};

/// Longest text that a worker may send along, in bytes; longer ones are cut by the worker and refused by the front.
pub const MAX_DETAIL: usize = 4096;

/// Most rows that a model may take in one run.
pub const MAX_BATCH_SIZE: u32 = 4096;
/// Longest that a request may wait for company, in microseconds.
pub const MAX_BATCH_DELAY_US: u64 = 1_000_000;
/// Longest that a request may take in all, in milliseconds.
pub const MAX_DEADLINE_MS: u64 = 3_600_000;

/// Front to worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToWorker {
    /// Run this batch. Answered by `Done` or `Failed` with the same id.
    Run {
        /// Its id; counts up.
        batch: BatchId,
        /// The slot of both arenas that is the worker's until it answers.
        slot: u32,
        /// One for each declared input, in that order, in the request arena.
        inputs: Vec<Placed>,
    },
    /// Are you there? Answered by `Pong` with the same token.
    Ping {
        /// Any number.
        token: u64,
    },
    /// Exit; nothing more will come.
    Drain,
}

/// Worker to front. The front believes none of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromWorker {
    /// Every layer is on, the digest fits; said once, while no byte of the model has been read by anything but SHA-256.
    Verified {
        /// What the manifest declares.
        declared: Declared,
        /// The cage as the kernel showed it to the worker, when it had locked itself.
        inside: Inside,
    },
    /// Loaded and warm; requests may come. Said once.
    Ready {
        /// Time spent loading and warming up, in microseconds.
        load_us: u64,
    },
    /// The gate or the operator's policy lets this model no further, and the worker exits. Said once, instead of `Ready`.
    Gated {
        /// The class of reason. A closed set, so a client may be told.
        code: GateCode,
        /// Why, for the operator's log; at most [`MAX_DETAIL`] bytes.
        detail: String,
    },
    /// It will not serve this model, and exits. Said once, instead of what would have come next.
    Refused {
        /// The step that failed.
        step: Step,
        /// Why, for the operator's log; at most [`MAX_DETAIL`] bytes.
        detail: String,
    },
    /// The answer to a `Run`.
    Done {
        /// Which batch.
        batch: BatchId,
        /// One for each declared output, in that order, in the same slot of the response arena.
        outputs: Vec<Placed>,
        /// Time in the engine, in microseconds.
        run_us: u64,
    },
    /// The batch could not be run; the worker goes on.
    Failed {
        /// Which batch.
        batch: BatchId,
        /// Whose fault.
        failure: Failure,
        /// Why, for the operator's log; at most [`MAX_DETAIL`] bytes.
        detail: String,
    },
    /// The answer to a `Ping`.
    Pong {
        /// The ping's token.
        token: u64,
    },
    /// Convolutions that ran without oneDNN's code, for want of it. Said at any time after `Ready`, and of at most
    /// [`crate::convolution::MAX_SAID`] in a worker's life.
    Met {
        /// Which; each within its bounds.
        convolutions: Vec<Convolution>,
    },
}

/// A dense tensor in a slot of an arena.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Placed {
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Shape,
    /// First byte, counted from the start of the slot.
    pub offset: u64,
    /// Number of bytes; must be what shape and type say.
    pub bytes: u64,
}

/// What a manifest declares, as the front needs it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Declared {
    /// Inputs and outputs.
    pub signature: ModelSignature,
    /// For each output, whether it may hold NaN or infinities.
    pub non_finite: Vec<bool>,
    /// Most rows in one run; 1 where requests never ride together.
    pub max_batch_size: u32,
    /// How long a request may wait for company, in microseconds.
    pub max_batch_delay_us: u64,
    /// How long a request may take in all, in milliseconds.
    pub deadline_ms: u64,
    /// SHA-256 of the model's bytes, as computed.
    pub sha256: [u8; 32],
    /// The engine and its version, for the model's metadata.
    pub platform: String,
}

/// What the kernel told a worker about its own cage. Said by our program before anything but SHA-256 and the manifest's
/// reader has seen a byte that came with the model; a worker that a model has taken over says nothing of this kind again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Inside {
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// It is not dumpable.
    pub non_dumpable: bool,
    /// The mode of its system call filter; 2 is a filter in force.
    pub seccomp_mode: u8,
    /// It swapped its root for an empty one, and looked.
    pub empty_root: bool,
    /// Its capability sets are empty, and its securebits locked.
    pub no_capabilities: bool,
    /// The Landlock version in force, if any.
    pub landlock_abi: Option<u32>,
    /// Whether every right that the policy names is handled, or only those that this kernel knows.
    pub landlock_complete: bool,
    /// The kernel refuses to make a page executable that was not. No layer of its own: where the kernel has it, a second
    /// lock on what the filters refuse.
    pub no_exec_gain: bool,
}

/// A step of a worker's trip that can end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[repr(u8)]
pub enum Step {
    /// Descriptors and grant.
    Boot,
    /// The cage.
    Lock,
    /// Trusted work before the lock.
    Warm,
    /// Manifest and digest.
    Verify,
    /// The archive gate, and the operator's policy on operators.
    Gate,
    /// The engine's loader.
    Load,
    /// The first run.
    Trial,
}

/// Why the gate refuses a model. No word of the model's own is in it, so a client may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum GateCode {
    /// Not a zip archive as `torch.jit.save` writes it.
    ArchiveStructure,
    /// Too many records, or too many bytes.
    ArchiveSize,
    /// A record's bytes are not those of its CRC-32.
    ArchiveChecksum,
    /// A record that no TorchScript model has.
    ArchiveRecord,
    /// A pickle that libtorch's reader would not write, or may not be trusted with.
    PickleOpcode,
    /// A pickle that names something it may not.
    PickleGlobal,
    /// A pickle that is too deep or too large.
    PickleSize,
    /// A tensor that reaches beyond its bytes.
    TensorBounds,
    /// A tensor for another device than the CPU.
    TensorDevice,
    /// Code that is no TorchScript.
    CodeText,
    /// Code nested too deep.
    CodeDepth,
    /// Code that is too long, or becomes so when its calls are inlined.
    CodeSize,
    /// An operator or class that is forbidden.
    GraphDenied,
    /// An operator or class that is not on the list.
    GraphUnlisted,
    /// Code that runs while the model is loaded.
    GraphHook,
    /// Code whose operators cannot be told from its text.
    GraphUnclear,
}

/// Why a batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Failure {
    /// The model raised an error.
    Model,
    /// The model wanted more memory than it may have.
    Memory,
    /// What the model returned is not what its manifest declares.
    Output,
    /// The answer does not fit into the response arena.
    TooLarge,
}

impl Message for ToWorker {
    const KIND: u8 = 3;
}
impl Message for FromWorker {
    const KIND: u8 = 4;
}

impl Inside {
    /// Whether the worker says that a layer is on; nothing for one that it cannot see from where it is.
    pub const fn says(&self, layer: Layer) -> Option<bool> {
        match layer {
            Layer::NoNewPrivileges => Some(self.no_new_privs),
            Layer::NonDumpable => Some(self.non_dumpable),
            Layer::Seccomp => Some(self.seccomp_mode == 2),
            Layer::EmptyRoot => Some(self.empty_root),
            Layer::NoCapabilities => Some(self.no_capabilities),
            Layer::Landlock => Some(self.landlock_abi.is_some()),
            _ => None,
        }
    }
}

impl Step {
    /// The step's name in logs, metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Lock => "lock",
            Self::Warm => "warm",
            Self::Verify => "verify",
            Self::Gate => "gate",
            Self::Load => "load",
            Self::Trial => "trial",
        }
    }

    /// Whether the model's own code may run in it, so that what is said of it may be the model's own words.
    pub const fn runs_the_model(self) -> bool {
        matches!(self, Self::Load | Self::Trial)
    }

    /// Whether starting again could end otherwise. A digest that differs, a model that the engine refuses: never.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Verify | Self::Gate)
    }
}

impl GateCode {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::ArchiveStructure,
        Self::ArchiveSize,
        Self::ArchiveChecksum,
        Self::ArchiveRecord,
        Self::PickleOpcode,
        Self::PickleGlobal,
        Self::PickleSize,
        Self::TensorBounds,
        Self::TensorDevice,
        Self::CodeText,
        Self::CodeDepth,
        Self::CodeSize,
        Self::GraphDenied,
        Self::GraphUnlisted,
        Self::GraphHook,
        Self::GraphUnclear,
    ];

    /// A stable word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ArchiveStructure => "archive-structure",
            Self::ArchiveSize => "archive-size",
            Self::ArchiveChecksum => "archive-checksum",
            Self::ArchiveRecord => "archive-record",
            Self::PickleOpcode => "pickle-opcode",
            Self::PickleGlobal => "pickle-global",
            Self::PickleSize => "pickle-size",
            Self::TensorBounds => "tensor-bounds",
            Self::TensorDevice => "tensor-device",
            Self::CodeText => "code-text",
            Self::CodeDepth => "code-depth",
            Self::CodeSize => "code-size",
            Self::GraphDenied => "graph-denied",
            Self::GraphUnlisted => "graph-unlisted",
            Self::GraphHook => "graph-hook",
            Self::GraphUnclear => "graph-unclear",
        }
    }
}

/// Cuts a text to [`MAX_DETAIL`] bytes at a character's edge.
pub fn detail(mut text: String) -> String {
    if text.len() > MAX_DETAIL {
        let mut end = MAX_DETAIL - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_cut_at_a_character() {
        for text in ["é".repeat(5000), "x".repeat(9000), "€".repeat(4000)] {
            assert!(detail(text).len() <= MAX_DETAIL);
        }
        assert_eq!(detail("short".into()), "short");
    }
}
