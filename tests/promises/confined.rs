//! SECURITY.md, "Three programs": what the front and the launcher have put on themselves, as the kernel shows it from
//! outside, as root and as an ordinary user, while they serve.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use casemate_lockdown::policy;
use casemate_tests::casemate::{Casemate, Setup, is_root};
use casemate_tests::{models, process};

/// A server that has answered, as root where this test is and as an ordinary user.
fn both() -> Vec<Casemate> {
    let setup = || Setup::new().simple("m", &models::double());
    let mut both = vec![setup().as_user().serve()];
    if is_root() {
        both.push(setup().serve());
    }
    for casemate in &both {
        assert_eq!(casemate.row("m", [1.0; 4]).status, 200);
    }
    both
}

fn filters(pid: u32) -> usize {
    process::status(pid)["Seccomp_filters"].parse().unwrap()
}

fn programs(stage: &str) -> usize {
    policy::filter(stage).unwrap().programs().len()
}

#[test]
fn the_launcher_serves_under_its_filter() {
    let own = filters(std::process::id());
    for casemate in both() {
        let launcher = process::status(casemate.launcher());
        assert_eq!((launcher["Seccomp"].as_str(), launcher["NoNewPrivs"].as_str()), ("2", "1"));
        assert_eq!(filters(casemate.launcher()), own + programs("launcher"));
        assert_eq!(launcher["Threads"], "1", "a second thread could have no filter");
    }
}

#[test]
fn the_front_serves_under_its_filter_and_the_launcher_s() {
    let own = filters(std::process::id());
    for casemate in both() {
        let front = casemate.front();
        for (pid, status) in process::threads(front) {
            assert_eq!((status["Seccomp"].as_str(), status["NoNewPrivs"].as_str()), ("2", "1"), "thread {pid}");
            let count: usize = status["Seccomp_filters"].parse().unwrap();
            assert_eq!(count, own + programs("launcher") + programs("front"), "thread {pid}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status[set], "0000000000000000", "thread {pid}: {set}");
            }
        }
        assert!(process::threads(front).len() >= 2, "the control: the desks' threads are looked at too");
        let tracer = process::status(front)["TracerPid"].clone();
        assert_eq!(tracer, casemate.launcher().to_string(), "a call that its filter refuses would have no number");
    }
}

#[test]
fn the_front_holds_no_code_and_no_file() {
    for casemate in both() {
        let front = casemate.front();
        if !is_root() {
            // Not even its own user can look; this test has to be root for the rest.
            assert!(std::fs::read(format!("/proc/{front}/maps")).is_err());
            continue;
        }
        let protections = process::mapped_protections(front);
        assert!(!protections.iter().any(|p| p.contains('w') && p.contains('x')), "{protections:?}");
        assert!(protections.iter().any(|p| p.contains('x')), "the control: its program is mapped");
        let descriptors = process::descriptors(front);
        assert!(descriptors.len() >= 8, "the control: {descriptors:?}");
        for (number, what) in descriptors {
            let what = what.to_string_lossy();
            let kinds = ["socket:", "pipe:", "anon_inode:", "/memfd:casemate-", "/dev/null"];
            assert!(kinds.iter().any(|kind| what.starts_with(kind)), "{number}: {what}");
        }
    }
}
