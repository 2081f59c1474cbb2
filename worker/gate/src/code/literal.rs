//! A value that is written out: a constant of a class, a member of an enumeration, the default of an argument.
//!
//! libtorch compiles such an expression and runs it while it loads, before anybody asks for anything. So it may be only what
//! `torch.jit.save` prints there, which calls nothing.

use super::token::{Kind, Token};

/// A tuple with names, `__torch__.a.Name(…)`: what is named and where. It must be one: a function would run.
pub(super) type Made = (String, usize);

/// What stands before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing that ends a value: one must follow.
    Nothing,
    Number,
    Value,
}

/// The tuples with names that a value makes; or the place where it is no value that is written out.
pub(super) fn read(tokens: &[Token<'_>]) -> Result<Vec<Made>, usize> {
    let kinds: Vec<Kind<'_>> = tokens.iter().map(|token| token.kind).collect();
    let mut made = Vec::new();
    let (mut at, mut depth, mut before) = (0, 0usize, Before::Nothing);
    while let Some([first, ..]) = tokens.get(at..) {
        let rest = kinds.get(at..).unwrap_or_default();
        let (length, after) = match (before, rest) {
            (Before::Nothing, [Kind::Name("annotate"), Kind::Sign("("), kind @ ..]) => {
                let kind = type_length(kind).ok_or(first.at)?;
                depth += 1;
                (3 + kind, Before::Nothing)
            }
            (Before::Nothing, [Kind::Name("__torch__"), ..]) => {
                let (name, length) = path(rest);
                if name.starts_with("__torch__.torch.classes") {
                    return Err(first.at);
                }
                if rest.get(length) == Some(&Kind::Sign("(")) {
                    made.push((name, first.at));
                    depth += 1;
                    (length + 1, Before::Nothing)
                } else {
                    (length, Before::Value)
                }
            }
            (Before::Nothing, rest) if let Some((length, after)) = plain(rest) => (length, after),
            (Before::Nothing, [Kind::Sign("(" | "[" | "{"), ..]) => {
                depth += 1;
                (1, Before::Nothing)
            }
            (_, [Kind::Sign(")" | "]" | "}"), ..]) if depth > 0 => {
                depth -= 1;
                (1, Before::Value)
            }
            (Before::Number | Before::Value, [Kind::Sign("," | ":"), ..]) if depth > 0 => (1, Before::Nothing),
            // `1.+2.j`.
            (Before::Number, [Kind::Sign("+" | "-"), Kind::Number | Kind::Name("inf" | "nan"), ..]) => {
                (2, Before::Number)
            }
            _ => return Err(first.at),
        };
        (at, before) = (at + length, after);
    }
    if before == Before::Nothing || depth > 0 {
        return Err(tokens.last().map_or(0, |token| token.at));
    }
    Ok(made)
}

/// A value of one piece, and the number of its tokens.
fn plain(rest: &[Kind<'_>]) -> Option<(usize, Before)> {
    Some(match rest {
        [Kind::Text(_) | Kind::Name("True" | "False" | "None"), ..] => (1, Before::Value),
        [Kind::Number | Kind::Name("inf" | "nan"), ..] => (1, Before::Number),
        [Kind::Sign("-"), Kind::Number | Kind::Name("inf" | "nan"), ..] => (2, Before::Number),
        [Kind::Name("CONSTANTS"), Kind::Sign("."), Kind::Name(_), ..] => (3, Before::Value),
        [Kind::Name("float"), Kind::Sign("("), Kind::Text(_), Kind::Sign(")"), ..] => (4, Before::Value),
        [
            Kind::Name("torch"),
            Kind::Sign("."),
            Kind::Name("device"),
            Kind::Sign("("),
            Kind::Text(_),
            Kind::Sign(")"),
            ..,
        ] => (6, Before::Value),
        _ => return None,
    })
}

/// Whether all of it is a type: names and what stands between them.
pub(super) fn is_type(tokens: &[Token<'_>]) -> bool {
    !tokens.is_empty() && tokens.iter().all(|token| may_be_in_type(token.kind))
}

fn may_be_in_type(kind: Kind<'_>) -> bool {
    // `Tuple[()]` is one.
    matches!(kind, Kind::Name(_) | Kind::Sign("." | "[" | "]" | "," | "|" | "(" | ")"))
}

/// Tokens of a type up to the comma behind it. Classes of C++ are none that a constant is of.
fn type_length(kinds: &[Kind<'_>]) -> Option<usize> {
    let mut depth = 0usize;
    for (at, kind) in kinds.iter().enumerate() {
        match kind {
            Kind::Sign(",") if depth == 0 => return Some(at),
            Kind::Sign("[" | "(") => depth += 1,
            Kind::Sign("]" | ")") => depth = depth.checked_sub(1)?,
            Kind::Name("classes") => return None,
            _ if may_be_in_type(*kind) => {}
            _ => return None,
        }
    }
    None
}

/// `a.b.c`, and the number of its tokens.
fn path(kinds: &[Kind<'_>]) -> (String, usize) {
    let (mut name, mut length) = (String::new(), 0);
    while let Some(Kind::Name(word)) = kinds.get(length) {
        name.push_str(word);
        length += 1;
        if !matches!(kinds.get(length..), Some([Kind::Sign("."), Kind::Name(_), ..])) {
            break;
        }
        name.push('.');
        length += 1;
    }
    (name, length)
}

#[cfg(test)]
mod tests {
    use super::super::token::cut;
    use super::*;

    fn reads(text: &str) -> bool {
        let tokens = cut(text, 1000).unwrap();
        read(&tokens[1..tokens.len() - 1]).is_ok()
    }

    #[test]
    fn what_is_printed_for_a_constant_is_a_value() {
        for value in [
            "3",
            "-3",
            "0.5",
            "-1.0000000000000001e-05",
            "inf",
            "-inf",
            "nan",
            "float(\"inf\")",
            "1.+2.j",
            "-1.-2.5j",
            "True",
            "None",
            "\"zeros\"",
            "\"\"",
            "()",
            "(0, 0)",
            "(64,)",
            "[]",
            "[1, -2, 3]",
            "[\"a\", \"b\", ]",
            "{\"a\": 1, \"b\": (2, [3.])}",
            "{}",
            "annotate(List[int], [])",
            "annotate(Dict[str, Tuple[int, Optional[Tensor]]], {})",
            "annotate(List[Tuple[()]], [()])",
            "torch.device(\"cpu\")",
            "CONSTANTS.c0",
            "[CONSTANTS.c0, CONSTANTS.c1]",
            "__torch__.a.Color.RED",
            "__torch__.a.___torch_mangle_1.Pair(1, (2,))",
        ] {
            assert!(reads(value), "{value}");
        }
    }

    #[test]
    fn what_calls_something_is_none() {
        for value in [
            "",
            "torch.from_file(\"f\", False, 100)",
            "(torch).save",
            "torch.device(\"cpu\").type()",
            "torch.device(torch.f())",
            "[torch.ones([9])]",
            "annotate(int, f())",
            "annotate(f(1), 1)",
            "annotate(__torch__.torch.classes.a.B, 1)",
            "annotate(int)",
            "__torch__.torch.classes.a.B()",
            "__torch__.P(1)(2)",
            "__torch__.P(f())",
            "CONSTANTS.c0.T",
            "CONSTANTS.c0[0]",
            "CONSTANTS.c0+CONSTANTS.c1",
            "[0] * 1000000000",
            "2 ** 2",
            "[i for i in (1, 2)]",
            "1 if True else 2",
            "\"a\" \"b\"",
            "\"a\".join([])",
            "\"a\"(1)",
            "f",
            "id(1)",
            "not True",
            "1, 2",
            "1 = 2",
            "(1)(2)",
            "--1",
            "-CONSTANTS.c0",
            "[x]",
            "complex(1, f())",
        ] {
            assert!(!reads(value), "{value}");
        }
    }
}
