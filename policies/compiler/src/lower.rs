//! Rules to BPF for the target CPU.
//!
//! seccompiler knows one answer for a match in a filter, so a policy with refusals becomes two programs, to be installed
//! in the order in which they stand: first the one that answers with an errno and lets everything else pass, then the one
//! that allows and otherwise kills. The kernel takes the strictest answer of all filters, so the second must let the
//! refused calls through.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::check::CheckedPolicies;
use crate::number;
use crate::rule::{Clause, Cpu, Policy, Refusal, Rule, Test};

/// The CPU to compile for.
pub type Target = Cpu;

/// A policy ready to be embedded.
#[derive(Debug)]
pub struct Lowered<'a> {
    /// What it was made from.
    pub policy: &'a Policy,
    /// BPF programs as the kernel reads them, in the order of installation.
    pub programs: Vec<Vec<u8>>,
    /// The rules that hold on this CPU, with the call's number.
    pub rules: Vec<(u32, &'a Rule)>,
    /// The refusals, with the call's number.
    pub refusals: Vec<(u32, &'a Refusal)>,
}

/// Why a policy could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The target CPU has no such call, and the rule does not say `only`.
    #[error("{stage}: no call `{call}` on {cpu:?}")]
    UnknownCall {
        /// The policy.
        stage: String,
        /// The call.
        call: String,
        /// The target.
        cpu: Cpu,
    },
    /// seccompiler refused what it was given.
    #[error("{stage}: {source}")]
    Backend {
        /// The policy.
        stage: String,
        /// Its reason.
        #[source]
        source: BackendError,
    },
    /// A refusal with an errno that no other refusal of the policy has: it would need a third program.
    #[error("{stage}: refusals with different errnos")]
    MixedErrnos {
        /// The policy.
        stage: String,
    },
}

/// Compiles every policy for that CPU.
pub fn lower(policies: &CheckedPolicies, cpu: Target) -> Result<Vec<Lowered<'_>>, LowerError> {
    policies.policies().iter().map(|policy| lower_one(policy, cpu)).collect()
}

/// Every call of that CPU as (number, name), by number.
pub fn calls(cpu: Target) -> Vec<(u32, &'static str)> {
    number::all(arch(cpu))
}

fn lower_one(policy: &Policy, cpu: Target) -> Result<Lowered<'_>, LowerError> {
    let numbered = |call: &str| {
        number::of(call, arch(cpu)).ok_or_else(|| LowerError::UnknownCall {
            stage: policy.stage.clone(),
            call: call.into(),
            cpu,
        })
    };
    let backend = |source| LowerError::Backend { stage: policy.stage.clone(), source };

    let mut rules = Vec::new();
    for rule in policy.rules.iter().filter(|rule| rule.only.is_none_or(|only| only == cpu)) {
        rules.push((numbered(&rule.call)?, rule));
    }
    let mut refusals = Vec::new();
    for refusal in &policy.refusals {
        refusals.push((numbered(&refusal.call)?, refusal));
    }

    let mut programs = Vec::new();
    if let Some((_, first)) = refusals.first() {
        if refusals.iter().any(|(_, refusal)| refusal.number != first.number) {
            return Err(LowerError::MixedErrnos { stage: policy.stage.clone() });
        }
        let refused = refusals.iter().map(|(number, _)| (i64::from(*number), Vec::new())).collect();
        let answer = SeccompAction::Errno(first.number);
        programs.push(program(refused, SeccompAction::Allow, answer, cpu).map_err(backend)?);
    }

    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (number, rule) in &rules {
        let ways = allowed.entry(i64::from(*number)).or_default();
        // An empty list means any arguments; the law against a conditional rule beside it has held already.
        for clauses in rule.alternatives().into_iter().filter(|clauses| !clauses.is_empty()) {
            ways.push(alternative(&clauses).map_err(backend)?);
        }
    }
    for (number, _) in &refusals {
        allowed.insert(i64::from(*number), Vec::new());
    }
    programs.push(program(allowed, SeccompAction::KillProcess, SeccompAction::Allow, cpu).map_err(backend)?);
    Ok(Lowered { policy, programs, rules, refusals })
}

fn alternative(clauses: &[Clause]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(clauses.iter().flat_map(conditions).collect::<Result<_, _>>()?)
}

fn conditions(clause: &Clause) -> Vec<Result<SeccompCondition, BackendError>> {
    let width = || if clause.argument.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    let condition = |comparison, value| SeccompCondition::new(clause.argument.index, width(), comparison, value);
    match &clause.test {
        Test::Lacks(bits) => vec![condition(SeccompCmpOp::MaskedEq(*bits), 0)],
        Test::Has(bits) => vec![condition(SeccompCmpOp::MaskedEq(*bits), *bits)],
        Test::Equals(value) => vec![condition(SeccompCmpOp::Eq, *value)],
        Test::AtMost(value) => vec![condition(SeccompCmpOp::Le, *value)],
        // `alternatives` has taken these apart.
        Test::In(values) => values.iter().map(|value| condition(SeccompCmpOp::Eq, *value)).collect(),
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    on_match: SeccompAction,
    cpu: Target,
) -> Result<Vec<u8>, BackendError> {
    let program: BpfProgram = SeccompFilter::new(rules, otherwise, on_match, arch(cpu))?.try_into()?;
    let bytes = program.iter().flat_map(|step| {
        let [code_low, code_high] = step.code.to_le_bytes();
        let [k0, k1, k2, k3] = step.k.to_le_bytes();
        [code_low, code_high, step.jt, step.jf, k0, k1, k2, k3]
    });
    Ok(bytes.collect())
}

fn arch(cpu: Cpu) -> TargetArch {
    match cpu {
        Cpu::X86_64 => TargetArch::x86_64,
        Cpu::Aarch64 => TargetArch::aarch64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;

    fn checked(body: &str) -> CheckedPolicies {
        check(vec![Policy::parse(&format!("stage = \"other\"\ndefault = \"kill-process\"\n{body}")).unwrap()]).unwrap()
    }

    const REFUSING: &str = "[[rule]]\ncall = \"brk\"\nwhy = \"heap\"\n[[rule]]\ncall = \"arch_prctl\"\nonly = \"x86_64\"\nwhy = \"AMX\"\n\
        [[refuse]]\ncall = \"clone3\"\nerrno = \"ENOSYS\"\nwhy = \"libc falls back\"";

    #[test]
    fn a_refusal_makes_a_second_program_that_stands_first() {
        let policies = checked(REFUSING);
        let lowered = lower(&policies, Cpu::X86_64).unwrap();
        assert_eq!(lowered[0].programs.len(), 2);
        let errno = (libc::SECCOMP_RET_ERRNO | 38).to_le_bytes();
        let answers = |program: &[u8]| program.chunks(8).any(|step| step[4..] == errno);
        assert!(answers(&lowered[0].programs[0]) && !answers(&lowered[0].programs[1]));
    }

    #[test]
    fn a_rule_for_one_cpu_is_left_out_on_the_other() {
        let policies = checked(REFUSING);
        assert_eq!(lower(&policies, Cpu::X86_64).unwrap()[0].rules.len(), 2);
        assert_eq!(lower(&policies, Cpu::Aarch64).unwrap()[0].rules.len(), 1);
    }

    #[test]
    fn an_unknown_call_is_named() {
        let policies = checked("[[rule]]\ncall = \"brkk\"\nwhy = \"x\"");
        let said = lower(&policies, Cpu::X86_64).unwrap_err().to_string();
        assert_eq!(said, "other: no call `brkk` on X86_64");
    }
}
