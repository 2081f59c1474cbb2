//! A type's name in a pickle, as `List[Dict[str, Tensor]]`. libtorch reads it recursively and believes it.

use casemate_ipc::work::GateCode::{self, GraphUnlisted, PickleGlobal, PickleSize};

use super::Surroundings;
use crate::refusal::shown;

/// Longest name of a type, in bytes.
const MAX_LENGTH: usize = 4096;
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
    List(Box<Tag>),
    Dict(Box<Tag>, Box<Tag>),
    Optional(Box<Tag>),
    /// As many as these, of these types: libtorch unpacks as many as there are.
    Tuple(Vec<Tag>),
    /// An object of exactly this class: libtorch reads its attributes by their places.
    Object(String),
    /// Something that only libtorch can check, and does when it is used.
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
            return if name == "Tuple" { Ok(Tag::Tuple(Vec::new())) } else { Err(None) };
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
    if name == "Tuple" {
        return Ok(Tag::Tuple(inner));
    }
    let mut inner = inner.into_iter();
    let mut next = || inner.next().map(Box::new).ok_or(None);
    Ok(match name {
        "int" => Tag::Int,
        "float" => Tag::Float,
        "bool" => Tag::Bool,
        "str" => Tag::Text,
        "Tensor" => Tag::Tensor,
        "List" => Tag::List(next()?),
        "Dict" => Tag::Dict(next()?, next()?),
        "Optional" => Tag::Optional(next()?),
        "Union" | "Future" | "Any" | "Scalar" | "complex" | "Device" | "NoneType" | "number" | "Layout" => Tag::Any,
        _ if name.starts_with("__torch__.torch.classes.") => {
            if !(around.native)(name) {
                return Err(Some((GraphUnlisted, format!("the class {} is written in C++", shown(name)))));
            }
            Tag::Any
        }
        _ => match around.classes.get(name) {
            Some(class) if class.has_objects() => Tag::Object(name.to_owned()),
            Some(class) if class.tuple => Tag::Tuple(vec![Tag::Any; class.attributes.len()]),
            Some(_) => Tag::Any,
            None => return Err(None),
        },
    })
}
