//! A type's name in a pickle, as `List[Dict[str, Tensor]]`. libtorch reads it recursively and believes it.

use std::rc::Rc;

use casemate_ipc::work::GateCode::{self, GraphUnlisted, PickleGlobal, PickleSize};

use super::Surroundings;
use crate::refusal::shown;

/// Longest name of a type, in bytes.
const MAX_LENGTH: usize = 64 << 10;
/// How deep a type may nest.
const MAX_DEPTH: u32 = 16;

/// What a value has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tag {
    Int,
    Float,
    Bool,
    Text,
    Tensor,
    None,
    List(Rc<Tag>),
    Dict(Rc<Tag>, Rc<Tag>),
    Optional(Rc<Tag>),
    /// One of these. What is none of the others is taken for the last without a look.
    Union(Rc<[Tag]>),
    /// As many as these, of these types: libtorch unpacks as many as there are.
    Tuple(Rc<[Tag]>),
    /// The same, of the types that this class lists.
    Named(Rc<str>),
    /// An object of exactly this class: libtorch reads its attributes by their places.
    Object(Rc<str>),
    /// A member of exactly this enumeration.
    Enum(Rc<str>),
    /// An object with the methods of this class, which are called by name.
    Interface(Rc<str>),
    /// No object, list or tuple. What of the rest it is, libtorch checks when it is used.
    Plain,
    /// Whatever it is: libtorch asks each value.
    Any,
}

impl Tag {
    pub(super) fn parse(text: &str, around: &Surroundings<'_>) -> Result<Self, (GateCode, String)> {
        let odd = || (PickleGlobal, format!("{:?} is no type", shown(text)));
        if text.len() > MAX_LENGTH {
            return Err((PickleSize, format!("a type's name of {} bytes", text.len())));
        }
        let mut rest = text;
        let tag = one(&mut rest, around, 0).map_err(|fault| fault.unwrap_or_else(odd))?;
        if rest.is_empty() { Ok(tag) } else { Err(odd()) }
    }
}

type Fault = Option<(GateCode, String)>;

/// Bounded by `MAX_DEPTH`, so recursion is safe.
fn one(rest: &mut &str, around: &Surroundings<'_>, depth: u32) -> Result<Tag, Fault> {
    if depth > MAX_DEPTH {
        return Err(Some((PickleSize, format!("a type nested deeper than {MAX_DEPTH}"))));
    }
    let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'.').count();
    let (name, tail) = rest.split_at(length);
    *rest = tail;
    if name.is_empty() {
        return Err(None);
    }
    let mut inner = Vec::new();
    if let Some(tail) = rest.strip_prefix('[') {
        *rest = tail.trim_start();
        // `Tuple[()]`
        if let Some(tail) = rest.strip_prefix("()]") {
            *rest = tail;
            return if name == "Tuple" { Ok(Tag::Tuple(Rc::new([]))) } else { Err(None) };
        }
        loop {
            inner.push(one(rest, around, depth + 1)?);
            *rest = rest.trim_start();
            if let Some(tail) = rest.strip_prefix(']') {
                *rest = tail;
                break;
            }
            *rest = rest.strip_prefix(',').ok_or(None)?.trim_start();
        }
    }
    match name {
        "Tuple" => return Ok(Tag::Tuple(inner.into())),
        "Union" => return Ok(Tag::Union(inner.into())),
        _ => {}
    }
    let mut inner = inner.into_iter();
    let mut next = || inner.next().map(Rc::new).ok_or(None);
    Ok(match name {
        "int" => Tag::Int,
        "float" => Tag::Float,
        "bool" => Tag::Bool,
        "str" => Tag::Text,
        "Tensor" => Tag::Tensor,
        "List" => Tag::List(next()?),
        "Dict" => Tag::Dict(next()?, next()?),
        "Optional" => Tag::Optional(next()?),
        "None" | "NoneType" => Tag::None,
        "Future" | "Generator" | "Stream" | "Scalar" | "complex" | "Device" | "number" | "Layout" => Tag::Plain,
        "Any" => Tag::Any,
        _ if name.starts_with("__torch__.torch.classes.") => {
            if !(around.native)(name) {
                return Err(Some((GraphUnlisted, format!("the class {} is written in C++", shown(name)))));
            }
            Tag::Object(name.into())
        }
        _ => match around.classes.get(name) {
            Some(class) if class.has_objects() => Tag::Object(name.into()),
            Some(class) if class.tuple => Tag::Named(name.into()),
            Some(class) if class.enumeration => Tag::Enum(name.into()),
            Some(_) => Tag::Interface(name.into()),
            None => return Err(None),
        },
    })
}
