//! Finds classes, their attributes and methods, and functions: by indentation, as libtorch's parser does.

use casemate_ipc::work::GateCode::{CodeSize, CodeText};

use super::signature::Signature;
use super::token::{Kind, Token};
use super::{Body, Class, Code, MAX_DEFINITIONS, Place, Use};
use crate::refusal::{Refusal, shown};

impl Code {
    /// Takes in the definitions of one record.
    pub(super) fn define(&mut self, record: usize, name: &str, tokens: &[Token<'_>]) -> Result<(), Refusal> {
        let refuse = |code, at, why: String| Refusal::record(code, name, at, why);
        let module = name.strip_prefix("code/").and_then(|n| n.strip_suffix(".py")).unwrap_or_default();
        let module = module.replace('/', ".");
        let mut class: Option<(String, usize)> = None;
        let mut hooks = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let Some(line) = tokens.get(at..) else { break };
            let [Token { kind: Kind::Line(indent), .. }, rest @ ..] = line else {
                at += 1;
                continue;
            };
            let indent = *indent;
            if class.as_ref().is_some_and(|(_, outer)| indent <= *outer) {
                class = None;
            }
            let mut end = at + 1 + length(rest);
            let line = tokens.get(at + 1..end).unwrap_or_default();
            match line {
                [Token { kind: Kind::Name("class"), at: place }, Token { kind: Kind::Name(word), .. }, rest @ ..] => {
                    let full = format!("{module}.{word}");
                    let is = |names: &[&str]| {
                        let named = |token: &Token<'_>| matches!(token.kind, Kind::Name(name) if names.contains(&name));
                        rest.iter().take(3).any(named)
                    };
                    let new = Class {
                        interface: is(&["Interface", "ModuleInterface"]),
                        tuple: is(&["NamedTuple"]),
                        enumeration: is(&["Enum"]),
                        ..Class::default()
                    };
                    if self.classes.insert(full.clone(), new).is_some() || class.is_some() {
                        return Err(refuse(
                            CodeText,
                            *place,
                            format!("the class {} is not the only one", shown(&full)),
                        ));
                    }
                    class = Some((full, indent));
                }
                [Token { kind: Kind::Name("def"), at: place }, Token { kind: Kind::Name(word), .. }, ..] => {
                    // To the end of the block: every line that is indented further.
                    while let Some(Token { kind: Kind::Line(deeper), .. }) = tokens.get(end)
                        && *deeper > indent
                    {
                        end += 1 + length(tokens.get(end + 1..).unwrap_or_default());
                    }
                    let owner = class.as_ref().map(|(name, _)| name.clone());
                    let body = Body {
                        name: (*word).to_owned(),
                        class: owner.clone(),
                        record,
                        tokens: at..end,
                        offset: *place,
                        calls: Vec::new(),
                    };
                    let index = self.bodies.len();
                    let twice = match owner.and_then(|owner| self.classes.get_mut(&owner)) {
                        Some(class) => {
                            class.signatures.insert((*word).to_owned(), Signature::read(line));
                            class.methods.insert((*word).to_owned(), index).is_some()
                        }
                        None => self.functions.insert(format!("{module}.{word}"), index).is_some(),
                    };
                    if twice {
                        return Err(refuse(CodeText, *place, format!("{} is defined twice", shown(word))));
                    }
                    self.bodies.push(body);
                }
                _ => {
                    if let Some((owner, _)) = &class
                        && let Some(takes) = hooked(line)
                    {
                        hooks.push((owner.clone(), takes, line));
                    }
                    if let Some(class) = class.as_ref().and_then(|(name, _)| self.classes.get_mut(name)) {
                        if class.enumeration && !line.iter().any(|token| token.kind == Kind::Sign("=")) {
                            let place = line.first().map_or(0, |token| token.at);
                            return Err(refuse(
                                CodeText,
                                place,
                                "a member of an enumeration without a value".to_owned(),
                            ));
                        }
                        if let Some((attribute, kind)) = attribute(line) {
                            let offset = line.first().map_or(0, |token| token.at);
                            for native in natives(&kind) {
                                let place = Place { record: name.to_owned(), offset };
                                self.uses.entry(Use::Native(native.to_owned())).or_insert(place);
                            }
                            if class.tuple {
                                class.fields.push(kind.clone());
                            }
                            class.attributes.insert(attribute, kind);
                        }
                    } else if !line.is_empty() && !is_preamble(line) {
                        let place = line.first().map_or(0, |token| token.at);
                        return Err(refuse(CodeText, place, "a line that is no class and no function".to_owned()));
                    }
                }
            }
            if self.classes.len() + self.bodies.len() > MAX_DEFINITIONS {
                return Err(refuse(CodeSize, 0, format!("more than {MAX_DEFINITIONS} classes and functions")));
            }
            at = end;
        }
        for (owner, takes, line) in hooks {
            let class = self.classes.get(&owner);
            for token in line {
                let Kind::Text(hook) = token.kind else { continue };
                let method = class.and_then(|class| class.signatures.get("forward").and(class.signatures.get(hook)));
                if hook == "forward" || method.is_none_or(|method| method.count() != takes) {
                    let why = format!("the hook {} is no method that a hook can be", shown(hook));
                    return Err(refuse(CodeText, token.at, why));
                }
            }
        }
        Ok(())
    }
}

/// What the hooks that a line lists must take, beside the object itself. libtorch looks each up among the methods of its class,
/// and uses what it finds unseen.
fn hooked(line: &[Token<'_>]) -> Option<usize> {
    match line.first()?.kind {
        Kind::Name("__forward_pre_hooks__") => Some(1),
        Kind::Name("__forward_hooks__") => Some(2),
        _ => None,
    }
}

/// Tokens up to the end of the line.
fn length(tokens: &[Token<'_>]) -> usize {
    tokens.iter().take_while(|token| !matches!(token.kind, Kind::Line(_))).count()
}

/// `name : Type`, or `__annotations__["0"] = Type`.
fn attribute(line: &[Token<'_>]) -> Option<(String, String)> {
    match line {
        [Token { kind: Kind::Name(name), .. }, Token { kind: Kind::Sign(":"), .. }, kind @ ..] => {
            Some(((*name).to_owned(), written(kind)))
        }
        [
            Token { kind: Kind::Name("__annotations__"), .. },
            Token { kind: Kind::Sign("["), .. },
            Token { kind: Kind::Text(name), .. },
            Token { kind: Kind::Sign("]"), .. },
            Token { kind: Kind::Sign("="), .. },
            kind @ ..,
        ] => Some(((*name).to_owned(), written(kind))),
        _ => None,
    }
}

/// Classes in C++ that a type names.
fn natives(kind: &str) -> impl Iterator<Item = &str> {
    let words = kind.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    words.filter(|word| word.starts_with("__torch__.torch.classes."))
}

/// Names and signs together again, without spaces; a default value is left out.
fn written(tokens: &[Token<'_>]) -> String {
    let words = tokens.iter().map_while(|token| match token.kind {
        Kind::Name(word) => Some(word),
        Kind::Sign("=") => None,
        Kind::Sign(sign) => Some(sign),
        _ => None,
    });
    words.collect()
}

/// What archives of older versions begin with.
fn is_preamble(line: &[Token<'_>]) -> bool {
    matches!(line.first().map(|token| token.kind), Some(Kind::Name("op_version_set" | "import")))
}
