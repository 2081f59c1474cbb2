//! What the docs print is what was compiled: sizes that the house promises, and the text of `docs/policies.md`.

use casemate_lockdown::Stage;
use casemate_lockdown::policy::{call_name, file_policies, filter, filters, markdown};

#[test]
fn every_stage_has_its_filter() {
    for stage in Stage::ALL {
        let filter = filter(stage.name()).unwrap();
        assert_eq!(filter.default, "kill-process");
        assert!(filter.instructions() < 4096, "the kernel takes no more");
    }
    assert_eq!(filters().len(), Stage::ALL.len(), "a policy file without a stage is never installed");
}

#[test]
fn serving_takes_sixteen_calls_at_most() {
    let [serve, code] = ["worker-serve", "worker-serve-code"].map(|stage| filter(stage).unwrap());
    for filter in [serve, code] {
        assert!(filter.calls() <= 16, "{}: {} calls", filter.stage, filter.calls());
        assert!(filter.refusals.is_empty());
    }
    assert_eq!(serve.calls(), code.calls(), "run-time code takes no call that the others have not");
}

#[test]
fn no_role_is_granted_a_path() {
    let roles: Vec<&str> = file_policies().iter().map(|policy| policy.role).collect();
    assert_eq!(roles, ["front", "worker"]);
    for policy in file_policies() {
        assert!(policy.readable.is_empty(), "{}", policy.role);
        assert_eq!((policy.floor, policy.files, policy.net, policy.scopes), (1, 5, 4, 6), "{}", policy.role);
    }
}

#[test]
fn a_killed_call_has_a_name() {
    assert_eq!(call_name(u32::try_from(libc::SYS_execve).unwrap()), Some("execve"));
    assert_eq!(call_name(u32::try_from(libc::SYS_mseal).unwrap()), Some("mseal"));
    assert_eq!(call_name(9999), None);
}

#[test]
fn the_text_holds_every_rule_with_its_reason() {
    let text = markdown();
    for filter in filters() {
        assert!(text.contains(&format!("### System calls: `{}`\n\n{} calls", filter.stage, filter.calls())));
        for rule in filter.rules {
            assert!(text.contains(&format!("| `{}` |", rule.call)), "{}", rule.call);
            let spare = rule.spare.map_or(String::new(), |spare| format!(" (spare: {spare})"));
            assert!(text.contains(&format!("| {}{spare} |\n", rule.why)), "{}", rule.why);
        }
        for refusal in filter.refusals {
            assert!(text.contains(&format!("| `{}` | never: {} | {} |\n", refusal.call, refusal.errno, refusal.why)));
        }
    }
    assert_eq!(text.matches("No path is granted.").count(), file_policies().len());
    assert!(
        text.lines()
            .filter(|line| line.starts_with("| "))
            .all(|line| line.replace("\\|", "").matches('|').count() == 4)
    );
}
