//! Cuts TorchScript source into tokens, as libtorch's lexer does. Comments and the spaces inside a line are dropped.

use casemate_ipc::work::GateCode::{self, CodeSize, CodeText};

/// A token and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind<'a>,
    /// Its first byte.
    pub at: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A name or a keyword.
    Name(&'a str),
    /// A number.
    Number,
    /// A text, without its quotes and with its escapes.
    Text(&'a str),
    /// Anything else, a character or several.
    Sign(&'a str),
    /// The end of a line that is not inside brackets; the next one is indented by so many spaces.
    Line(usize),
}

/// A reason, where, and what.
pub type Fault = (GateCode, usize, String);

/// Bytes of a name. What is kept of code holds some of them many times over.
const MAX_NAME: usize = 4 << 10;

const SIGNS: &[&str] = &[
    "**=", "//=", ">>=", "<<=", "...", "->", "**", "//", "==", "!=", "<=", ">=", "<<", ">>", "+=", "-=", "*=", "/=",
    "%=", "|=", "&=", "^=", "@=", ":=",
];

/// All tokens of a text, at most so many. The first and the last are always ends of a line.
pub fn cut(text: &str, most: usize) -> Result<Vec<Token<'_>>, Fault> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut brackets = 0usize;
    let mut at = 0;
    push_line(&mut tokens, text, &mut at)?;
    while let Some(byte) = bytes.get(at).copied() {
        if tokens.len() >= most {
            return Err((CodeSize, at, format!("more than {} tokens of code in all", super::MAX_TOKENS)));
        }
        let begin = at;
        let mut push = |kind| tokens.push(Token { kind, at: begin });
        match byte {
            b' ' => at += 1,
            b'\n' if brackets > 0 => at += 1,
            b'\n' => push_line(&mut tokens, text, &mut at)?,
            b'#' => {
                if is_type_comment(text.get(at..).unwrap_or_default()) {
                    return Err((CodeText, at, "a type comment; write the types in the signature".to_owned()));
                }
                at += line_length(bytes, at);
            }
            b'\\' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            b'"' | b'\'' => {
                let inner = text_end(bytes, at).ok_or_else(|| (CodeText, at, "a text without an end".to_owned()))?;
                push(Kind::Text(text.get(inner.clone()).unwrap_or_default()));
                at = inner.end + (inner.start - at);
            }
            b'0'..=b'9' => {
                let length = number_length(bytes, at);
                if !is_number(bytes.get(at..at + length).unwrap_or_default()) {
                    let why = "a number that runs into something else, which libtorch would take for a method of it";
                    return Err((CodeText, at, why.to_owned()));
                }
                at += length;
                push(Kind::Number);
            }
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let word = bytes.iter().skip(at).take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                if word > MAX_NAME {
                    return Err((CodeSize, at, format!("a name of more than {MAX_NAME} letters")));
                }
                push(Kind::Name(text.get(at..at + word).unwrap_or_default()));
                at += word;
            }
            0x21..=0x7e => {
                let rest = text.get(at..).unwrap_or_default();
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).map_or(1, |sign| sign.len());
                let sign = rest.get(..sign).unwrap_or_default();
                match sign {
                    "(" | "[" | "{" => brackets += 1,
                    ")" | "]" | "}" => {
                        brackets = brackets
                            .checked_sub(1)
                            .ok_or_else(|| (CodeText, at, "a bracket that was never opened".to_owned()))?;
                    }
                    _ => {}
                }
                if sign == "]" && is_empty_subscript(&tokens) {
                    return Err((
                        CodeText,
                        at,
                        "a subscript of nothing, which libtorch takes the first part of".to_owned(),
                    ));
                }
                tokens.push(Token { kind: Kind::Sign(sign), at });
                at += sign.len();
            }
            _ => return Err((CodeText, at, "a character that no TorchScript has outside a text".to_owned())),
        }
    }
    if brackets > 0 {
        return Err((CodeText, at, "a bracket that is never closed".to_owned()));
    }
    tokens.push(Token { kind: Kind::Line(0), at });
    Ok(tokens)
}

/// The end of a line, all empty ones after it, and the spaces before the next word.
fn push_line<'a>(tokens: &mut Vec<Token<'a>>, text: &'a str, at: &mut usize) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    let begin = *at;
    loop {
        if bytes.get(*at) == Some(&b'\n') {
            *at += 1;
        }
        let spaces = bytes.iter().skip(*at).take_while(|b| **b == b' ').count();
        let next = bytes.get(*at + spaces);
        match next {
            Some(b'\n') => *at += spaces,
            Some(b'#') if !is_type_comment(text.get(*at + spaces..).unwrap_or_default()) => {
                *at += spaces + line_length(bytes, *at + spaces);
                if *at >= bytes.len() {
                    tokens.push(Token { kind: Kind::Line(0), at: begin });
                    return Ok(());
                }
            }
            _ => {
                tokens.push(Token { kind: Kind::Line(spaces), at: begin });
                *at += spaces;
                return Ok(());
            }
        }
    }
}

/// `x[` and no list: libtorch 2.13 reads beyond the end of an empty one.
fn is_empty_subscript(tokens: &[Token<'_>]) -> bool {
    let [.., before, Token { kind: Kind::Sign("["), .. }] = tokens else { return false };
    match before.kind {
        Kind::Name(word) => !super::is_keyword(word),
        Kind::Sign(")" | "]" | "}") | Kind::Text(_) | Kind::Number => true,
        _ => false,
    }
}

/// libtorch reads on in such a comment, as if it were code.
fn is_type_comment(text: &str) -> bool {
    text.strip_prefix("# type:").is_some_and(|rest| !rest.trim_start().starts_with("ignore"))
}

fn line_length(bytes: &[u8], at: usize) -> usize {
    bytes.iter().skip(at).take_while(|b| **b != b'\n').count()
}

/// Where a text's inside lies; the quotes are as long behind it as before it.
fn text_end(bytes: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let quote = *bytes.get(at)?;
    let long = bytes.get(at..at + 3).is_some_and(|three| three.iter().all(|b| *b == quote));
    let start = at + if long { 3 } else { 1 };
    let mut end = start;
    loop {
        match bytes.get(end)? {
            b'\\' => end += 2,
            b'\n' if !long => return None,
            b if *b == quote && (!long || bytes.get(end..end + 3)?.iter().all(|b| *b == quote)) => {
                return Some(start..end);
            }
            _ => end += 1,
        }
    }
}

fn number_length(bytes: &[u8], at: usize) -> usize {
    let mut length = 0;
    while let Some(byte) = bytes.get(at + length) {
        let exponent_sign =
            matches!(byte, b'+' | b'-') && matches!(bytes.get(at + length - 1), Some(b'e' | b'E')) && length > 0;
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || exponent_sign) {
            break;
        }
        length += 1;
    }
    length
}

/// Whether all of it is a number as `torch.jit.save` prints one: `1`, `1.5`, `2.`, `1e-05`, `0.j`. libtorch's lexer ends a
/// number where C does, so what follows in `1.0.save` is a method.
fn is_number(text: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = text.get(digits(text)..).unwrap_or_default();
    if let [b'.', tail @ ..] = rest {
        rest = tail.get(digits(tail)..).unwrap_or_default();
    }
    if let [b'e' | b'E', tail @ ..] = rest {
        let tail = if let [b'+' | b'-', tail @ ..] = tail { tail } else { tail };
        let power = digits(tail);
        rest = tail.get(power..).filter(|_| power > 0).unwrap_or(b"e");
    }
    matches!(rest, b"" | b"j")
}
