//! The policies as the Markdown that `docs/policies.md` prints: one row a rule, for every CPU, in the files' order.

use std::fmt::Write as _;

use crate::check::CheckedPolicies;
use crate::grant::{Access, FilePolicy};
use crate::rule::{Policy, Rule};

/// All policies as Markdown.
pub fn markdown(policies: &CheckedPolicies, files: &[FilePolicy]) -> String {
    let mut text = String::new();
    for policy in policies.policies() {
        seccomp(&mut text, policy);
    }
    for policy in files {
        landlock(&mut text, policy);
    }
    text
}

// Writing to a String cannot fail, so the results of `writeln!` are dropped.
fn seccomp(text: &mut String, policy: &Policy) {
    let calls: std::collections::BTreeSet<&str> = policy.rules.iter().map(|rule| rule.call.as_str()).collect();
    let _ = writeln!(text, "### System calls: `{}`\n", policy.stage);
    let _ = writeln!(text, "{} calls; any other: {}.\n", calls.len(), policy.default);
    if let Some(base) = &policy.extends {
        let _ = writeln!(text, "All that stands under `{base}`, and:\n");
    }
    text.push_str("| call | only when | why |\n|---|---|---|\n");
    for rule in policy.own() {
        let spare = rule.spare.as_ref().map_or(String::new(), |spare| format!(" (spare: {})", cell(spare)));
        let _ = writeln!(text, "| `{}` | {} | {}{spare} |", rule.call, condition(rule), cell(&rule.why));
    }
    for refusal in policy.refusals.iter().filter(|_| policy.extends.is_none()) {
        let _ = writeln!(text, "| `{}` | never: {} | {} |", refusal.call, refusal.errno, cell(&refusal.why));
    }
    text.push('\n');
}

fn landlock(text: &mut String, policy: &FilePolicy) {
    let newer = policy.best_effort;
    let _ = writeln!(text, "### Landlock: `{}`\n", policy.role);
    let _ = writeln!(
        text,
        "Required from ABI {}; where the kernel has them, file rights up to ABI {}, TCP up to {}, scopes up to {}. {}\n",
        policy.floor, newer.files, newer.net, newer.scopes, policy.why
    );
    if policy.grants.is_empty() {
        text.push_str("No path is granted.\n\n");
        return;
    }
    text.push_str("| path | access | why |\n|---|---|---|\n");
    for grant in &policy.grants {
        let Access::Read = grant.access;
        let _ = writeln!(text, "| `{}` | read | {} |", grant.path, cell(&grant.why));
    }
    text.push('\n');
}

fn condition(rule: &Rule) -> String {
    let mut parts: Vec<String> = rule.clauses.iter().map(|clause| cell(&clause.text)).collect();
    if let Some(cpu) = rule.only {
        parts.push(format!("on {} only", format!("{cpu:?}").to_lowercase()));
    }
    if parts.is_empty() { "always".into() } else { parts.join(", ") }
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;

    #[test]
    fn the_table_is_stable() {
        let policy = Policy::parse(
            "stage = \"other\"\ndefault = \"kill-process\"\n\
             [[rule]]\ncall = \"futex\"\nwhen = [{ arg = \"op\", in = [\"FUTEX_WAIT|FUTEX_PRIVATE_FLAG\", 1] }]\nwhy = \"locks\"\n\
             [[rule]]\ncall = \"brk\"\nonly = \"x86_64\"\nwhy = \"heap\"\n\
             [[refuse]]\ncall = \"clone3\"\nerrno = \"ENOSYS\"\nwhy = \"falls back\"",
        )
        .unwrap();
        let files = FilePolicy::parse(
            "role = \"front\"\nwhy = \"All is open before.\"\nfloor = 1\n[best-effort]\nfiles = 5\nnet = 4\nscopes = 6",
        )
        .unwrap();
        let expected = "\
### System calls: `other`

2 calls; any other: kill-process.

| call | only when | why |
|---|---|---|
| `futex` | op in {FUTEX_WAIT\\|FUTEX_PRIVATE_FLAG, 1} | locks |
| `brk` | on x86_64 only | heap |
| `clone3` | never: ENOSYS | falls back |

### Landlock: `front`

Required from ABI 1; where the kernel has them, file rights up to ABI 5, TCP up to 4, scopes up to 6. All is open before.

No path is granted.

";
        assert_eq!(markdown(&check(vec![policy]).unwrap(), &[files]), expected);
    }
}
