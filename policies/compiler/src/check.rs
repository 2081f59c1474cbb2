//! The laws that every policy must hold; one broken law fails the build.
//!
//! A law is about what a mistake would cost: a rule that seccompiler would silently narrow, a call that ends the cage, a
//! serving stage that asks for more than the warm-up's filter lets through and would die in service.

use std::collections::BTreeSet;

use crate::forbidden::{CODE, KINDS, Kind, LAUNCHER, SERVE, ZYGOTE};
use crate::grant::FilePolicy;
pub use crate::law::BrokenLaw;
use crate::rule::{Clause, Default, Policy, Rule, Test};

/// Policies that hold every law: what [`crate::lower()`] and [`crate::table`] ask for.
#[derive(Debug)]
pub struct CheckedPolicies(Vec<Policy>);

/// Holds every seccomp law over all policies at once; says all that is broken, not only the first.
pub fn check(policies: Vec<Policy>) -> Result<CheckedPolicies, Vec<BrokenLaw>> {
    let (policies, mut broken) = extended(policies);
    let mut seen = BTreeSet::new();
    for policy in &policies {
        if !seen.insert(&policy.stage) {
            broken.push(BrokenLaw::StageTwice { stage: policy.stage.clone() });
        }
        broken.extend(of_any(policy));
        for kind in KINDS.iter().filter(|kind| (kind.has)(&policy.stage)) {
            broken.extend(of_kind(policy, kind));
        }
        if policy.stage == ZYGOTE {
            broken.extend(of_zygote(policy));
        }
        let (plain, code) = policy.stage.strip_suffix(CODE).map_or((policy.stage.as_str(), ""), |plain| (plain, CODE));
        if let Some(program) = plain.strip_suffix(SERVE) {
            broken.extend(part_of(policy, &format!("{program}{WARM}{code}"), &policies));
        }
        // Every other program is the launcher's child, and inherits its filter.
        if policy.stage != LAUNCHER && policies.iter().any(|other| other.stage == LAUNCHER) {
            broken.extend(part_of(policy, LAUNCHER, &policies));
        }
    }
    if broken.is_empty() { Ok(CheckedPolicies(policies)) } else { Err(broken) }
}

