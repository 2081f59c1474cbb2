//! What a method takes and gives, as its first line says it.

use super::token::{Kind, Token};

/// The types of a method, as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Of what it takes, but for the object itself.
    takes: Vec<String>,
    /// Of what it gives; nothing where libtorch would have to find out.
    gives: Option<String>,
}

/// Where in a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Type,
    Default,
}

impl Signature {
    /// Whether a call that was made for `other` finds here what it brings, and gets what it expects. Names and defaults do
    /// not matter: values are passed by their places, all of them.
    pub(crate) fn stands_for(&self, other: &Self) -> bool {
        self == other && self.gives.is_some()
    }

    /// How many arguments it takes, but for the object itself.
    pub(crate) fn count(&self) -> usize {
        self.takes.len()
    }

    /// Letters that a comparison may have to look at.
    pub(crate) fn letters(&self) -> usize {
        self.takes.iter().chain(&self.gives).map(String::len).sum()
    }

    /// Reads `def name(self, x: T, y: T=…) -> T:`.
    pub(super) fn read(line: &[Token<'_>]) -> Self {
        let mut kinds = line.iter().map(|token| token.kind).skip_while(|kind| *kind != Kind::Sign("(")).skip(1);
        let (mut takes, mut text, mut part, mut depth, mut empty) = (Vec::new(), String::new(), Part::Name, 0u32, true);
        for kind in kinds.by_ref() {
            match (kind, depth) {
                (Kind::Sign(")"), 0) => break,
                (Kind::Sign(","), 0) => {
                    takes.push(std::mem::take(&mut text));
                    (part, empty) = (Part::Name, true);
                    continue;
                }
                (Kind::Sign(":"), 0) if part == Part::Name => {
                    part = Part::Type;
                    text.clear();
                }
                (Kind::Sign("="), 0) => part = Part::Default,
                (Kind::Sign("(" | "[" | "{"), _) => depth += 1,
                (Kind::Sign(")" | "]" | "}"), _) => depth = depth.saturating_sub(1),
                _ => {}
            }
            empty = false;
            match (kind, part) {
                (Kind::Sign(":"), Part::Type) if text.is_empty() => {}
                // A star, not a name: what follows is passed otherwise.
                (Kind::Sign(sign), Part::Name | Part::Type) => text.push_str(sign),
                (Kind::Name(word), Part::Type) => text.push_str(word),
                _ => {}
            }
        }
        if !empty {
            takes.push(text);
        }
        if !takes.is_empty() {
            takes.remove(0);
        }
        let gives = (kinds.next() == Some(Kind::Sign("->"))).then(|| {
            let words = kinds.map_while(|kind| match kind {
                Kind::Sign(":") => None,
                Kind::Name(word) | Kind::Sign(word) => Some(word),
                _ => Some("?"),
            });
            words.collect()
        });
        Self { takes, gives }
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::cut;
    use super::*;

    fn read(text: &str) -> Signature {
        let tokens = cut(text, 1000).unwrap();
        Signature::read(&tokens[1..tokens.len() - 1])
    }

    #[test]
    fn types_are_read_and_names_and_defaults_are_not() {
        let whole = read(
            "def f(self: __torch__.M,\n    x: Dict[str, Tensor],\n    y: List[int]=[1, 2], z: int=(1)) -> Tensor:",
        );
        assert_eq!(whole.takes, ["Dict[str,Tensor]", "List[int]", "int"]);
        assert_eq!(whole.gives.as_deref(), Some("Tensor"));
        assert!(read("def f(self, a: Dict[str, Tensor], b: List[int], c: int) -> Tensor:").stands_for(&whole));
        for other in [
            "def f(self, a: Dict[str, Tensor], b: List[int]) -> Tensor:",
            "def f(self, a: Dict[str, Tensor], b: List[int], c: Tensor) -> Tensor:",
            "def f(self, a: Dict[str, Tensor], b: List[int], *, c: int) -> Tensor:",
            "def f(self, a: Dict[str, Tensor], b: List[int], c: int) -> int:",
            "def f(self, a: Dict[str, Tensor], b: List[int], c: int):",
            "def f(self, a, b: List[int], c: int) -> Tensor:",
        ] {
            assert!(!read(other).stands_for(&whole), "{other}");
        }
        let untold = read("def f(self):");
        assert!(untold.takes.is_empty() && !untold.stands_for(&untold), "what it gives is anybody's guess");
    }
}
