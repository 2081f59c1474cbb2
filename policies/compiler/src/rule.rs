//! A seccomp policy file as typed rules: names resolved, unknown keys refused, a reason for everything.

use std::fmt;

use serde::Deserialize;

use crate::arguments::{self, Argument};
use crate::symbols::{self, UnknownSymbol};

/// What one stage of one program may ask of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The stage it holds in, which is also the name of its file: `worker-serve`.
    pub stage: String,
    /// The stage whose rules and refusals this one has too; [`crate::check()`] adds them.
    pub extends: Option<String>,
    /// What becomes of a call that no rule allows.
    pub default: Default,
    /// The calls that are allowed; those of the extended stage come last.
    pub rules: Vec<Rule>,
    /// How many of the rules came from the extended stage.
    pub inherited: usize,
    /// The calls that are answered with an errno instead of a kill.
    pub refusals: Vec<Refusal>,
}

/// What becomes of a call that no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Default {
    /// The process ends with SIGSYS.
    KillProcess,
    /// The thread ends and its process goes on: the grammar knows it so that the law can name it.
    KillThread,
    /// The call fails with EPERM and the program goes on.
    Errno,
    /// The call is made and logged.
    Log,
}

/// One allowed call; all clauses must hold, and no clause means any arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The call's name.
    pub call: String,
    /// What its arguments must satisfy.
    pub clauses: Vec<Clause>,
    /// The only CPU that has this call, where it is not on both.
    pub only: Option<Cpu>,
    /// Who needs it, and for what.
    pub why: String,
    /// Why it stands here although no test fires it: another CPU, another libc, an event that no test makes.
    pub spare: Option<String>,
}

/// One call answered with an errno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The call's name.
    pub call: String,
    /// The errno's name.
    pub errno: String,
    /// Its number.
    pub number: u32,
    /// Why an answer rather than a kill.
    pub why: String,
}

/// One demand on one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// The argument: its name, its place, its width.
    pub argument: Argument,
    /// What it must satisfy.
    pub test: Test,
    /// The demand as the file states it: `prot lacks PROT_EXEC`.
    pub text: String,
}

/// What an argument must satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// None of these bits is set.
    Lacks(u64),
    /// All of these bits are set.
    Has(u64),
    /// Exactly this value.
    Equals(u64),
    /// One of these values.
    In(Vec<u64>),
    /// No more than this, unsigned.
    AtMost(u64),
}

/// A CPU that the house is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Cpu {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "aarch64")]
    Aarch64,
}

/// Why a policy file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// Not TOML, or not of this shape: an unknown key, a missing `why`.
    #[error("not a policy file: {0}")]
    Shape(#[from] toml::de::Error),
    /// A `why` that says nothing.
    #[error("`{call}`: `why` is empty")]
    NoReason {
        /// The call.
        call: String,
    },
    /// A `spare` that says nothing.
    #[error("`{call}`: `spare` is empty")]
    NoSpareReason {
        /// The call.
        call: String,
    },
    /// A clause on an argument that the call has not, or that `arguments.rs` does not name yet.
    #[error("`{call}`: no argument is called `{argument}`")]
    UnknownArgument {
        /// The call.
        call: String,
        /// The name that was not found.
        argument: String,
    },
    /// A clause must make exactly one test.
    #[error("`{call}`: the clause on `{argument}` needs exactly one of `lacks`, `has`, `equals`, `in`, `at-most`")]
    OneTest {
        /// The call.
        call: String,
        /// The argument.
        argument: String,
    },
    /// A test that holds always or never.
    #[error("`{call}`: the clause on `{argument}` tests nothing")]
    EmptyTest {
        /// The call.
        call: String,
        /// The argument.
        argument: String,
    },
    /// A value wider than the argument: it could never match.
    #[error("`{call}`: a value for `{argument}` is wider than the argument")]
    TooWide {
        /// The call.
        call: String,
        /// The argument.
        argument: String,
    },
    /// A constant's name that `symbols.rs` does not hold.
    #[error("`{call}`: {source}")]
    Symbol {
        /// The call.
        call: String,
        /// The name.
        #[source]
        source: UnknownSymbol,
    },
}

