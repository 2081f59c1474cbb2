//! One function or method: what it names and what it calls.
//!
//! Types are followed only as far as `torch.jit.save` prints them: `self`, arguments with a type, `name = self.a.b`,
//! `(name).method(…)`, `getattr(self.list, "0")`. Where that ends, a method call may be any method of that name.

use std::collections::HashMap;

use super::token::{Kind, Token};
use super::{Body, Call, Code, Use, is_keyword};

/// What following gave.
pub(super) struct Followed {
    pub(super) calls: Vec<(Call, u64)>,
    pub(super) uses: Vec<(Use, usize)>,
}

/// A bracket that is open.
#[derive(Debug)]
struct Group<'a> {
    /// `(x)` around a value, not a call's.
    plain: bool,
    /// `getattr(x, "name")`: the type of `x` and the name, as they come.
    getattr: Option<(Option<String>, Option<&'a str>)>,
    /// Whether anything but one value stands in it.
    mixed: bool,
}

struct Follower<'c, 'a> {
    code: &'c Code,
    locals: HashMap<&'a str, Option<String>>,
    /// The class of the value that was read last, if it is known.
    current: Option<String>,
    groups: Vec<Group<'a>>,
    calls: HashMap<Call, u64>,
    uses: Vec<(Use, usize)>,
}

/// Names that mean the same wherever they stand, and must not be handed around under another one.
const ROOTS: [&str; 4] = ["torch", "ops", "__torch__", "getattr"];

