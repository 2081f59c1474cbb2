//! Compiles `policies/seccomp` and `policies/landlock` into OUT_DIR: BPF as bytes, the rules as a static table, and the
//! Markdown of `docs/policies.md`. A policy that breaks a law fails the build, with every broken law named.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use casemate_policy_compiler::grant::FilePolicy;
use casemate_policy_compiler::rule::{Cpu, Policy, Rule, Test};
use casemate_policy_compiler::{Lowered, calls, check, lower, table};

fn main() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?);
    let cpu = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => Cpu::X86_64,
        Ok("aarch64") => Cpu::Aarch64,
        other => return Err(format!("no policies for the CPU {other:?}")),
    };
    let policies = read("../seccomp", |text| Policy::parse(text).map_err(|error| error.to_string()))?;
    let policies = check(policies).map_err(said)?;
    let files = read("../landlock", |text| FilePolicy::parse(text).map_err(|error| error.to_string()))?;
    check::check_files(&files).map_err(said)?;

    let mut code = String::from("pub(super) static FILTERS: &[Filter] = &[\n");
    for lowered in lower(&policies, cpu).map_err(|error| error.to_string())? {
        filter(&mut code, &lowered, &out)?;
    }
    code.push_str("];\npub(super) static FILES: &[FilePolicy] = &[\n");
    for policy in &files {
        file_policy(&mut code, policy);
    }
    let _ = writeln!(code, "];\npub(super) static CALLS: &[(u32, &str)] = &{:?};", calls(cpu));
    write(&out.join("policies.rs"), code.as_bytes())?;
    write(&out.join("policies.md"), table::markdown(&policies, &files).as_bytes())
}

/// Every `.toml` of that folder, by name, so that the output does not depend on the file system's order.
fn read<T>(folder: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    println!("cargo:rerun-if-changed={folder}");
    let entries = fs::read_dir(folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let one = |path: &PathBuf| {
        println!("cargo:rerun-if-changed={}", path.display());
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    };
    paths.iter().map(one).collect()
}

// Writing to a String cannot fail, so the results of `writeln!` are dropped.
fn filter(code: &mut String, lowered: &Lowered<'_>, out: &Path) -> Result<(), String> {
    let stage = &lowered.policy.stage;
    let _ =
        writeln!(code, "Filter {{ stage: {stage:?}, default: {:?}, programs: &[", lowered.policy.default.to_string());
    for (at, program) in lowered.programs.iter().enumerate() {
        let name = format!("{stage}.{at}.bpf");
        write(&out.join(&name), program)?;
        let _ = writeln!(code, "include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\")),");
    }
    code.push_str("], rules: &[\n");
    for (number, rule) in &lowered.rules {
        let clauses = clauses(rule);
        let (call, why, spare) = (&rule.call, &rule.why, &rule.spare);
        let _ = writeln!(
            code,
            "Rule {{ call: {call:?}, number: {number}, clauses: &[{clauses}], why: {why:?}, spare: {spare:?} }},"
        );
    }
    code.push_str("], refusals: &[\n");
    for (number, refusal) in &lowered.refusals {
        let (call, errno, why) = (&refusal.call, &refusal.errno, &refusal.why);
        let answer = refusal.number;
        let _ = writeln!(
            code,
            "Refusal {{ call: {call:?}, number: {number}, errno: {errno:?}, answer: {answer}, why: {why:?} }},"
        );
    }
    code.push_str("] },\n");
    Ok(())
}

fn clauses(rule: &Rule) -> String {
    let one = |clause: &casemate_policy_compiler::rule::Clause| {
        let test = match &clause.test {
            Test::Lacks(bits) => format!("Test::Lacks({bits})"),
            Test::Has(bits) => format!("Test::Has({bits})"),
            Test::Equals(value) => format!("Test::Equals({value})"),
            Test::In(values) => format!("Test::In(&{values:?})"),
            Test::AtMost(most) => format!("Test::AtMost({most})"),
        };
        let (index, wide) = (clause.argument.index, clause.argument.wide);
        format!("Clause {{ index: {index}, wide: {wide}, test: {test}, text: {:?} }}", clause.text)
    };
    rule.clauses.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn file_policy(code: &mut String, policy: &FilePolicy) {
    let newer = policy.best_effort;
    let grants: Vec<&str> = policy.grants.iter().map(|grant| grant.path.as_str()).collect();
    let _ = writeln!(
        code,
        "FilePolicy {{ role: {:?}, floor: {}, files: {}, net: {}, scopes: {}, readable: &{grants:?} }},",
        policy.role, policy.floor, newer.files, newer.net, newer.scopes
    );
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn said(broken: Vec<check::BrokenLaw>) -> String {
    broken.iter().map(|law| format!("broken law: {law}")).collect::<Vec<_>>().join("\n")
}