impl Policy {
    /// Reads one policy file.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let raw: RawPolicy = toml::from_str(text)?;
        Ok(Self {
            stage: raw.stage,
            extends: raw.extends,
            inherited: 0,
            default: raw.default,
            rules: raw.rule.into_iter().map(Rule::from_raw).collect::<Result<_, _>>()?,
            refusals: raw.refuse.into_iter().map(Refusal::from_raw).collect::<Result<_, _>>()?,
        })
    }

    /// The rules of this stage's own file.
    pub fn own(&self) -> &[Rule] {
        &self.rules[..self.rules.len() - self.inherited]
    }
}

impl Rule {
    /// Every alternative with `in` taken apart, so that each clause left is one comparison.
    pub fn alternatives(&self) -> Vec<Vec<Clause>> {
        let mut all = vec![Vec::new()];
        for clause in &self.clauses {
            let ways = match &clause.test {
                Test::In(values) => {
                    values.iter().map(|value| Clause { test: Test::Equals(*value), ..clause.clone() }).collect()
                }
                _ => vec![clause.clone()],
            };
            all = all
                .iter()
                .flat_map(|so_far: &Vec<Clause>| {
                    ways.iter().map(|way| [so_far.as_slice(), std::slice::from_ref(way)].concat())
                })
                .collect();
        }
        all
    }

    fn from_raw(raw: RawRule) -> Result<Self, RuleError> {
        let why = reason(&raw.call, raw.why)?;
        let clauses = raw.when.into_iter().map(|clause| clause.resolve(&raw.call)).collect::<Result<_, _>>()?;
        let spare = raw.spare.map(|text| text.trim().to_owned());
        if spare.as_deref() == Some("") {
            return Err(RuleError::NoSpareReason { call: raw.call });
        }
        Ok(Self { call: raw.call, clauses, only: raw.only, why, spare })
    }
}

impl Refusal {
    fn from_raw(raw: RawRefusal) -> Result<Self, RuleError> {
        let why = reason(&raw.call, raw.why)?;
        match symbols::errno(&raw.errno) {
            Ok(number) => Ok(Self { call: raw.call, errno: raw.errno, number, why }),
            Err(source) => Err(RuleError::Symbol { call: raw.call, source }),
        }
    }
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillProcess => "kill-process",
            Self::KillThread => "kill-thread",
            Self::Errno => "errno",
            Self::Log => "log",
        })
    }
}

