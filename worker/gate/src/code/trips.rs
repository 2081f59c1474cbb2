//! How often loops go round, where the text says so: a number in `range(…)`, times those of the loops around it.
//!
//! What is counted otherwise, and `while`, is the deadline's to end.

use casemate_ipc::work::GateCode::CodeSize;

use super::token::{Fault, Kind, Token};

/// Most rounds of a loop. The interpreter needs a minute and more for as many that do nothing.
const MAX_TRIPS: u64 = 1_000_000_000;

/// A loop that is open: the spaces before it, and the rounds of it and all around it.
type Open = (usize, u64);

pub(super) fn check(text: &str, tokens: &[Token<'_>]) -> Result<(), Fault> {
    let (mut open, mut indent, mut begins): (Vec<Open>, _, _) = (Vec::new(), 0, false);
    for (at, token) in tokens.iter().enumerate() {
        let next = |ahead: usize| tokens.get(at + ahead).map(|token| token.kind);
        match token.kind {
            Kind::Line(deeper) => {
                (indent, begins) = (deeper, next(1) == Some(Kind::Name("for")));
                while open.last().is_some_and(|(outer, _)| *outer >= indent) {
                    open.pop();
                }
            }
            Kind::Name("range") if next(1) == Some(Kind::Sign("(")) => {
                let around = open.last().map_or(1, |(_, rounds)| *rounds);
                let rounds = around.saturating_mul(most(text, tokens.get(at + 2..).unwrap_or_default()));
                if rounds > MAX_TRIPS {
                    return Err((CodeSize, token.at, format!("a loop of more than {MAX_TRIPS} rounds")));
                }
                if begins {
                    open.push((indent, rounds));
                    begins = false;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The largest number up to the bracket's end, as what may be the end of a range; 1 where there is none.
fn most(text: &str, tokens: &[Token<'_>]) -> u64 {
    let mut depth = 0usize;
    let mut most = 1;
    for token in tokens {
        match token.kind {
            Kind::Sign("(" | "[" | "{") => depth += 1,
            Kind::Sign(")" | "]" | "}") if depth == 0 => break,
            Kind::Sign(")" | "]" | "}") => depth -= 1,
            Kind::Number if depth == 0 => most = most.max(number(text.get(token.at..).unwrap_or_default())),
            _ => {}
        }
    }
    most
}

/// The whole number that a text begins with; what is too large for one is the largest.
fn number(text: &str) -> u64 {
    let digits = text.bytes().take_while(u8::is_ascii_digit).map(|digit| u64::from(digit - b'0'));
    digits.fold(0, |number: u64, digit| number.saturating_mul(10).saturating_add(digit))
}
