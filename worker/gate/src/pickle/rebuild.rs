//! What a call in a pickle gives: tensors above all, each held against its storage.

use std::rc::Rc;

use casemate_ipc::work::GateCode::{PickleOpcode, TensorBounds, TensorDevice};

use super::global::{Global, Item};
use super::machine::{Fault, Machine};
use super::tag::Tag;
use super::value::{Node, Scheme, Value};
use crate::refusal::shown;

/// A node and its parts; without a node, the one part itself.
type Made<'a> = (Option<Node<'a>>, Vec<Value<'a>>);

impl<'a> Machine<'a, '_> {
    pub(super) fn call(&mut self, global: &Global, arguments: &[Value<'a>]) -> Result<Made<'a>, Fault> {
        match (global, arguments) {
            (Global::Tensor, [storage, offset, sizes, strides, Value::Bool(_), Value::None, rest @ ..]) => {
                match rest {
                    [] => {}
                    [bits] if self.is_bits(*bits) => {}
                    _ => return Err(Fault::new(PickleOpcode, "a tensor with arguments that are not known")),
                }
                self.tensor([*storage, *offset, *sizes, *strides], false)
            }
            (Global::QuantizedTensor, [storage, offset, sizes, strides, scale, Value::Bool(_), Value::None]) => {
                self.check_scale(*scale, *sizes)?;
                self.tensor([*storage, *offset, *sizes, *strides], true)
            }
            // The hooks of a tensor: libtorch puts nothing in their place.
            (Global::Hooks, []) => Ok((None, vec![Value::None])),
            (Global::List(item), [list]) => {
                let kind = match item {
                    Item::Int => Tag::Int,
                    Item::Float => Tag::Float,
                    Item::Bool => Tag::Bool,
                    Item::Tensor => Tag::Tensor,
                };
                self.check_tag(*list, &Tag::List(Rc::new(kind)))?;
                Ok((None, vec![*list]))
            }
            (Global::Tag, [value, Value::Text(text)]) => {
                self.look(text.len())?;
                let tag = Tag::parse(text, self.around).map_err(|(code, why)| Fault::new(code, why))?;
                if !matches!(tag, Tag::List(_) | Tag::Dict(..)) {
                    return Err("a type for something that is neither a list nor a dictionary".into());
                }
                self.check_tag(*value, &tag)?;
                Ok((None, vec![*value]))
            }
            (Global::Device, [Value::Text(device)]) => {
                if *device != "cpu" {
                    let why = format!("the device {:?}; move the model to the CPU and save it again", shown(device));
                    return Err(Fault::new(TensorDevice, why));
                }
                Ok((Some(Node::Plain), Vec::new()))
            }
            (Global::Complex, [Value::Float, Value::Float]) => Ok((Some(Node::Plain), Vec::new())),
            _ => Err("a call with arguments that torch.jit.save does not write".into()),
        }
    }

    fn tensor(
        &mut self,
        [storage, offset, sizes, strides]: [Value<'a>; 4],
        quantized: bool,
    ) -> Result<Made<'a>, Fault> {
        let Some(Node::Storage(stored)) = self.arena.node(storage) else {
            return Err("a tensor of something that is no storage".into());
        };
        let stored = *stored;
        let (Value::Int(offset), Some(sizes), Some(strides)) = (offset, self.integers(sizes), self.integers(strides))
        else {
            return Err("a tensor whose offset, sizes or strides are no whole numbers".into());
        };
        if stored.element.quantized != quantized {
            return Err(Fault::new(TensorBounds, "a quantized storage without a scale, or a scale without one"));
        }
        stored.view(offset, &sizes, &strides).map_err(|why| Fault::new(TensorBounds, why))?;
        self.found.tensors += 1;
        Ok((Some(Node::Tensor), vec![storage]))
    }

    /// `(scheme, scale, zero point)` or `(scheme, scales, zero points, axis)`
    fn check_scale(&self, scale: Value<'a>, sizes: Value<'a>) -> Result<(), Fault> {
        let rank = self.integers(sizes).map_or(0, |sizes| sizes.len());
        let tensor = |value| matches!(self.arena.node(value), Some(Node::Tensor));
        match self.arena.tuple(scale) {
            Some([Value::Scheme(Scheme::PerTensor), Value::Float, Value::Int(_)]) => Ok(()),
            Some([Value::Scheme(Scheme::PerChannel), scales, zeros, Value::Int(axis)])
                if tensor(*scales) && tensor(*zeros) && usize::try_from(*axis).is_ok_and(|axis| axis < rank) =>
            {
                Ok(())
            }
            _ => Err("a quantized tensor whose scale is not known".into()),
        }
    }

    fn integers(&self, tuple: Value<'a>) -> Option<Vec<i64>> {
        let int = |value: &Value<'a>| if let Value::Int(n) = value { Some(*n) } else { None };
        self.arena.tuple(tuple)?.iter().map(int).collect()
    }

    /// `{"conj": bool, "neg": bool}`
    fn is_bits(&self, value: Value<'a>) -> bool {
        let Some(Node::Dict(items)) = self.arena.node(value) else { return false };
        items.len() <= 2 && items.iter().all(|item| matches!(item, (Value::Text("conj" | "neg"), Value::Bool(_))))
    }
}