fn reason(call: &str, why: String) -> Result<String, RuleError> {
    if why.trim().is_empty() { Err(RuleError::NoReason { call: call.into() }) } else { Ok(why.trim().into()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    stage: String,
    extends: Option<String>,
    default: Default,
    #[serde(default)]
    rule: Vec<RawRule>,
    #[serde(default)]
    refuse: Vec<RawRefusal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    call: String,
    #[serde(default)]
    when: Vec<RawClause>,
    only: Option<Cpu>,
    why: String,
    spare: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRefusal {
    call: String,
    errno: String,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawClause {
    arg: String,
    lacks: Option<RawValue>,
    has: Option<RawValue>,
    equals: Option<RawValue>,
    r#in: Option<Vec<RawValue>>,
    at_most: Option<RawValue>,
}

/// A number, or names of constants joined by `|`.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Number(i64),
    Names(String),
}

impl RawClause {
    fn resolve(self, call: &str) -> Result<Clause, RuleError> {
        let Some(argument) = arguments::find(call, &self.arg) else {
            return Err(RuleError::UnknownArgument { call: call.into(), argument: self.arg });
        };
        let one = |value: &RawValue| value.bits(call, &argument);
        let (test, text) = match (&self.lacks, &self.has, &self.equals, &self.r#in, &self.at_most) {
            (Some(v), None, None, None, None) => (Test::Lacks(one(v)?), format!("lacks {v}")),
            (None, Some(v), None, None, None) => (Test::Has(one(v)?), format!("has {v}")),
            (None, None, Some(v), None, None) => (Test::Equals(one(v)?), format!("= {v}")),
            (None, None, None, Some(list), None) => {
                let names: Vec<String> = list.iter().map(ToString::to_string).collect();
                let values = list.iter().map(one).collect::<Result<_, _>>()?;
                (Test::In(values), format!("in {{{}}}", names.join(", ")))
            }
            (None, None, None, None, Some(v)) => (Test::AtMost(one(v)?), format!("≤ {v}")),
            _ => return Err(RuleError::OneTest { call: call.into(), argument: self.arg }),
        };
        let empty = match &test {
            Test::Lacks(bits) | Test::Has(bits) => *bits == 0,
            Test::In(values) => values.is_empty(),
            Test::Equals(_) | Test::AtMost(_) => false,
        };
        if empty {
            return Err(RuleError::EmptyTest { call: call.into(), argument: self.arg });
        }
        Ok(Clause { argument, test, text: format!("{} {text}", self.arg) })
    }
}

impl RawValue {
    fn bits(&self, call: &str, argument: &Argument) -> Result<u64, RuleError> {
        let bits = match self {
            Self::Number(number) => number.cast_unsigned(),
            Self::Names(names) => {
                symbols::bits(names).map_err(|source| RuleError::Symbol { call: call.into(), source })?
            }
        };
        if argument.wide {
            return Ok(bits);
        }
        // A negative number for a 32-bit argument (`fd = -1`) is its low half: that is all the kernel looks at.
        let fits = u32::try_from(bits).is_ok() || i32::try_from(bits.cast_signed()).is_ok();
        if fits {
            Ok(bits & u64::from(u32::MAX))
        } else {
            Err(RuleError::TooWide { call: call.into(), argument: argument.name.into() })
        }
    }
}

impl fmt::Display for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Names(names) => f.write_str(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(body: &str) -> Result<Policy, RuleError> {
        Policy::parse(&format!("stage = \"s\"\ndefault = \"kill-process\"\n[[rule]]\n{body}"))
    }

    #[test]
    fn a_rule_reads_as_written() {
        let policy =
            rule("call = \"mmap\"\nwhen = [{ arg = \"prot\", lacks = \"PROT_EXEC\" }, { arg = \"fd\", equals = -1 }]\nwhy = \"heap\"")
                .unwrap();
        let clauses = &policy.rules[0].clauses;
        assert_eq!((clauses[0].argument.index, clauses[0].test.clone()), (2, Test::Lacks(4)));
        assert_eq!(clauses[0].text, "prot lacks PROT_EXEC");
        assert_eq!((clauses[1].argument.index, clauses[1].test.clone()), (4, Test::Equals(0xffff_ffff)));
    }

    #[test]
    fn names_join_and_lists_multiply() {
        let policy = rule(
            "call = \"futex\"\nwhen = [{ arg = \"op\", in = [\"FUTEX_WAIT|FUTEX_PRIVATE_FLAG\", 1] }]\nwhy = \"locks\"",
        )
        .unwrap();
        assert_eq!(policy.rules[0].clauses[0].test, Test::In(vec![128, 1]));
        assert_eq!(policy.rules[0].alternatives().len(), 2);
    }

    #[test]
    fn what_is_not_said_properly_is_refused() {
        let cases = [
            ("call = \"brk\"", "missing field `why`"),
            ("call = \"brk\"\nwhy = \"  \"", "`why` is empty"),
            ("call = \"brk\"\nwhy = \"x\"\nspare = \" \"", "`spare` is empty"),
            ("call = \"brk\"\nwhy = \"x\"\ncomment = \"y\"", "unknown field"),
            ("call = \"mmap\"\nwhen = [{ arg = \"port\", equals = 1 }]\nwhy = \"x\"", "no argument is called `port`"),
            ("call = \"mmap\"\nwhen = [{ arg = \"prot\" }]\nwhy = \"x\"", "exactly one of"),
            ("call = \"mmap\"\nwhen = [{ arg = \"prot\", has = 1, lacks = 2 }]\nwhy = \"x\"", "exactly one of"),
            ("call = \"mmap\"\nwhen = [{ arg = \"prot\", lacks = 0 }]\nwhy = \"x\"", "tests nothing"),
            ("call = \"mmap\"\nwhen = [{ arg = \"fd\", in = [] }]\nwhy = \"x\"", "tests nothing"),
            ("call = \"mmap\"\nwhen = [{ arg = \"prot\", lacks = \"PROT_EXCE\" }]\nwhy = \"x\"", "PROT_EXCE"),
            ("call = \"mmap\"\nwhen = [{ arg = \"fd\", equals = 0x1_0000_0000 }]\nwhy = \"x\"", "wider"),
        ];
        for (body, expected) in cases {
            let said = rule(body).unwrap_err().to_string();
            assert!(said.contains(expected), "{body}\nsaid: {said}");
        }
    }
}