pub(super) fn follow(code: &Code, body: &Body, tokens: &[Token<'_>]) -> Followed {
    let mut follower = Follower {
        code,
        locals: HashMap::new(),
        current: None,
        groups: Vec::new(),
        calls: HashMap::new(),
        uses: Vec::new(),
    };
    // The first argument is the object, whatever its name.
    let first = tokens.iter().skip_while(|token| token.kind != Kind::Sign("(")).nth(1).map(|token| token.kind);
    if let (Some(class), Some(Kind::Name(name))) = (&body.class, first) {
        follower.locals.insert(name, Some(class.clone()));
    }
    if matches!(body.name.as_str(), "__setstate__" | "__getstate__") {
        follower.uses.push((Use::Hook(body.name.clone()), body.offset));
    }
    follower.run(tokens);
    Followed { calls: follower.calls.into_iter().collect(), uses: follower.uses }
}

impl<'a> Follower<'_, 'a> {
    fn run(&mut self, tokens: &[Token<'a>]) {
        // A local name that the line gives a value: `name = …`, or an argument or local with a type.
        let mut target: Option<&'a str> = None;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let next = tokens.get(at + 1).map(|t| t.kind);
            match token.kind {
                Kind::Line(_) => {
                    if let Some(name) = target.take() {
                        self.assign(name);
                    }
                    self.groups.clear();
                    self.current = None;
                    if let (Some(Kind::Name(name)), Some(Kind::Sign("="))) = (next, tokens.get(at + 2).map(|t| t.kind))
                    {
                        target = Some(name);
                        at += 3;
                        continue;
                    }
                }
                // The name of what is defined.
                Kind::Name("def" | "class") => {
                    at += 2;
                    continue;
                }
                Kind::Name(name) => {
                    at = self.name(name, tokens, at);
                    continue;
                }
                Kind::Sign(".") => {
                    if let Some(Kind::Name(member)) = next {
                        let called = matches!(tokens.get(at + 2).map(|t| t.kind), Some(Kind::Sign("(")));
                        self.member(member, called, token.at);
                        at += 2;
                        continue;
                    }
                }
                Kind::Text(text) => {
                    self.current = None;
                    match self.groups.last_mut() {
                        Some(Group { getattr: Some((_, name @ None)), .. }) => *name = Some(text),
                        _ => self.mix(),
                    }
                }
                Kind::Sign("(") => {
                    let call = match at.checked_sub(1).and_then(|at| tokens.get(at)).map(|t| t.kind) {
                        Some(Kind::Name(word)) => !is_keyword(word),
                        Some(Kind::Sign(")" | "]") | Kind::Text(_)) => true,
                        _ => false,
                    };
                    // After `Name.method(` nothing is known of the value; in `(x)` it is that of `x`.
                    self.groups.push(Group { plain: !call, getattr: None, mixed: false });
                    self.current = None;
                }
                Kind::Sign("[" | "{") => {
                    self.groups.push(Group { plain: false, getattr: None, mixed: false });
                    self.current = None;
                }
                Kind::Sign(")" | "]" | "}") => self.close(token.at),
                Kind::Sign(",") => {
                    let current = self.current.take();
                    match self.groups.last_mut() {
                        Some(Group { getattr: Some((base @ None, None)), .. }) => *base = current,
                        _ => self.mix(),
                    }
                }
                Kind::Number | Kind::Sign(_) => self.mix(),
            }
            at += 1;
        }
    }

    /// A name that does not follow a dot; where to go on.
    fn name(&mut self, name: &'a str, tokens: &[Token<'a>], at: usize) -> usize {
        let place = tokens.get(at).map_or(0, |t| t.at);
        let path = path(tokens, at);
        let end = at + 2 * path.len() - 1;
        let after = tokens.get(end).map(|t| t.kind);
        match name {
            "torch" | "ops" => {
                // `torch.autograd` is `torch` once more.
                let mut rest = path.iter().skip(1).filter(|part| **part != "autograd");
                let space = if name == "torch" { Some(&"aten") } else { rest.next() };
                let keyword = path.len() == 1 && matches!(after, Some(Kind::Sign("=")));
                match (space, rest.next()) {
                    (Some(space), Some(operator)) => {
                        self.uses.push((Use::Operator(format!("{space}::{operator}")), place));
                    }
                    _ if keyword => {}
                    _ => self.uses.push((Use::Unclear(path.join(".")), place)),
                }
                self.current = None;
                return end;
            }
            // `CONSTANTS.c0`: a tensor of constants.pkl, and no more than that.
            "CONSTANTS" if path.len() > 1 => {
                self.mix();
                return at + 3;
            }
            "__torch__" => {
                self.global(&path, place, tokens, at);
                return end;
            }
            "getattr" => {
                if matches!(after, Some(Kind::Sign("("))) && path.len() == 1 {
                    self.groups.push(Group { plain: true, getattr: Some((None, None)), mixed: false });
                    self.current = None;
                    return at + 2;
                }
                self.uses.push((Use::Unclear("getattr".to_owned()), place));
            }
            _ => {}
        }
        let previous = at.checked_sub(1).and_then(|at| tokens.get(at)).map(|t| t.kind);
        let called = matches!(tokens.get(at + 1).map(|t| t.kind), Some(Kind::Sign("(")));
        let typed = matches!(tokens.get(at + 1).map(|t| t.kind), Some(Kind::Sign(":")));
        if typed && let Some(class) = self.written_class(tokens, at + 2) {
            self.locals.insert(name, Some(class));
        }
        if (called && !is_keyword(name)) || name.starts_with("rpc_") {
            self.uses.push((Use::Builtin(name.to_owned()), place));
        }
        self.current = self.locals.get(name).cloned().flatten();
        // A keyword or a second value beside the first: `a if b else c`.
        if matches!(previous, Some(Kind::Name(_) | Kind::Number | Kind::Text(_))) || is_keyword(name) {
            self.mix();
        }
        at + 1
    }

    /// `__torch__.a.b.Name…`: a function, a class, or something in a class.
    fn global(&mut self, path: &[&str], place: usize, tokens: &[Token<'a>], at: usize) {
        self.current = None;
        if let ["__torch__", "torch", "classes", rest @ ..] = path {
            // Namespace and name; a method may follow.
            let name: Vec<&str> =
                ["__torch__", "torch", "classes"].iter().chain(rest.iter().take(2)).copied().collect();
            self.uses.push((Use::Native(name.join(".")), place));
            return;
        }
        let mut full = String::new();
        for (index, part) in path.iter().enumerate() {
            if index > 0 {
                full.push('.');
            }
            full.push_str(part);
            if let Some(function) = self.code.functions.get(&full) {
                self.call(Call::One(*function));
                return;
            }
            if let Some(class) = self.code.classes.get(&full) {
                let called = matches!(tokens.get(at + 2 * path.len() - 1).map(|t| t.kind), Some(Kind::Sign("(")));
                let method = match path.get(index + 1) {
                    None if called => class.methods.get("__init__"),
                    Some(member) => class.methods.get(*member),
                    None => None,
                };
                if let Some(method) = method {
                    self.call(Call::One(*method));
                }
                if path.get(index + 1).is_none_or(|member| *member == "__new__") {
                    self.current = Some(full);
                }
                return;
            }
        }
        self.uses.push((Use::Unclear(path.join(".")), place));
    }

    /// `.name` of the value that was read last, or `getattr(…, "name")`.
    fn member(&mut self, name: &str, called: bool, place: usize) {
        // Always: what is followed here is only what is written, and a denied name is denied whatever it seems to belong to.
        self.uses.push((Use::Member(name.to_owned()), place));
        let class = self.current.take().and_then(|class| self.code.classes.get(&class));
        let Some(class) = class else {
            self.call(Call::Any(name.to_owned()));
            return;
        };
        if class.interface && class.methods.contains_key(name) {
            return;
        }
        if let Some(method) = class.methods.get(name) {
            self.call(Call::One(*method));
        } else if let Some(kind) = class.attributes.get(name) {
            if called {
                match self.code.classes.get(kind).map(|class| class.methods.get("forward")) {
                    Some(Some(forward)) => self.call(Call::One(*forward)),
                    Some(None) => {}
                    None => self.call(Call::Any("forward".to_owned())),
                }
            } else if self.code.classes.contains_key(kind) {
                self.current = Some(kind.clone());
            }
        }
    }

    fn call(&mut self, call: Call) {
        *self.calls.entry(call).or_default() += 1;
    }

    fn close(&mut self, place: usize) {
        let Some(group) = self.groups.pop() else { return };
        match group.getattr {
            Some((base, Some(name))) if !name.contains('\\') => {
                self.current = base;
                self.member(name, false, place);
            }
            Some(_) => {
                self.current = None;
                self.uses.push((Use::Unclear("getattr".to_owned()), place));
            }
            None if group.plain && !group.mixed => {}
            None => self.current = None,
        }
    }

    /// Something stands beside the value, so its type is not the whole's.
    fn mix(&mut self) {
        self.current = None;
        if let Some(group) = self.groups.last_mut() {
            group.mixed = true;
        }
    }

    /// A name with two types has none.
    fn assign(&mut self, name: &'a str) {
        if ROOTS.contains(&name) {
            return;
        }
        let class = self.current.take();
        let known = self.locals.entry(name).or_insert_with(|| class.clone());
        if *known != class {
            *known = None;
        }
    }

    fn written_class(&self, tokens: &[Token<'a>], at: usize) -> Option<String> {
        let full = path(tokens, at).join(".");
        self.code.classes.contains_key(&full).then_some(full)
    }
}

/// `a.b.c` from here on.
fn path<'a>(tokens: &[Token<'a>], at: usize) -> Vec<&'a str> {
    let mut path = Vec::new();
    let mut at = at;
    while let Some(Token { kind: Kind::Name(name), .. }) = tokens.get(at) {
        path.push(*name);
        if !matches!(tokens.get(at + 1).map(|t| t.kind), Some(Kind::Sign("."))) {
            break;
        }
        at += 2;
    }
    path
}
