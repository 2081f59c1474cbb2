//! What the gate saw, for people and for the worker's log.

use std::collections::BTreeSet;

use crate::layout::Kind;

/// What an archive holds. After a refusal it has what was seen until then.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// The folder of all records.
    pub root: String,
    /// Every record.
    pub records: Vec<Entry>,
    /// The class of the module.
    pub class: Option<String>,
    /// Classes in the code.
    pub classes: usize,
    /// Functions and methods in the code.
    pub functions: usize,
    /// Tensors, constants among them.
    pub tensors: u64,
    /// Bytes of their storages.
    pub tensor_bytes: u64,
    /// Operators that the code names, in full.
    pub operators: BTreeSet<String>,
    /// Classes in C++ that it names.
    pub native: BTreeSet<String>,
    /// Methods that run while the model is loaded.
    pub hooks: BTreeSet<String>,
    /// Storages that nothing uses.
    pub unused: Vec<String>,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name below the root.
    pub name: String,
    /// What it is for; none where it has no business here.
    pub kind: Option<Kind>,
    /// Bytes, inflated.
    pub size: u64,
    /// Bytes in the file.
    pub packed: u64,
    /// Where its bytes begin in the file.
    pub start: u64,
    /// Whether it is deflated.
    pub deflated: bool,
    /// CRC-32.
    pub crc: u32,
}
