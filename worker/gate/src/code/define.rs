//! Finds classes, their attributes and methods, and functions: by indentation, as libtorch's parser does.

use casemate_ipc::work::GateCode::{CodeSize, CodeText};

use super::line::{self, Line};
use super::signature::Signature;
use super::token::{Kind, Token};
use super::{Body, Code, MAX_DEFINITIONS, Place, Use, literal};
use crate::refusal::{Refusal, shown};

/// Hooks: how many arguments each must take beside the object itself, and their names.
type Listed<'l, 'a> = (usize, Vec<&'l Token<'a>>);

impl Code {
    /// Takes in the definitions of one record.
    pub(super) fn define(&mut self, record: usize, name: &str, tokens: &[Token<'_>]) -> Result<(), Refusal> {
        let refuse = |code, at, why: String| Refusal::record(code, name, at, why);
        let module = name.strip_prefix("code/").and_then(|n| n.strip_suffix(".py")).unwrap_or_default();
        let module = module.replace('/', ".");
        // Those inside of functions too.
        for (at, token) in tokens.iter().enumerate() {
            if let (Kind::Name("def"), Some([_, Token { kind: Kind::Name(_), .. }, rest @ ..])) =
                (token.kind, tokens.get(at..))
            {
                for value in line::defaults(rest) {
                    self.take_value(record, name, token.at, value)?;
                }
            }
        }
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
                    let Some(new) = line::header(rest) else {
                        return Err(refuse(
                            CodeText,
                            *place,
                            format!("the class {} is of no known kind", shown(&full)),
                        ));
                    };
                    let function = self.functions.contains_key(&full);
                    if self.classes.insert(full.clone(), new).is_some() || function || class.is_some() {
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
                        None => {
                            let full = format!("{module}.{word}");
                            self.classes.contains_key(&full) || self.functions.insert(full, index).is_some()
                        }
                    };
                    if twice {
                        return Err(refuse(CodeText, *place, format!("{} is defined twice", shown(word))));
                    }
                    self.bodies.push(body);
                }
                _ => {
                    if let Some((owner, _)) = &class {
                        if let Some((takes, listed)) = self.take_line(record, name, owner, line)? {
                            hooks.push((owner.clone(), takes, listed));
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
        for (owner, takes, listed) in hooks {
            let class = self.classes.get(&owner);
            for token in listed {
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

    /// Takes in a line of a class that is no method; the hooks that it lists, and what they must take.
    fn take_line<'l, 'a>(
        &mut self,
        record: usize,
        name: &str,
        owner: &str,
        line: &'l [Token<'a>],
    ) -> Result<Option<Listed<'l, 'a>>, Refusal> {
        let offset = line.first().map_or(0, |token| token.at);
        let refuse = |at, why: &str| Err(Refusal::record(CodeText, name, at, why));
        let Some(class) = self.classes.get_mut(owner) else { return Ok(None) };
        if line.is_empty() {
            return Ok(None);
        }
        let Some(read) = Line::read(class, line) else {
            let why = match class.enumeration {
                true => "a member of an enumeration without a value",
                false => "a line of a class that torch.jit.save would not write",
            };
            return refuse(offset, why);
        };
        let mut value = None;
        match read {
            Line::Hooks { takes, listed } => {
                // libtorch decides at each method whether it is a hook, by what is listed until then.
                let early =
                    |token: &&&Token<'_>| matches!(token.kind, Kind::Text(hook) if class.signatures.contains_key(hook));
                if let Some(token) = listed.iter().find(early) {
                    return refuse(token.at, "a hook that is listed after it was defined");
                }
                return Ok(Some((takes, listed)));
            }
            Line::Attribute { name: attribute, kind, value: constant } => {
                let kind = written(kind);
                for native in natives(&kind) {
                    let place = Place { record: name.to_owned(), offset };
                    self.uses.entry(Use::Native(native.to_owned())).or_insert(place);
                }
                if class.tuple {
                    class.fields.push(kind.clone());
                }
                class.attributes.insert(attribute.to_owned(), kind);
                value = constant;
            }
            Line::Member { value: member } => value = Some(member),
            Line::Else => {}
        }
        value.map_or(Ok(()), |value| self.take_value(record, name, offset, value))?;
        Ok(None)
    }

    /// Takes in a value that libtorch makes while it loads.
    fn take_value(&mut self, record: usize, name: &str, at: usize, value: &[Token<'_>]) -> Result<(), Refusal> {
        let refuse =
            |at| Refusal::record(CodeText, name, at, "a value that is not written out but made by code at load");
        if value.is_empty() {
            return Err(refuse(at));
        }
        let made = literal::read(value).map_err(refuse)?;
        self.made.extend(made.into_iter().map(|(full, at)| (record, full, at)));
        Ok(())
    }
}

/// Tokens up to the end of the line.
fn length(tokens: &[Token<'_>]) -> usize {
    tokens.iter().take_while(|token| !matches!(token.kind, Kind::Line(_))).count()
}

/// Classes in C++ that a type names.
fn natives(kind: &str) -> impl Iterator<Item = &str> {
    let words = kind.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    words.filter(|word| word.starts_with("__torch__.torch.classes."))
}

/// Names and signs together again, without spaces.
fn written(tokens: &[Token<'_>]) -> String {
    let words = tokens.iter().filter_map(|token| match token.kind {
        Kind::Name(word) | Kind::Sign(word) => Some(word),
        _ => None,
    });
    words.collect()
}

/// What archives of older versions begin with.
fn is_preamble(line: &[Token<'_>]) -> bool {
    matches!(line.first().map(|token| token.kind), Some(Kind::Name("op_version_set" | "import")))
}
