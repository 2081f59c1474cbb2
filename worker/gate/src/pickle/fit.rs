//! Whether a value is of the type that it is given. libtorch sets a type without looking, and then finds an object's
//! attributes by their places, and a method of an interface by its name.

use std::collections::HashMap;
use std::rc::Rc;

use casemate_ipc::work::GateCode::{PickleOpcode, PickleSize};

use super::MAX_EXPANDED;
use super::global::Global;
use super::machine::{Fault, Machine};
use super::tag::Tag;
use super::value::{Node, Value};
use crate::refusal::shown;

/// How deep alternatives may nest: each is tried on its own.
const MAX_ALTERNATIVES: u32 = 8;

/// Letters that are read or compared for one value's worth of work.
const LETTERS: usize = 64;

/// What was found out about types, so that it is found out once.
#[derive(Debug, Default)]
pub(super) struct Types {
    /// Values that were held against a type, and letters of types and of names.
    looked: u64,
    /// Types by where the code has written them, which stays as it is for the whole walk; none where libtorch looks itself.
    read: HashMap<usize, Option<Tag>>,
    /// The types in tuples with names, by the tuple's.
    fields: HashMap<Rc<str>, Rc<[Tag]>>,
    /// Classes with interfaces, and whether each has all methods of it.
    stand_ins: HashMap<(String, Rc<str>), bool>,
}

