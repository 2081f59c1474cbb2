//! What a source file refers to: every path in it, made whole from the crate's root where it is one of ours.

use super::token::{Kind, Token};

/// Something a file names, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) line: usize,
    pub(super) named: Named,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// `["crate", "batch", "Job"]`, `["tokio", "spawn"]`; the last segment of a glob import is `*`.
    Path(Vec<String>),
    Word(String),
    Method(String),
}

/// Where a file stands: its crate's name in code, and its module as segments from `crate`.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub(super) krate: String,
    pub(super) module: Vec<String>,
}

pub(super) fn references(tokens: &[Token<'_>], stand: &Stand) -> Vec<Reference> {
    let mut walk = Walk { tokens, at: 0, stand, inner: Vec::new(), depth: 0, found: Vec::new() };
    walk.file();
    walk.found
}

struct Walk<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    stand: &'a Stand,
    /// Modules written inside the file, each with the depth of its braces: `super` counts from them.
    inner: Vec<(&'a str, usize)>,
    depth: usize,
    found: Vec<Reference>,
}

impl<'a> Walk<'a> {
    fn file(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            match token.kind {
                Kind::Sign('{') => self.depth += 1,
                Kind::Sign('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    self.inner.retain(|&(_, depth)| depth <= self.depth);
                }
                Kind::Sign('.') => {
                    if let Some(Kind::Word(method)) = self.kind(1) {
                        self.push(token.line, Named::Method(method.to_owned()));
                    }
                }
                Kind::Word(word) => {
                    self.word(word, token.line);
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn kind(&self, ahead: usize) -> Option<Kind<'a>> {
        self.tokens.get(self.at + ahead).map(|token| token.kind)
    }

    /// Leaves `at` behind the word and whatever it began.
    fn word(&mut self, word: &'a str, line: usize) {
        match (word, self.kind(1), self.kind(2)) {
            // `use<'a>` in a bound is no import.
            ("use", Some(Kind::Word(_) | Kind::Path | Kind::Sign('{')), _) => {
                self.at += 1;
                self.tree(&[]);
            }
            ("crate", Some(Kind::Word(name)), _) => {
                // `extern crate name`
                self.push_path(line, vec![name.to_owned()]);
                self.at += 2;
            }
            ("mod", Some(Kind::Word(name)), Some(Kind::Sign('{'))) => {
                self.depth += 1;
                self.inner.push((name, self.depth));
                self.at += 3;
            }
            (_, Some(Kind::Path), _) => {
                let path = self.plain_path();
                self.push_path(line, path);
            }
            _ => {
                self.push(line, Named::Word(word.to_owned()));
                self.at += 1;
            }
        }
    }

    /// `a::b::c`, as far as words go on.
    fn plain_path(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        while let Some(Kind::Word(word)) = self.kind(0) {
            path.push(word.to_owned());
            self.at += 1;
            match (self.kind(0), self.kind(1)) {
                (Some(Kind::Path), Some(Kind::Word(_))) => self.at += 1,
                _ => break,
            }
        }
        path
    }

    /// One tree of a `use`, below `prefix`: `a::{b, c::*, d as e}`.
    fn tree(&mut self, prefix: &[String]) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        if self.kind(0) == Some(Kind::Path) {
            self.at += 1;
        }
        let mut path = prefix.to_vec();
        path.extend(self.plain_path());
        if self.kind(0) == Some(Kind::Path) {
            self.at += 1;
        }
        match self.kind(0) {
            Some(Kind::Sign('*')) => {
                self.at += 1;
                path.push("*".into());
            }
            Some(Kind::Sign('{')) => {
                self.at += 1;
                while !matches!(self.kind(0), None | Some(Kind::Sign('}' | ';'))) {
                    let before = self.at;
                    self.tree(&path);
                    // What is no tree is stepped over, so that this always ends.
                    if self.kind(0) == Some(Kind::Sign(',')) || self.at == before {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            }
            _ => {}
        }
        if self.kind(0) == Some(Kind::Word("as")) {
            self.at += 2;
        }
        // `use a::b::{self}` is `a::b`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        self.push_path(line, path);
    }

    fn push_path(&mut self, line: usize, path: Vec<String>) {
        let path = self.whole(path);
        self.push(line, Named::Path(path));
    }

    fn push(&mut self, line: usize, named: Named) {
        self.found.push(Reference { line, named });
    }

    /// `self`, `super` and the crate's own name become `crate::…`.
    fn whole(&self, path: Vec<String>) -> Vec<String> {
        let mut here: Vec<String> = self.stand.module.clone();
        here.extend(self.inner.iter().map(|(name, _)| (*name).to_owned()));
        let mut rest = path.into_iter().peekable();
        let Some(first) = rest.next() else { return Vec::new() };
        let mut whole = match first.as_str() {
            "crate" => vec!["crate".to_owned()],
            own if own == self.stand.krate => vec!["crate".to_owned()],
            "self" => here,
            "super" => {
                here.pop();
                while rest.next_if(|next| next == "super").is_some() {
                    here.pop();
                }
                here
            }
            _ => vec![first],
        };
        whole.extend(rest);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::tokens;
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let module = ["crate", "protocol", "oip_json"].map(str::to_owned).to_vec();
        let found = references(&tokens(text), &Stand { krate: "casemate_front".into(), module });
        let paths = found.into_iter().filter_map(|reference| match reference.named {
            Named::Path(path) => Some(path.join("::")),
            _ => None,
        });
        paths.collect()
    }

    #[test]
    fn a_use_tree_becomes_its_leaves() {
        assert_eq!(
            paths("pub(crate) use crate::{batch::{self, Job as Work}, fleet::*, request};"),
            ["crate::batch", "crate::batch::Job", "crate::fleet::*", "crate::request"]
        );
        assert_eq!(paths("use ::tokio; use {axum, hyper::body};"), ["tokio", "axum", "hyper::body"]);
    }

    #[test]
    fn relative_paths_are_made_whole() {
        assert_eq!(
            paths("use super::numbers; fn f() { super::super::batch::go() }"),
            ["crate::protocol::numbers", "crate::batch::go"]
        );
        assert_eq!(paths("use casemate_front::fleet::Link;"), ["crate::fleet::Link"]);
    }

    #[test]
    fn a_module_inside_the_file_moves_super() {
        let text = "mod tests { use super::*; fn f() {} } use super::numbers;";
        assert_eq!(paths(text), ["crate::protocol::oip_json::*", "crate::protocol::numbers"]);
    }

    #[test]
    fn paths_in_expressions_types_macros_and_attributes_count() {
        let text = "#[tokio::main] fn f(x: Vec<tch::Tensor>) -> impl Sized + use<'_> { tracing::info!(\"{}\", <a::B as c::D>::e) }";
        assert_eq!(paths(text), ["tokio::main", "tch::Tensor", "tracing::info", "a::B", "c::D"]);
    }
}
