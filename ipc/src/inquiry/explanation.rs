//! The answer to `explain`: what a worker may do, from the policy that is compiled in and the config that is in force.

use serde::{Deserialize, Serialize};

/// A worker of one model, or of any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The model, where one was named.
    pub model: Option<String>,
    /// Threads that one operator may use.
    pub threads: u32,
    /// Bytes of memory for its data.
    pub memory_bytes: u64,
    /// The memory that it shares with the front.
    pub arenas: Vec<Arena>,
    /// What it is born with.
    pub descriptors: Vec<Descriptor>,
    /// Limits of the kernel on its process.
    pub limits: Vec<Limit>,
    /// The layers of its cage.
    pub layers: Vec<LayerSaid>,
    /// Its system call filters, in the order in which they are put on.
    pub stages: Vec<Stage>,
    /// What it may open by path.
    pub files: Files,
    /// What it cannot do while it serves, and the calls that this would take.
    pub never: Vec<Never>,
    /// How it comes to be: `exec` or `zygote`.
    pub spawn: String,
    /// The zygote that bears it, where one does.
    pub zygote: Option<Zygote>,
}

/// What a tenant's zygote may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zygote {
    /// Whose it is, where a model was named.
    pub tenant: Option<String>,
    /// Whether other models may have the same tenant, and so workers of the same zygote.
    pub shared: bool,
    /// Most workers that one bears.
    pub births: u32,
    /// Seconds after which one is renewed.
    pub age_s: u64,
    /// Capabilities that it keeps; they hold in its own user namespace only.
    pub capabilities: Vec<String>,
    /// What it holds.
    pub descriptors: Vec<Descriptor>,
    /// Limits of the kernel on its process.
    pub limits: Vec<Limit>,
    /// The layers of a worker's cage, and which of them it has.
    pub layers: Vec<ZygoteLayer>,
    /// Its system call filter, which its workers keep under theirs.
    pub stage: Stage,
    /// What it cannot do, and the calls that this would take.
    pub never: Vec<Never>,
}

/// One layer, of a zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteLayer {
    /// Its name.
    pub layer: String,
    /// Whether it has it as a worker has it.
    pub has: bool,
    /// What it has, in a sentence.
    pub says: String,
}

/// A piece of shared memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// Which.
    pub name: String,
    /// Number of slots.
    pub slots: u32,
    /// Bytes of one slot.
    pub slot_bytes: u64,
    /// Whether the worker can write it.
    pub writable: bool,
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What it is.
    pub what: String,
    /// Whether it is still open when the model is read.
    pub stays: bool,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The kernel's name for it.
    pub name: String,
    /// How much.
    pub most: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSaid {
    /// Its name.
    pub layer: String,
    /// What it does, in a sentence.
    pub says: String,
    /// Whether it can be put on here.
    pub here: bool,
    /// Whether the config goes without.
    pub waived: bool,
    /// Why it cannot be put on here.
    pub lack: Option<String>,
}

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, that of its policy file.
    pub stage: String,
    /// Whether the model runs under it.
    pub serves: bool,
    /// What becomes of any other call.
    pub default: String,
    /// The calls that are allowed.
    pub rules: Vec<Rule>,
    /// The calls that are answered with an errno.
    pub refusals: Vec<Refusal>,
}

/// One allowed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub call: String,
    /// Its number on this CPU.
    pub number: u32,
    /// What its arguments must satisfy.
    pub when: String,
    /// Who needs it, and for what.
    pub why: String,
}

/// One call that is answered with an errno.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its name.
    pub call: String,
    /// Its number on this CPU.
    pub number: u32,
    /// The errno.
    pub errno: String,
    /// Why an answer rather than a kill.
    pub why: String,
}

/// What Landlock leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Paths that stay readable.
    pub readable: Vec<String>,
    /// The Landlock version of this kernel; 0 where it has none.
    pub landlock: u32,
}

/// Something that a worker cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Never {
    /// What.
    pub act: String,
    /// The calls that it would take. None of them is in a rule of the serving filter, or only as said.
    pub calls: Vec<String>,
    /// Those that are in a rule, with what their arguments must satisfy.
    pub only: Vec<String>,
}
