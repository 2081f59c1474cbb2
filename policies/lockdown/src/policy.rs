//! The policies as data: what is allowed and why, for the log, for `sandbox explain`, for the tests and for
//! `docs/policies.md`.
//!
//! All of it was compiled from `policies/` at build time; see the compiler's crate for the grammar.

mod compiled {
    use super::{Clause, FilePolicy, Filter, Refusal, Rule, Test};

    include!(concat!(env!("OUT_DIR"), "/policies.rs"));
}

/// The filter of one stage.
#[derive(Debug)]
pub struct Filter {
    /// The stage's name.
    pub stage: &'static str,
    /// What becomes of any other call.
    pub default: &'static str,
    /// The allowed calls, in the order of the policy file.
    pub rules: &'static [Rule],
    /// The calls answered with an errno.
    pub refusals: &'static [Refusal],
    programs: &'static [&'static [u8]],
}

/// One allowed call.
#[derive(Debug)]
pub struct Rule {
    /// The call's name.
    pub call: &'static str,
    /// Its number on this CPU.
    pub number: u32,
    /// What its arguments must satisfy, all of it.
    pub clauses: &'static [Clause],
    /// Who needs it, and for what.
    pub why: &'static str,
    /// Why it stands although no test fires it, where none does.
    pub spare: Option<&'static str>,
}

/// One call answered with an errno.
#[derive(Debug)]
pub struct Refusal {
    /// The call's name.
    pub call: &'static str,
    /// Its number on this CPU.
    pub number: u32,
    /// The errno's name.
    pub errno: &'static str,
    /// The errno's number.
    pub answer: u32,
    /// Why an answer rather than a kill.
    pub why: &'static str,
}

/// One demand on one argument.
#[derive(Debug)]
pub struct Clause {
    /// The argument's place, from 0.
    pub index: u8,
    /// Whether all 64 bits are compared, or the low half.
    pub wide: bool,
    /// What it must satisfy.
    pub test: Test,
    /// The demand for a person: `prot lacks PROT_EXEC`.
    pub text: &'static str,
}

/// What an argument must satisfy.
#[derive(Debug)]
pub enum Test {
    /// None of these bits is set.
    Lacks(u64),
    /// All of these bits are set.
    Has(u64),
    /// Exactly this value.
    Equals(u64),
    /// One of these values.
    In(&'static [u64]),
    /// No more than this, unsigned.
    AtMost(u64),
}

/// What one program may still open by path.
#[derive(Debug)]
pub struct FilePolicy {
    /// The program.
    pub role: &'static str,
    /// The Landlock ABI whose file rights are required.
    pub floor: u32,
    /// File rights up to this ABI, where the kernel has them.
    pub files: u32,
    /// TCP rights up to this ABI, where the kernel has them.
    pub net: u32,
    /// Scopes up to this ABI, where the kernel has them.
    pub scopes: u32,
    /// Paths that stay readable.
    pub readable: &'static [&'static str],
}

/// Every compiled filter.
pub fn filters() -> &'static [Filter] {
    compiled::FILTERS
}

/// The filter of that stage.
pub fn filter(stage: &str) -> Option<&'static Filter> {
    compiled::FILTERS.iter().find(|filter| filter.stage == stage)
}

/// The Landlock policies.
pub fn file_policies() -> &'static [FilePolicy] {
    compiled::FILES
}

/// The name of a call on this CPU: what a log line says of the call that ended a worker.
pub fn call_name(number: u32) -> Option<&'static str> {
    let at = compiled::CALLS.binary_search_by_key(&number, |(known, _)| *known).ok()?;
    compiled::CALLS.get(at).map(|(_, name)| *name)
}

/// All policies as the Markdown printed in `docs/policies.md`.
pub fn markdown() -> &'static str {
    include_str!(concat!(env!("OUT_DIR"), "/policies.md"))
}

impl Filter {
    /// The BPF programs as bytes, in the order of installation.
    pub fn programs(&self) -> &'static [&'static [u8]] {
        self.programs
    }

    /// How many BPF instructions a call can meet at most, over all programs.
    pub fn instructions(&self) -> usize {
        self.programs.iter().map(|program| program.len() / INSTRUCTION).sum()
    }

    /// How many different calls are allowed.
    pub fn calls(&self) -> usize {
        let mut numbers: Vec<u32> = self.rules.iter().map(|rule| rule.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    }

    /// Whether the tables say that this call, with these arguments, is allowed: an oracle for tests and for
    /// `sandbox explain`. The kernel asks the BPF, never this.
    pub fn allows(&self, number: u32, arguments: &[u64; 6]) -> bool {
        self.rules.iter().any(|rule| rule.number == number && rule.allows(arguments))
    }
}

impl Rule {
    /// Whether these arguments satisfy every clause.
    pub fn allows(&self, arguments: &[u64; 6]) -> bool {
        self.clauses.iter().all(|clause| clause.holds(arguments))
    }

    /// The clauses for a person: `prot lacks PROT_EXEC, fd = -1`, or `always`.
    pub fn condition(&self) -> String {
        let texts: Vec<&str> = self.clauses.iter().map(|clause| clause.text).collect();
        if texts.is_empty() { "always".into() } else { texts.join(", ") }
    }
}

impl Clause {
    fn holds(&self, arguments: &[u64; 6]) -> bool {
        let Some(whole) = arguments.get(usize::from(self.index)) else { return false };
        let value = if self.wide { *whole } else { whole & u64::from(u32::MAX) };
        match self.test {
            Test::Lacks(bits) => value & bits == 0,
            Test::Has(bits) => value & bits == bits,
            Test::Equals(wanted) => value == wanted,
            Test::In(values) => values.contains(&value),
            Test::AtMost(most) => value <= most,
        }
    }
}

/// The size of a `struct sock_filter`.
pub(crate) const INSTRUCTION: usize = 8;
