//! How deep code nests. libtorch parses, checks and frees expressions recursively, on one stack of 8 MiB: 20,000 brackets
//! or minus signs end the process.

use casemate_ipc::work::GateCode::CodeDepth;

use super::token::{Fault, Kind, Token};

/// Brackets inside each other.
pub(super) const MAX_BRACKETS: usize = 100;
/// Operators, calls, subscripts and attributes that one expression may chain, those around it counted too. A long sum is a
/// deep tree, although it looks flat. libtorch takes this many on half of the stack that a worker has.
pub(super) const MAX_CHAIN: usize = 500;
/// Blocks inside each other.
pub(super) const MAX_BLOCKS: usize = 100;
/// Branches of one `if`.
pub(super) const MAX_BRANCHES: usize = 100;

/// Refuses what is too deep.
pub(super) fn check(tokens: &[Token<'_>]) -> Result<(), Fault> {
    let mut chains = vec![0usize];
    let mut total = 0usize;
    let mut blocks = Blocks::default();
    let mut first = false;
    for token in tokens {
        let refuse = |why: String| (CodeDepth, token.at, why);
        match token.kind {
            Kind::Line(indent) => {
                chains.truncate(1);
                chains.fill(0);
                total = 0;
                blocks.enter(indent).map_err(refuse)?;
                first = true;
                continue;
            }
            Kind::Sign("(" | "[" | "{") => {
                total += 1;
                grow(&mut chains);
                chains.push(0);
                if chains.len() > MAX_BRACKETS {
                    return Err(refuse(format!("brackets nested deeper than {MAX_BRACKETS}")));
                }
            }
            Kind::Sign(")" | "]" | "}") => {
                // What was inside stays part of the chain that goes on behind the bracket.
                let inside = if chains.len() > 1 { chains.pop().unwrap_or(0) } else { 0 };
                total -= inside.min(total);
            }
            Kind::Sign(",") => {
                if let Some(last) = chains.last_mut() {
                    total -= (*last).min(total);
                    *last = 0;
                }
            }
            Kind::Name(word) => {
                if first {
                    blocks.word(word).map_err(refuse)?;
                }
                if matches!(word, "not" | "and" | "or" | "if" | "else" | "in" | "is" | "for" | "lambda") {
                    total += 1;
                    grow(&mut chains);
                }
            }
            Kind::Sign(":" | "->" | ";") | Kind::Number | Kind::Text(_) => {}
            Kind::Sign(_) => {
                total += 1;
                grow(&mut chains);
            }
        }
        if total > MAX_CHAIN {
            return Err(refuse(format!("an expression of more than {MAX_CHAIN} operations in each other")));
        }
        first = false;
    }
    Ok(())
}

fn grow(chains: &mut [usize]) {
    if let Some(last) = chains.last_mut() {
        *last += 1;
    }
}

/// Indentations that are open, and the branches counted at each.
#[derive(Default)]
struct Blocks(Vec<(usize, usize)>);

impl Blocks {
    fn enter(&mut self, indent: usize) -> Result<(), String> {
        while self.0.last().is_some_and(|(open, _)| *open > indent) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(open, _)| *open < indent) {
            self.0.push((indent, 0));
        }
        if self.0.len() > MAX_BLOCKS { Err(format!("blocks nested deeper than {MAX_BLOCKS}")) } else { Ok(()) }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let Some((_, branches)) = self.0.last_mut() else { return Ok(()) };
        match word {
            "elif" => *branches += 1,
            _ => *branches = 0,
        }
        if *branches > MAX_BRANCHES { Err(format!("an if of more than {MAX_BRANCHES} branches")) } else { Ok(()) }
    }
}
