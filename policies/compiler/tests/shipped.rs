//! The shipped policies on both CPUs: the build compiles for one of them only.
#![allow(clippy::unwrap_used, reason = "a test, helpers included")]

use std::fs;

use casemate_policy_compiler::grant::FilePolicy;
use casemate_policy_compiler::rule::{Cpu, Policy};
use casemate_policy_compiler::{calls, check, lower, table};

fn texts(folder: &str) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn policies() -> Vec<Policy> {
    texts("../seccomp").iter().map(|text| Policy::parse(text).unwrap()).collect()
}

#[test]
fn they_hold_the_laws_and_compile_for_both() {
    let policies = check(policies()).unwrap();
    for cpu in [Cpu::X86_64, Cpu::Aarch64] {
        for lowered in lower(&policies, cpu).unwrap() {
            for program in &lowered.programs {
                let steps = program.len() / 8;
                assert!(program.len() % 8 == 0 && (5..4096).contains(&steps), "{}: {steps}", lowered.policy.stage);
            }
        }
    }
}

#[test]
fn each_file_is_named_after_its_stage() {
    for folder in ["../seccomp", "../landlock"] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let inside = match folder {
                "../seccomp" => Policy::parse(&text).unwrap().stage,
                _ => FilePolicy::parse(&text).unwrap().role,
            };
            assert_eq!(inside, name);
        }
    }
}

/// Adds a rule for that call to that stage, and says whether the laws still hold.
fn holds_with(stage: &str, call: &str) -> bool {
    assert!(calls(Cpu::X86_64).iter().any(|(_, name)| *name == call), "{call} is a call");
    let text = format!("stage = \"x\"\ndefault = \"kill-process\"\n[[rule]]\ncall = \"{call}\"\nwhy = \"an edit\"");
    let mut edited = policies();
    edited.iter_mut().find(|policy| policy.stage == stage).unwrap().rules.extend(Policy::parse(&text).unwrap().rules);
    check(edited).is_ok()
}

#[test]
fn every_forbidden_edit_of_the_front_and_the_launcher_fails() {
    for call in ["execve", "ptrace", "socket", "connect", "openat", "statx", "clone", "prctl", "kill", "io_uring_setup"]
    {
        assert!(!holds_with("front", call), "{call}");
    }
    for call in ["socket", "bind", "connect", "listen", "bpf", "io_uring_setup", "setns", "process_vm_readv"] {
        assert!(!holds_with("launcher", call), "{call}");
    }
    assert!(holds_with("launcher", "getcpu"), "the control: an edit that breaks no law");
    assert!(!holds_with("front", "getcpu"), "the launcher's filter would kill it");
    for call in ["brk", "accept4", "openat", "pivot_root", "clone3"] {
        let mut narrower = policies();
        narrower.iter_mut().find(|policy| policy.stage == "launcher").unwrap().rules.retain(|rule| rule.call != call);
        assert!(check(narrower).is_err(), "a launcher without {call}");
    }
}

#[test]
fn every_forbidden_edit_of_the_serving_policy_fails() {
    for call in ["execve", "ptrace", "socket", "openat", "clone", "prctl", "io_uring_setup"] {
        assert!(!holds_with("worker-serve", call), "{call}");
    }
    let mut loosened = policies();
    for rule in loosened.iter_mut().flat_map(|policy| &mut policy.rules) {
        rule.clauses.retain(|clause| clause.argument.name != "prot");
    }
    let broken = check(loosened).unwrap_err();
    // The front, both stages of a worker, and what extends them.
    assert!(broken.len() >= 6, "mmap and mprotect: {broken:?}");
}

#[test]
fn the_table_has_a_row_for_each_rule() {
    let policies = check(policies()).unwrap();
    let files: Vec<FilePolicy> = texts("../landlock").iter().map(|text| FilePolicy::parse(text).unwrap()).collect();
    check::check_files(&files).unwrap();
    let rows = table::markdown(&policies, &files).lines().filter(|line| line.starts_with("| `")).count();
    let own = |policy: &&Policy| policy.own().len() + if policy.extends.is_none() { policy.refusals.len() } else { 0 };
    let rules: usize = policies.policies().iter().map(|policy| own(&policy)).sum();
    assert_eq!(rows, rules);
}
