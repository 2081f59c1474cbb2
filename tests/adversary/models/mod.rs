//! The zoo: hostile models as data. One table for each class; an entry says what a model does, how it is driven, what it
//! does to a process without a cage, what becomes of it in one, and what the archive gate says of it.
//!
//! Everything is read twice. `worker/tests/uncaged.rs` runs each entry in the worker's own engine with nothing around it
//! and demands the act ([`Free`]): a model that does nothing proves nothing. `tests/adversary/zoo.rs` serves all of them
//! and demands the end that the cage makes of it ([`Cage`]). The archives are forged when they are asked for; none is in
//! the tree.

mod archive;
mod class;
mod death;
mod exhaustion;
mod file;
mod gate;
mod kernel;
mod leak;
mod load;
mod log;
mod memory;
mod native;
mod output;
mod place;
mod remote;
mod trial;

pub use self::place::Place;

use crate::forge::Forge;
use crate::models::ASK;

/// One hostile model.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name in the store; begins with its class.
    pub name: &'static str,
    /// What it does, for the table.
    pub act: &'static str,
    build: Build,
    /// What its manifest declares to come out.
    pub outputs: &'static [&'static str],
    /// Threads of one operation.
    pub threads: u32,
    /// How long a request may take.
    pub deadline_ms: u64,
    /// Requests that make one attack; most need one.
    pub requests: u32,
    /// What it does where nothing holds it.
    pub free: Free,
    /// What becomes of it in the cage, with every operator allowed.
    pub cage: Cage,
    /// What the archive gate says under the default policy.
    pub gate: Gate,
}

