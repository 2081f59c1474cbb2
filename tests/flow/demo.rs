//! `casemate demo --once`, as a newcomer sees it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use casemate_tests::casemate::{ORDINARY, is_root, program};
use casemate_tests::stage::reachable;

fn demo(user: Option<u32>) -> String {
    let mut command = Command::new(if user.is_some() { reachable("casemate") } else { program("casemate") });
    command.args(["demo", "--once"]).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    text
}

fn check(text: &str) {
    for layer in casemate_layers() {
        assert!(text.contains(layer), "{layer} is not in\n{text}");
    }
    assert!(text.contains("curl"), "{text}");
}

fn casemate_layers() -> [&'static str; 4] {
    ["seccomp", "landlock", "empty-root", "no-capabilities"]
}

#[test]
fn it_reads_a_digit_as_the_current_user() {
    check(&demo(None));
}

#[test]
fn it_reads_a_digit_as_an_ordinary_user() {
    if is_root() {
        check(&demo(Some(ORDINARY)));
    }
}
