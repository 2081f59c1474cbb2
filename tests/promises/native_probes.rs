//! SECURITY.md, "What native code in a worker cannot do": each probe is tried inside a sealed worker and, as its positive
//! control, by the same code without a cage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use casemate_tests::casemate::{Setup, program};

/// What the kernel answered to each probe without a cage, by name: the value returned, and the errno.
fn controls() -> BTreeMap<String, String> {
    // What another layer refuses is `commands.rs`'s.
    let list = Command::new(program("casemate-probe")).arg("--list").output().expect("casemate-probe runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let rows = list.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let names: Vec<&str> = rows.filter(|row| matches!(row[2], "seccomp" | "door")).map(|row| row[0]).collect();
    let output = Command::new(program("casemate-probe")).args(names).output().expect("casemate-probe runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut answers = BTreeMap::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("probe ")?.strip_suffix(" reached")) {
        let returned = format!("probe {name} returned ");
        let answer = text.lines().find_map(|line| line.strip_prefix(&returned));
        let answer = answer.unwrap_or_else(|| panic!("{name} did not come back without a cage"));
        answers.insert(name.to_owned(), answer.to_owned());
    }
    answers
}

#[test]
fn every_probe_dies_in_the_cage_and_lives_without_it() {
    sweep("");
}

#[test]
fn every_probe_dies_in_a_worker_that_a_zygote_bore() {
    sweep("spawn = \"zygote\"\n");
}

fn sweep(sandbox: &str) {
    let controls = controls();
    assert!(controls.len() >= 40, "{} probes", controls.len());
    let succeeded = controls.values().filter(|a| !a.starts_with("-1 ")).count();
    assert!(succeeded * 2 > controls.len(), "only {succeeded} of {} controls succeed: {controls:#?}", controls.len());
    println!("{} probes, {succeeded} of which succeed without the cage", controls.len());
    let names: Vec<&String> = controls.keys().collect();
    for group in names.chunks(12) {
        let setup = group.iter().fold(Setup::new(), |s, name| s.echo(name, &format!("probe = \"{name}\"")));
        let tenants: String = group.iter().map(|name| format!("[models.{name:?}]\ntenant = \"t\"\n")).collect();
        let casemate = setup.sandbox(sandbox).config(&tenants).serve();
        let by_zygote = casemate.log().matches(" by=zygote").count();
        assert_eq!(by_zygote > 0, !sandbox.is_empty(), "{}", casemate.log());
        for name in group {
            let answer = casemate.row(name, [1.0; 4]);
            assert_eq!(answer.status, 502, "{name}: {}", answer.text());
            let exit = casemate.status(name)["last_exit"].clone();
            assert_eq!(exit["cause"], "syscall", "{name}: {exit}");
            let reached = format!("probe {name} reached");
            casemate.wait_until(&reached, Duration::from_secs(5), || casemate.log().contains(&reached));
            let returned = format!("probe {name} returned");
            assert!(!casemate.log().contains(&returned), "{name} came back\n{}", casemate.log());
        }
    }
}
