//! A line of a class that is no method. Each has one of the shapes in which `torch.jit.save` prints it: libtorch takes others
//! too, for the same or for something that no one would read in them.

use super::literal::is_type;
use super::token::{Kind, Token};
use super::{Class, literal};

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'l, 'a> {
    /// The methods that are hooks, and what each must take beside the object itself.
    Hooks { takes: usize, listed: Vec<&'l Token<'a>> },
    /// `name : Type`, `name : Type = value`, or `__annotations__["0"] = Type`.
    Attribute { name: &'a str, kind: &'l [Token<'a>], value: Option<&'l [Token<'a>]> },
    /// `NAME = value` of an enumeration.
    Member { value: &'l [Token<'a>] },
    /// Nothing that is looked at: the names of parameters, `__annotations__ = []`, `pass`.
    Else,
}

/// Names that libtorch takes for a list of other names, whatever is written between them and the list.
const LISTS: [&str; 5] =
    ["__parameters__", "__buffers__", "__forward_pre_hooks__", "__forward_hooks__", "__annotations__"];

impl<'l, 'a> Line<'l, 'a> {
    /// Reads a line of that class; nothing where it has no shape that a line of such a class has.
    pub(super) fn read(class: &Class, line: &'l [Token<'a>]) -> Option<Self> {
        if class.enumeration {
            return member(line);
        }
        let line = match line {
            [Token { kind: Kind::Name("pass"), .. }] => Self::Else,
            [Token { kind: Kind::Name(name), .. }, Token { kind: Kind::Sign("="), .. }, list @ ..] => {
                let listed = texts(list)?;
                match *name {
                    "__forward_pre_hooks__" => Self::Hooks { takes: 1, listed },
                    "__forward_hooks__" => Self::Hooks { takes: 2, listed },
                    "__annotations__" if !listed.is_empty() => return None,
                    name if LISTS.contains(&name) => Self::Else,
                    _ => return None,
                }
            }
            [Token { kind: Kind::Name(name), .. }, Token { kind: Kind::Sign(":"), .. }, rest @ ..]
                if !LISTS.contains(name) =>
            {
                let equal = rest.iter().position(|token| token.kind == Kind::Sign("="));
                let (kind, value) = match equal {
                    Some(at) => (rest.get(..at)?, rest.get(at + 1..)),
                    None => (rest, None),
                };
                Self::Attribute { name, kind, value }
            }
            [
                Token { kind: Kind::Name("__annotations__"), .. },
                Token { kind: Kind::Sign("["), .. },
                Token { kind: Kind::Text(name), .. },
                Token { kind: Kind::Sign("]"), .. },
                Token { kind: Kind::Sign("="), .. },
                kind @ ..,
            ] if !class.tuple => Self::Attribute { name, kind, value: None },
            _ => return None,
        };
        match &line {
            Self::Attribute { kind, .. } if !is_type(kind) => None,
            // Of a tuple's `x : value = Type` libtorch runs the value.
            Self::Attribute { value: Some(_), .. } | Self::Hooks { .. } | Self::Else if class.tuple => None,
            _ => Some(line),
        }
    }
}

/// What the class line says behind the name: of what kind it is. Nothing where it is none that is printed.
pub(super) fn header(rest: &[Token<'_>]) -> Option<Class> {
    let mut class = Class::default();
    match rest {
        [Token { kind: Kind::Sign(":"), .. }] => {}
        [
            Token { kind: Kind::Sign("("), .. },
            Token { kind: Kind::Name(kind), .. },
            Token { kind: Kind::Sign(")"), .. },
            Token { kind: Kind::Sign(":"), .. },
        ] => match *kind {
            "Module" => {}
            "Interface" | "ModuleInterface" => class.interface = true,
            "NamedTuple" => class.tuple = true,
            "Enum" => class.enumeration = true,
            _ => return None,
        },
        _ => return None,
    }
    Some(class)
}

/// The values that the arguments of `def name(…)` have unless they are given, from the bracket on.
pub(super) fn defaults<'l, 'a>(rest: &'l [Token<'a>]) -> Vec<&'l [Token<'a>]> {
    let (mut values, mut depth, mut begin) = (Vec::new(), 0usize, None);
    for (at, token) in rest.iter().enumerate() {
        let ends = match token.kind {
            Kind::Sign("(" | "[" | "{") => {
                depth += 1;
                false
            }
            Kind::Sign(")" | "]" | "}") => {
                depth = depth.saturating_sub(1);
                depth == 0
            }
            Kind::Sign("=") if depth == 1 && begin.is_none() => {
                begin = Some(at + 1);
                false
            }
            Kind::Sign(",") => depth == 1,
            Kind::Line(_) => true,
            _ => false,
        };
        if ends && let Some(begin) = begin.take() {
            values.push(rest.get(begin..at).unwrap_or_default());
        }
        if depth == 0 {
            break;
        }
    }
    values
}

fn member<'l, 'a>(line: &'l [Token<'a>]) -> Option<Line<'l, 'a>> {
    match line {
        [Token { kind: Kind::Name(_), .. }, Token { kind: Kind::Sign("="), .. }, value @ ..]
            if literal::read(value).is_ok() =>
        {
            Some(Line::Member { value })
        }
        _ => None,
    }
}

/// `["a", "b", ]`: two texts side by side would be one to libtorch.
fn texts<'l, 'a>(list: &'l [Token<'a>]) -> Option<Vec<&'l Token<'a>>> {
    let [Token { kind: Kind::Sign("["), .. }, inner @ .., Token { kind: Kind::Sign("]"), .. }] = list else {
        return None;
    };
    let mut texts = Vec::new();
    for part in inner.chunks(2) {
        match part {
            [text @ Token { kind: Kind::Text(_), .. }]
            | [text @ Token { kind: Kind::Text(_), .. }, Token { kind: Kind::Sign(","), .. }] => texts.push(text),
            _ => return None,
        }
    }
    Some(texts)
}
