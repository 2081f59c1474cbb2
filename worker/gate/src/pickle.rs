//! The pickles of an archive, walked as libtorch's own reader would walk them, without building anything.
//!
//! libtorch's reader knows no Python, but it trusts the writer: functions are numbers on its stack, a mark may lie below
//! the stack's end, an odd dictionary reads past it. [`machine`] runs only what `torch.jit.save` writes, and never
//! recurses; [`global`] names what may be called; [`value`] is the arena that it runs in; [`tag`] reads type names, [`fit`] holds
//! values against them.

mod fit;
mod global;
mod machine;
mod rebuild;
mod tag;
mod value;

use std::collections::{HashMap, HashSet};

pub use machine::walk;

use crate::code::Class;

/// Most values that a pickle may make.
pub const MAX_VALUES: usize = 4_000_000;
/// How deep values may nest. libtorch frees and compares them recursively.
pub const MAX_DEPTH: u32 = 256;
/// Most values that a pickle may be if every shared one is counted each time.
pub const MAX_EXPANDED: u64 = 16_000_000;

/// What a pickle may refer to.
pub struct Surroundings<'a> {
    /// The record's name, for refusals.
    pub record: &'a str,
    /// The length of each storage's record, by its key.
    pub storages: &'a HashMap<&'a str, u64>,
    /// The classes in the archive's code, by their full names.
    pub classes: &'a HashMap<String, Class>,
    /// Classes in C++ that the operator allows, in full.
    pub native: &'a dyn Fn(&str) -> bool,
}

/// What a pickle turned out to hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pickled {
    /// The root's class, where it is an object.
    pub class: Option<String>,
    /// Number of elements, where the root is a tuple.
    pub elements: Option<usize>,
    /// Tensors.
    pub tensors: u64,
    /// Bytes of their storages.
    pub bytes: u64,
    /// Keys of the storages that it uses.
    pub used: HashSet<String>,
    /// Classes in C++ that it makes.
    pub native: Vec<String>,
}
