//! The source code of an archive: what it defines, how deep it nests, how large it becomes, what it names.
//!
//! It is read as text and never evaluated: [`token`] cuts it, [`depth`] bounds what libtorch's parser does recursively,
//! [`trips`] what its loops count to, [`define`] finds classes with their [`line`]s and functions with their [`signature`]s,
//! [`literal`] tells what is only written from what would run at load, [`body`] follows names and calls through one function,
//! [`inline`] adds up.

mod body;
mod define;
mod depth;
mod inline;
mod line;
mod literal;
mod signature;
pub mod token;
mod trips;

use std::collections::{HashMap, HashSet};

use casemate_ipc::work::GateCode::{CodeSize, CodeText};

use self::signature::Signature;
use crate::refusal::{Refusal, shown};

/// Tokens of all code together.
pub const MAX_TOKENS: usize = 4_000_000;
/// Tokens of a function with everything that it calls written out in its place, as libtorch's inliner does it.
pub const MAX_INLINED: u64 = 1_000_000;
/// Classes and functions.
pub const MAX_DEFINITIONS: usize = 100_000;

/// What the code says.
#[derive(Debug, Default)]
pub struct Code {
    /// Classes by their full name.
    pub classes: HashMap<String, Class>,
    /// Free functions by their full name: a place in `bodies`.
    functions: HashMap<String, usize>,
    bodies: Vec<Body>,
    /// Names of all attributes and methods.
    declared: HashSet<String>,
    /// The tuples with names that are made at load: the record, what is named, the place.
    made: Vec<(usize, String, usize)>,
    /// What the bodies name, each at its first place.
    pub uses: HashMap<Use, Place>,
}

/// A class.
#[derive(Debug, Default)]
pub struct Class {
    /// Calls through it are not written out by the inliner.
    interface: bool,
    /// A tuple with names.
    pub(crate) tuple: bool,
    /// A pickle names its members by their values.
    pub(crate) enumeration: bool,
    /// Names and types as written.
    pub(crate) attributes: HashMap<String, String>,
    /// The types of a tuple with names, in their order, each time that one is written.
    pub(crate) fields: Vec<String>,
    /// What its methods take and give.
    pub(crate) signatures: HashMap<String, Signature>,
    methods: HashMap<String, usize>,
}

/// Something named that policy has to judge.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// `torch.NAME` or `ops.NS.NAME`, as `NS::NAME`.
    Operator(String),
    /// `….NAME` of something whose type the text does not tell: an operator's method form, perhaps.
    Member(String),
    /// `NAME(…)`, or a special form.
    Builtin(String),
    /// A class written in C++, in full.
    Native(String),
    /// `__setstate__` or `__getstate__`.
    Hook(String),
    /// A name that hides what it means.
    Unclear(String),
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The record.
    pub record: String,
    /// The byte in it.
    pub offset: usize,
}

/// A function or method.
#[derive(Debug)]
struct Body {
    name: String,
    /// The class that it is a method of, in full.
    class: Option<String>,
    record: usize,
    /// Its tokens in the record.
    tokens: std::ops::Range<usize>,
    offset: usize,
    /// Each with the number of its places.
    calls: Vec<(Call, u64)>,
}

/// Where a body goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Call {
    One(usize),
    /// A method by its name only: the largest of all that have it.
    Any(String),
}

impl Class {
    /// Whether its values are objects of it.
    pub(crate) fn has_objects(&self) -> bool {
        !(self.interface || self.tuple || self.enumeration)
    }

    /// Whether it makes its objects by code of its own.
    pub(crate) fn sets_its_state(&self) -> bool {
        self.methods.contains_key("__setstate__")
    }
}

impl Code {
    /// Reads all records of code: names and bytes.
    pub fn read(records: &[(&str, &[u8])]) -> Result<Self, Refusal> {
        let mut code = Self::default();
        let mut sources = Vec::with_capacity(records.len());
        let mut left = MAX_TOKENS;
        for (at, (name, bytes)) in records.iter().enumerate() {
            let text = std::str::from_utf8(bytes)
                .map_err(|e| Refusal::record(CodeText, name, e.valid_up_to(), "the code is not UTF-8"))?;
            let refuse = |(code, offset, why): token::Fault| Refusal::record(code, name, offset, why);
            let tokens = token::cut(text, left).map_err(refuse)?;
            left -= tokens.len();
            depth::check(&tokens).map_err(refuse)?;
            trips::check(text, &tokens).map_err(refuse)?;
            code.define(at, name, &tokens)?;
            sources.push((*name, tokens));
        }
        let names = code.classes.values().flat_map(|class| class.attributes.keys().chain(class.methods.keys()));
        code.declared = names.cloned().collect();
        code.check_made(records)?;
        code.follow(&sources)?;
        code.check_sizes(&sources)?;
        Ok(code)
    }

    /// Whether some class has an attribute or a method of this name.
    pub fn declares(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// Number of functions and methods.
    pub fn functions(&self) -> usize {
        self.bodies.len()
    }

    /// What is called at load has to be a tuple with names, and not something in a class.
    fn check_made(&mut self, records: &[(&str, &[u8])]) -> Result<(), Refusal> {
        for (record, full, at) in std::mem::take(&mut self.made) {
            let mut above = full.match_indices('.').filter_map(|(end, _)| full.get(..end));
            let tuple = self.classes.get(&full).is_some_and(|class| class.tuple);
            if !tuple || above.any(|name| self.classes.contains_key(name)) {
                let name = records.get(record).map_or("", |(name, _)| name);
                let why = format!("{} is called at load and is no tuple with names", shown(&full));
                return Err(Refusal::record(CodeText, name, at, why));
            }
        }
        Ok(())
    }

    fn follow(&mut self, sources: &[(&str, Vec<token::Token<'_>>)]) -> Result<(), Refusal> {
        for at in 0..self.bodies.len() {
            let Some(body) = self.bodies.get(at) else { break };
            let Some((record, tokens)) = sources.get(body.record) else { continue };
            let tokens = tokens.get(body.tokens.clone()).unwrap_or_default();
            let followed = body::follow(self, body, tokens);
            for (used, offset) in followed.uses {
                let place = Place { record: (*record).to_owned(), offset };
                self.uses.entry(used).or_insert(place);
            }
            if let Some(body) = self.bodies.get_mut(at) {
                body.calls = followed.calls;
            }
        }
        Ok(())
    }

    fn check_sizes(&self, sources: &[(&str, Vec<token::Token<'_>>)]) -> Result<(), Refusal> {
        inline::check(self).map_err(|(at, why)| {
            let body = self.bodies.get(at);
            let record = body.and_then(|b| sources.get(b.record)).map_or("", |(name, _)| name);
            let name = body.map_or("", |b| b.name.as_str());
            Refusal::record(CodeSize, record, body.map_or(0, |b| b.offset), format!("{}: {why}", shown(name)))
        })
    }
}

/// Words after which a bracket belongs to no name.
fn is_keyword(name: &str) -> bool {
    matches!(
        name,
        "if" | "elif"
            | "else"
            | "and"
            | "or"
            | "not"
            | "in"
            | "is"
            | "for"
            | "return"
            | "while"
            | "lambda"
            | "assert"
            | "raise"
            | "del"
    )
}