impl<'a> Machine<'a, '_> {
    /// Whether the attributes of a new object are of the types that its class gives them, as far as libtorch does not look
    /// itself when it uses one.
    pub(super) fn check_attributes(&mut self, class: usize, state: Value<'a>) -> Result<(), Fault> {
        let around = self.around;
        let Some(Global::Class(name)) = self.globals.get(class) else { return Ok(()) };
        let (known, letters) = (around.classes.get(name), name.len());
        self.look(letters / LETTERS)?;
        let Some(class) = known.filter(|class| !class.sets_its_state()) else { return Ok(()) };
        let Some(Node::Dict(items)) = self.arena.node(state) else { return Ok(()) };
        let items = items.clone();
        let mut typed = Vec::new();
        for (name, value) in items {
            let Value::Text(name) = name else { return Err(undeclared()) };
            self.look(1 + name.len() / LETTERS)?;
            // libtorch may know it all the same, under a spelling that is not read here.
            let kind = class.attributes.get(name).ok_or_else(undeclared)?;
            typed.push((kind, value));
        }
        for (kind, value) in typed {
            if let Some(tag) = self.declared(kind)? {
                self.check_tag(value, &tag)?;
            }
        }
        Ok(())
    }

    /// Whether a value is of a type.
    pub(super) fn check_tag(&mut self, value: Value<'a>, tag: &Tag) -> Result<(), Fault> {
        if self.fits(value, tag, 0)? {
            return Ok(());
        }
        let kind = shown(&format!("{tag:?}"));
        Err(Fault::new(PickleOpcode, format!("a value that is not of the type {kind} it is given")))
    }

    /// Counts. One list can be given a type again and again.
    pub(super) fn look(&mut self, values: usize) -> Result<(), Fault> {
        self.types.looked = self.types.looked.saturating_add(values as u64);
        if self.types.looked > MAX_EXPANDED {
            return Err(Fault::new(PickleSize, format!("more than {MAX_EXPANDED} values that are given a type")));
        }
        Ok(())
    }

    /// A type that the code gives an attribute; none where libtorch looks itself. One that cannot be read here could mean
    /// anything to libtorch. It is read once, however many objects have the attribute.
    fn declared(&mut self, kind: &str) -> Result<Option<Tag>, Fault> {
        let place = kind.as_ptr().addr();
        if let Some(tag) = self.types.read.get(&place) {
            return Ok(tag.clone());
        }
        self.look(kind.len() / LETTERS)?;
        let tag = if matters(kind) {
            self.look(kind.len())?;
            Some(Tag::parse(kind, self.around).map_err(|(code, why)| Fault::new(code, why))?)
        } else {
            None
        };
        self.types.read.insert(place, tag.clone());
        Ok(tag)
    }

    fn fits(&mut self, value: Value<'a>, tag: &Tag, depth: u32) -> Result<bool, Fault> {
        let mut left = vec![(value, tag.clone())];
        while let Some((value, tag)) = left.pop() {
            self.look(1)?;
            let fits = match (&tag, value) {
                (Tag::Any, _) | (Tag::Optional(_) | Tag::None, Value::None) => true,
                (Tag::Optional(inner), _) => {
                    left.push((value, Tag::clone(inner)));
                    true
                }
                (Tag::Int, Value::Int(_)) | (Tag::Float, Value::Float) | (Tag::Bool, Value::Bool(_)) => true,
                (Tag::Text, Value::Text(_)) => true,
                (Tag::Plain, Value::Int(_) | Value::Float | Value::Bool(_)) => true,
                (Tag::Plain, _) => matches!(self.arena.node(value), Some(Node::Plain)),
                (Tag::Tensor, _) => matches!(self.arena.node(value), Some(Node::Tensor)),
                (Tag::List(inner), _) => match self.arena.node(value) {
                    Some(Node::List(items)) => {
                        left.extend(items.iter().map(|item| (*item, Tag::clone(inner))));
                        true
                    }
                    _ => false,
                },
                (Tag::Dict(key, inner), _) => match self.arena.node(value) {
                    Some(Node::Dict(items)) => {
                        left.extend(items.iter().flat_map(|(k, v)| [(*k, Tag::clone(key)), (*v, Tag::clone(inner))]));
                        true
                    }
                    _ => false,
                },
                (Tag::Tuple(inner), _) => self.each(value, inner, &mut left),
                (Tag::Named(name), _) => {
                    let fields = self.fields(name)?;
                    self.each(value, &fields, &mut left)
                }
                (Tag::Union(tags), _) => {
                    if depth >= MAX_ALTERNATIVES {
                        let why = format!("alternatives of a type nested deeper than {MAX_ALTERNATIVES}");
                        return Err(Fault::new(PickleSize, why));
                    }
                    let mut any = false;
                    for tag in tags.iter() {
                        any = any || self.fits(value, tag, depth + 1)?;
                    }
                    any
                }
                (Tag::Object(name), _) => {
                    self.look(name.len() / LETTERS)?;
                    self.class_of(value).is_some_and(|class| *class == **name)
                }
                (Tag::Enum(name), _) => match self.arena.node(value) {
                    Some(Node::Member(at)) => {
                        matches!(self.globals.get(*at), Some(Global::Enum(class)) if *class == **name)
                    }
                    _ => false,
                },
                (Tag::Interface(name), _) => self.stands_for(value, name)?,
                _ => false,
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A tuple of as many values as there are types; each is still to be looked at.
    fn each(&self, value: Value<'a>, tags: &[Tag], left: &mut Vec<(Value<'a>, Tag)>) -> bool {
        match self.arena.tuple(value) {
            Some(items) if items.len() == tags.len() => {
                left.extend(items.iter().copied().zip(tags.iter().cloned()));
                true
            }
            _ => false,
        }
    }

    /// The types in a tuple with names, those that libtorch does not look at.
    fn fields(&mut self, name: &Rc<str>) -> Result<Rc<[Tag]>, Fault> {
        self.look(name.len() / LETTERS)?;
        if let Some(fields) = self.types.fields.get(name) {
            return Ok(Rc::clone(fields));
        }
        let around = self.around;
        let kinds = around.classes.get(&**name).map(|class| class.fields.as_slice()).unwrap_or_default();
        let tag = |kind: &String| -> Result<Tag, Fault> { Ok(self.declared(kind)?.unwrap_or(Tag::Any)) };
        let fields: Rc<[Tag]> = kinds.iter().map(tag).collect::<Result<_, _>>()?;
        self.types.fields.insert(Rc::clone(name), Rc::clone(&fields));
        Ok(fields)
    }

    /// Whether an object's class has all methods of an interface, with the same types: libtorch calls them by name, and
    /// passes what the interface says.
    fn stands_for(&mut self, value: Value<'a>, interface: &Rc<str>) -> Result<bool, Fault> {
        let around = self.around;
        let Some(name) = self.class_of(value) else { return Ok(false) };
        let known = (name.clone(), Rc::clone(interface));
        self.look((known.0.len() + interface.len()) / LETTERS)?;
        if let Some(stands) = self.types.stand_ins.get(&known) {
            return Ok(*stands);
        }
        let class = around.classes.get(&known.0).filter(|class| class.has_objects());
        let mut all = false;
        if let (Some(class), Some(interface)) = (class, around.classes.get(&**interface)) {
            let letters: usize = interface.signatures.values().map(|one| 1 + one.letters() / LETTERS).sum();
            self.look(letters)?;
            let has =
                |(name, wanted): (&String, &_)| class.signatures.get(name).is_some_and(|own| own.stands_for(wanted));
            all = interface.signatures.iter().all(has);
        }
        // Where it does not, too: as one of several alternatives it can be asked again for each value.
        self.types.stand_ins.insert(known, all);
        Ok(all)
    }

    /// The name of an object's class.
    fn class_of(&self, value: Value<'a>) -> Option<&String> {
        let Some(Node::Object(at)) = self.arena.node(value) else { return None };
        match self.globals.get(*at) {
            Some(Global::Class(name)) => Some(name),
            _ => None,
        }
    }
}

fn undeclared() -> Fault {
    Fault::new(PickleOpcode, "an attribute that its class does not declare".to_owned())
}

/// Whether a value of another type would go unnoticed: of the rest, libtorch asks each value what it is.
fn matters(kind: &str) -> bool {
    kind.contains("__torch__.") || kind.contains("Tuple[")
}