/// How the model is made.
#[derive(Debug, Clone, Copy)]
enum Build {
    /// The body of a function of `x`, run for a request above [`ASK`]. `{made}`, `{bait}` and `{fifo}` are paths.
    Asked(&'static str),
    /// The same with a return type of its own.
    Typed(&'static str, &'static str),
    /// The same body, run by `__setstate__` while the file is loaded.
    Loaded(&'static str),
    /// Anything else. The act is in the request above [`ASK`].
    Forged(fn(&Place) -> Vec<u8>),
    /// Anything else. The act is in the load, the first run included.
    Crafted(fn(&Place) -> Vec<u8>),
}

/// What a model does to a process without a cage.
#[derive(Debug, Clone, Copy)]
pub enum Free {
    /// The file at [`Place::made`] is there.
    Makes,
    /// The file at [`Place::bait`] is another.
    Spoils,
    /// It serves, and its last answer is such.
    Answers(fn(&[f32]) -> bool),
    /// It serves a request that is not asked anything; the archive is odd, no more.
    Serves,
    /// It ends in an error of libtorch or of the engine that holds this text: the act is reached, and is harmless there.
    Says(&'static str),
    /// The process dies of this signal.
    Dies(i32),
    /// The process has held this many MiB at once.
    Grows(u64),
    /// It burns a processor and does not come back.
    Burns,
    /// It waits and does not come back.
    Hangs,
    /// It prints this.
    Prints(&'static [u8]),
}

/// What becomes of it in the cage.
#[derive(Debug, Clone, Copy)]
pub enum Cage {
    /// It is served: the act reaches nothing that is not its own.
    Answers(fn(&[f32]) -> bool),
    /// It answers this status and this word of `X-Casemate-Error`, and lives on.
    Refuses(u16, &'static str),
    /// Its worker dies of a refused system call.
    Syscall(&'static str),
    /// Its worker dies of this signal.
    Signal(&'static str),
    /// It is killed at its deadline.
    Deadline,
    /// It never serves: the word of its last exit, and what its detail holds.
    Never(&'static str, &'static str),
    /// One of these: what wins depends on the machine.
    Either(&'static [Cage]),
}

/// What the archive gate says under the default policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing: it is the cage's alone.
    Passes,
    /// Its lists refuse the archive with this code; an operator can allow it.
    Refuses(&'static str),
    /// The archive is malformed, and refused with this code under every policy.
    Always(&'static str),
}

/// A request that asks a model for its act.
pub const ASKED: [f32; 4] = [2000.0, 1.0, 1.0, 1.0];
/// What only the neighbour is sent.
pub const MARK: f32 = 271.5;
/// One that asks nothing of it.
pub const CALM: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// `extra_ops` that allow all that the gate's lists refuse of the zoo, beside `policy = "open"`.
pub const OPEN: [&str; 6] = ["aten::*", "prim::*", "inductor::*", "c10d::*", "_c10d_functional::*", "torch.classes.*"];

/// The whole zoo.
pub fn all() -> Vec<Entry> {
    let classes = [
        file::all,
        load::all,
        native::all,
        memory::all,
        death::all,
        exhaustion::all,
        output::all,
        log::all,
        leak::all,
        remote::all,
        class::all,
        trial::all,
        kernel::all,
    ];
    classes.iter().flat_map(|class| class()).collect()
}

/// Whether the zoo expects this of an answer: any.
pub(crate) fn any(_: &[f32]) -> bool {
    true
}

impl Entry {
    fn new(name: &'static str, act: &'static str, build: Build, free: Free, cage: Cage) -> Self {
        Self {
            name,
            act,
            build,
            outputs: &["y:FP32[-1,4]"],
            threads: 1,
            deadline_ms: 5000,
            requests: 1,
            free,
            cage,
            gate: gate::says(name),
        }
    }

    fn outputs(mut self, outputs: &'static [&'static str]) -> Self {
        self.outputs = outputs;
        self
    }

    fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// With a deadline that it will not keep.
    fn late(mut self) -> Self {
        self.deadline_ms = 1000;
        self
    }

    fn requests(mut self, requests: u32) -> Self {
        self.requests = requests;
        self
    }

    /// Its class: the word before the first dash.
    pub fn class(&self) -> &'static str {
        self.name.split('-').next().unwrap_or(self.name)
    }

    /// Whether it acts while it is loaded.
    pub fn is_at_load(&self) -> bool {
        matches!(self.build, Build::Loaded(_) | Build::Crafted(_))
    }

    /// The archive.
    pub fn archive(&self, place: &Place) -> Vec<u8> {
        match self.build {
            Build::Asked(body) => asked("Tensor", &place.fill(body)).bytes(),
            Build::Typed(kind, body) => asked(kind, &place.fill(body)).bytes(),
            Build::Loaded(body) => loaded(&place.fill(body)).bytes(),
            Build::Forged(forge) | Build::Crafted(forge) => forge(place),
        }
    }
}

/// Calm until `x[0, 0]` is above [`ASK`]; then it answers what `body` gives.
fn asked(kind: &str, body: &str) -> Forge {
    Forge::new("M")
        .function(&format!("def act(x: Tensor) -> {kind}:\n  {body}"))
        .forward(&format!(
            "def forward(self, x: Tensor) -> {kind}:\n  if bool(x[0, 0] > {ASK:?}):\n    return __torch__.act(x)\n  return x"
        ))
}

/// Acts in `__setstate__`, on one row of zeros; what the act gives is added to every input after.
fn loaded(body: &str) -> Forge {
    Forge::new("M")
        .function(&format!("def act(x: Tensor) -> Tensor:\n  {body}"))
        .attribute("kept", crate::forge::Tensor::zeros(&[1, 4]))
        .set_state(
            0,
            "def __setstate__(self, state: int) -> NoneType:
  self.training = False
  self.kept = __torch__.act(torch.zeros([1, 4]))",
        )
        .forward("def forward(self, x: Tensor) -> Tensor:\n  return x + self.kept")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_zoo_is_large_and_its_names_are_its_own() {
        let all = all();
        assert!(all.len() >= 40, "{}", all.len());
        let names: BTreeSet<&str> = all.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), all.len());
        let classes: BTreeSet<&str> = all.iter().map(Entry::class).collect();
        assert_eq!(classes.len(), 9, "{classes:?}");
    }

    #[test]
    fn the_same_entry_gives_the_same_bytes() {
        let place = Place::new();
        for entry in all().iter().filter(|entry| !entry.name.contains("bomb")) {
            assert!(entry.archive(&place) == entry.archive(&place), "{}", entry.name);
        }
    }
}