/// Holds the Landlock laws.
pub fn check_files(policies: &[FilePolicy]) -> Result<(), Vec<BrokenLaw>> {
    let mut broken = Vec::new();
    for policy in policies {
        let role = || policy.role.clone();
        if policy.floor == 0 {
            broken.push(BrokenLaw::NoFloor { role: role() });
        }
        if policy.role == "worker" {
            let granted =
                |grant: &crate::grant::Grant| BrokenLaw::WorkerGrant { role: role(), path: grant.path.clone() };
            broken.extend(policy.grants.iter().map(granted));
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

impl CheckedPolicies {
    /// The policies.
    pub fn policies(&self) -> &[Policy] {
        &self.0
    }
}

/// Each policy with the rules and refusals of the one that it extends.
fn extended(mut policies: Vec<Policy>) -> (Vec<Policy>, Vec<BrokenLaw>) {
    let (mut broken, bases) = (Vec::new(), policies.clone());
    for policy in &mut policies {
        let Some(name) = &policy.extends else { continue };
        let Some(base) = bases.iter().find(|base| base.stage == *name && base.extends.is_none()) else {
            broken.push(BrokenLaw::NoBase { stage: policy.stage.clone(), missing: name.clone() });
            continue;
        };
        policy.inherited = base.rules.len();
        policy.rules.extend(base.rules.iter().cloned());
        policy.refusals.extend(base.refusals.iter().cloned());
    }
    (policies, broken)
}

fn of_any(policy: &Policy) -> Vec<BrokenLaw> {
    let stage = || policy.stage.clone();
    let mut broken = Vec::new();
    if policy.default != Default::KillProcess {
        broken.push(BrokenLaw::SoftDefault { stage: stage(), default: policy.default });
    }
    let pairs = without(policy, &["socketpair"], "family", &Test::Equals(libc::AF_UNIX as u64));
    broken.extend(pairs.map(|rule| BrokenLaw::OtherFamily { stage: stage(), call: rule.call.clone() }));
    let joins = without(policy, &["setns"], "type", &Test::Equals(libc::CLONE_NEWUSER as u64));
    broken.extend(joins.map(|rule| BrokenLaw::OtherNamespace { stage: stage(), call: rule.call.clone() }));
    for call in policy.rules.iter().map(|rule| &rule.call).collect::<BTreeSet<_>>() {
        let rules: Vec<&Rule> = policy.rules.iter().filter(|rule| &rule.call == call).collect();
        let free = rules.iter().filter(|rule| rule.clauses.is_empty()).count();
        if free > 0 && free < rules.len() {
            broken.push(BrokenLaw::MixedConditions { stage: stage(), call: call.clone() });
        }
        let alike =
            |a: &Rule, b: &Rule| a.clauses == b.clauses && (a.only == b.only || a.only.is_none() || b.only.is_none());
        let twice = rules.iter().enumerate().any(|(at, rule)| rules[..at].iter().any(|before| alike(before, rule)));
        if twice {
            broken.push(BrokenLaw::RuleTwice { stage: stage(), call: call.clone() });
        }
        if policy.refusals.iter().any(|refusal| &refusal.call == call) {
            broken.push(BrokenLaw::AllowedAndRefused { stage: stage(), call: call.clone() });
        }
    }
    broken
}

fn of_kind(policy: &Policy, kind: &Kind) -> Vec<BrokenLaw> {
    let (stage, whom) = (|| policy.stage.clone(), kind.whom);
    let banned = |call: &&str| kind.never.iter().copied().flatten().any(|pattern| fits(pattern, call));
    let mut broken: Vec<BrokenLaw> =
        named(policy).filter(banned).map(|call| BrokenLaw::Never { stage: stage(), call: call.into(), whom }).collect();
    if !kind.code {
        let exec = Test::Lacks(libc::PROT_EXEC as u64);
        for rule in without(policy, MAKES_CODE, "prot", &exec) {
            let (stage, call) = (stage(), rule.call.clone());
            match policy.stage.ends_with(CODE) {
                true if fixed(rule) => {}
                true => broken.push(BrokenLaw::LooseCode { stage, call }),
                false => broken.push(BrokenLaw::ExecutableMemory { stage, call, whom }),
            }
        }
    }
    broken
}

const CLONE_NEWTIME: u64 = 0x80;
/// A sibling with every namespace of its own.
const BIRTH: u64 = (libc::CLONE_PARENT
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::SIGCHLD) as u64;

/// A zygote makes threads, or one kind of process; it mounts one kind of file system; no flag is left to chance.
fn of_zygote(policy: &Policy) -> Vec<BrokenLaw> {
    let thread = Test::Has(libc::CLONE_THREAD as u64);
    let loose = |rule: &&Rule| {
        let exact: &[u64] = match rule.call.as_str() {
            "clone" if rule.clauses.iter().any(|clause| implies(&clause.test, &thread)) => return false,
            "clone" => &[BIRTH],
            "unshare" => &[libc::CLONE_THREAD as u64, CLONE_NEWTIME],
            "mount" => &[libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC],
            _ => return false,
        };
        let whole = |clause: &Clause| {
            clause.argument.name == "flags" && matches!(clause.test, Test::Equals(flags) if exact.contains(&flags))
        };
        !rule.clauses.iter().any(whole)
    };
    let law = |rule: &Rule| BrokenLaw::LooseBirth { stage: policy.stage.clone(), call: rule.call.clone() };
    policy.rules.iter().filter(loose).map(law).collect()
}

/// Whether a rule with PROT_EXEC is the one call that generators of code need, with one protection, which takes the right to
/// write away. No memory is made executable from the start, so none that a descriptor backs.
fn fixed(rule: &Rule) -> bool {
    let exact = |clause: &Clause| {
        clause.argument.name == "prot"
            && matches!(clause.test, Test::Equals(prot) if prot & libc::PROT_WRITE as u64 == 0)
    };
    rule.call == "mprotect" && rule.clauses.iter().any(exact)
}

/// The rules for one of these calls that do not demand this of that argument.
fn without<'a>(
    policy: &'a Policy,
    calls: &'a [&str],
    argument: &'a str,
    demand: &'a Test,
) -> impl Iterator<Item = &'a Rule> + 'a {
    let demands = move |clause: &Clause| clause.argument.name == argument && implies(&clause.test, demand);
    let rules = policy.rules.iter().filter(|rule| calls.contains(&rule.call.as_str()));
    rules.filter(move |rule| !rule.clauses.iter().any(demands))
}

fn part_of(policy: &Policy, wider: &str, policies: &[Policy]) -> Vec<BrokenLaw> {
    let Some(whole) = policies.iter().find(|other| other.stage == wider) else {
        return vec![BrokenLaw::NoWiderStage { stage: policy.stage.clone(), missing: wider.into() }];
    };
    let mut broken = Vec::new();
    for rule in &policy.rules {
        let covered = |way: &Vec<Clause>| whole.rules.iter().any(|other| covers(other, rule, way));
        if !rule.alternatives().iter().all(covered) {
            let text: Vec<&str> = rule.clauses.iter().map(|clause| clause.text.as_str()).collect();
            broken.push(BrokenLaw::Wider {
                stage: policy.stage.clone(),
                call: rule.call.clone(),
                condition: if text.is_empty() { "any arguments".into() } else { text.join(", ") },
                wider: wider.into(),
            });
        }
    }
    for refusal in &policy.refusals {
        let passes = |rule: &Rule| rule.call == refusal.call && rule.clauses.is_empty() && rule.only.is_none();
        if !whole.rules.iter().any(passes) && !whole.refusals.iter().any(|other| other.call == refusal.call) {
            let (stage, call) = (policy.stage.clone(), refusal.call.clone());
            broken.push(BrokenLaw::KilledBefore { stage, call, wider: wider.into() });
        }
    }
    broken
}

/// Whether everything that this alternative of `rule` allows is allowed by `other`.
fn covers(other: &Rule, rule: &Rule, way: &[Clause]) -> bool {
    let everywhere = other.only.is_none() || other.only == rule.only;
    let held = |demand: &Clause| {
        way.iter().any(|clause| clause.argument == demand.argument && implies(&clause.test, &demand.test))
    };
    other.call == rule.call && everywhere && other.clauses.iter().all(held)
}

/// Whether whatever passes `narrow` passes `wide` too. May say no where the truth is yes, never the other way round.
fn implies(narrow: &Test, wide: &Test) -> bool {
    match (narrow, wide) {
        (Test::Equals(value), _) => passes(*value, wide),
        (Test::In(values), _) => values.iter().all(|value| passes(*value, wide)),
        (Test::Lacks(more), Test::Lacks(fewer)) | (Test::Has(more), Test::Has(fewer)) => more & fewer == *fewer,
        (Test::AtMost(less), Test::AtMost(more)) => less <= more,
        _ => false,
    }
}

fn passes(value: u64, test: &Test) -> bool {
    match test {
        Test::Lacks(bits) => value & bits == 0,
        Test::Has(bits) => value & bits == *bits,
        Test::Equals(wanted) => value == *wanted,
        Test::In(values) => values.contains(&value),
        Test::AtMost(most) => value <= *most,
    }
}

/// Every call that the policy speaks of, allowed or refused. A refused call is let through by the second filter, so a
/// mistake in the first would open it.
fn named(policy: &Policy) -> impl Iterator<Item = &str> {
    let allowed = policy.rules.iter().map(|rule| rule.call.as_str());
    allowed.chain(policy.refusals.iter().map(|refusal| refusal.call.as_str()))
}

/// A `*` at the end of a pattern stands for any ending.
fn fits(pattern: &str, call: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == call, |start| call.starts_with(start))
}

const WARM: &str = "-warm";
const MAKES_CODE: &[&str] = &["mmap", "mprotect", "pkey_mprotect"];

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
