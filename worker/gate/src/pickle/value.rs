//! Values of a pickle, in an arena: places instead of pointers, so that nothing is dropped or compared recursively.

use super::{MAX_DEPTH, MAX_EXPANDED, MAX_VALUES};
use crate::tensor::{Element, Storage};

/// A value, or where it lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    /// Something to call, or a class; see `global.rs`.
    Global(usize),
    Element(Element),
    /// A quantization scheme.
    Scheme(Scheme),
    Node(usize),
}

/// How a quantized tensor is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    PerTensor,
    PerChannel,
}

/// A value that is made of others, or stands for something built.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    /// A class, with nothing in it yet.
    New(usize),
    Object(usize),
    Storage(Storage),
    Tensor,
    /// A member of an enumeration.
    Member(usize),
    /// A device, a complex number.
    Plain,
}

/// Everything that a pickle has made.
#[derive(Debug, Default)]
pub(super) struct Arena<'a> {
    nodes: Vec<Slot<'a>>,
    values: usize,
}

#[derive(Debug)]
struct Slot<'a> {
    node: Node<'a>,
    depth: u32,
    weight: u64,
    /// Whether it is part of another value; from then on it may not change, so depths stay true.
    inside: bool,
}

impl<'a> Arena<'a> {
    /// Counts one more value on the stack.
    pub(super) fn count(&mut self) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(format!("more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    pub(super) fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        let Value::Node(at) = value else { return None };
        self.nodes.get(at).map(|slot| &slot.node)
    }

    pub(super) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match self.node(value)? {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// Adds a node that is made of `parts`.
    pub(super) fn add(&mut self, node: Node<'a>, parts: &[Value<'a>]) -> Result<Value<'a>, String> {
        let (depth, weight) = self.measure(parts)?;
        self.nodes.push(Slot { node, depth, weight, inside: false });
        Ok(Value::Node(self.nodes.len() - 1))
    }

    /// Puts more parts into a list or dictionary that is not part of anything yet.
    pub(super) fn extend(&mut self, target: Value<'a>, parts: &[Value<'a>]) -> Result<(), String> {
        if parts.contains(&target) {
            return Err("a value is put into itself".to_owned());
        }
        let (depth, weight) = self.measure(parts)?;
        let Value::Node(at) = target else { return Err("something is put into a value that holds nothing".to_owned()) };
        let slot = self.nodes.get_mut(at).ok_or("a value that is not there")?;
        if slot.inside {
            return Err("a value changes after it has become part of another".to_owned());
        }
        slot.depth = slot.depth.max(depth);
        slot.weight = slot.weight.saturating_add(weight);
        if slot.weight > MAX_EXPANDED {
            return Err(format!("more than {MAX_EXPANDED} values with shared ones counted each time"));
        }
        match &mut slot.node {
            Node::List(items) => items.extend(parts),
            Node::Dict(items) => {
                if !parts.len().is_multiple_of(2) {
                    return Err("a key without a value".to_owned());
                }
                for pair in parts.chunks_exact(2) {
                    let [key, value] = pair else { continue };
                    // libtorch hashes a key recursively; these it cannot.
                    if !matches!(key, Value::Int(_) | Value::Float | Value::Bool(_) | Value::Text(_)) {
                        return Err("a key that is neither a number nor a text".to_owned());
                    }
                    items.push((*key, *value));
                }
            }
            _ => return Err("something is put into a value that is neither a list nor a dictionary".to_owned()),
        }
        Ok(())
    }

    /// Depth and weight of a value with these parts, which from now on are parts.
    fn measure(&mut self, parts: &[Value<'a>]) -> Result<(u32, u64), String> {
        let (mut depth, mut weight) = (0, 1u64);
        for part in parts {
            weight = weight.saturating_add(1);
            match part {
                Value::Node(at) => {
                    let slot = self.nodes.get_mut(*at).ok_or("a value that is not there")?;
                    if let Node::New(_) = slot.node {
                        return Err("a class stands where a value should".to_owned());
                    }
                    slot.inside = true;
                    depth = depth.max(slot.depth);
                    weight = weight.saturating_add(slot.weight);
                }
                Value::Global(_) => return Err("a function stands where a value should".to_owned()),
                _ => {}
            }
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(format!("values nested deeper than {MAX_DEPTH}"));
        }
        if weight > MAX_EXPANDED {
            return Err(format!("more than {MAX_EXPANDED} values with shared ones counted each time"));
        }
        Ok((depth, weight))
    }
}
