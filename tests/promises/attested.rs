//! SECURITY.md, "The cage, layer by layer": every layer as the kernel shows it from outside, as root and as an ordinary
//! user, on a worker that has loaded a real model.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::collections::BTreeSet;

use casemate_tests::casemate::{Casemate, ORDINARY, ORDINARY_WAIVERS, Setup, is_root, program};
use casemate_tests::stage::reachable;
use casemate_tests::{models, process};

fn digits() -> Setup {
    Setup::new().model("m", &models::linear(16, 4), &["x:FP32[-1,16]"], &["y:FP32[-1,4]"], "")
}

fn check(casemate: &Casemate, user: bool) {
    let worker = casemate.worker("m");
    let front = casemate.front();
    let status = process::status(worker);
    for (field, value) in [("Seccomp", "2"), ("NoNewPrivs", "1"), ("Threads", "2")] {
        assert_eq!(status[field], value, "{field}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    let theirs = process::namespaces(front);
    let ours = process::namespaces(std::process::id());
    for (kind, namespace) in process::namespaces(worker) {
        // Where a process would put its children, which a worker has none of, is not where it is.
        if !kind.ends_with("_for_children") {
            assert_ne!(Some(&namespace), theirs.get(&kind), "{kind} is the front's");
            assert_ne!(Some(&namespace), ours.get(&kind), "{kind} is the test's");
        }
    }
    assert_eq!(process::root_entries(worker), Vec::<String>::new(), "the root is not empty");
    let fds = process::descriptors(worker);
    assert_eq!(fds.keys().map(String::as_str).collect::<Vec<_>>(), ["0", "1", "2", "3"], "{fds:?}");
    assert_eq!(fds["1"], fds["2"]);
    assert!(fds["1"].to_string_lossy().starts_with("pipe:"), "{fds:?}");
    assert!(fds["3"].to_string_lossy().starts_with("socket:"), "{fds:?}");
    let worker_program = if user { reachable("casemate-worker") } else { program("casemate-worker") };
    let closure = process::closure(&worker_program);
    assert!(closure.len() >= 8, "{closure:?}");
    let mapped = process::mapped_files(worker);
    for file in &mapped {
        let arena = file.name.starts_with("/memfd:casemate-");
        assert!(arena || closure.contains(&(file.device.clone(), file.inode)), "{file:?} is no file of the worker's");
    }
    assert!(mapped.iter().any(|file| !file.name.starts_with("/memfd:")), "the control: its libraries are mapped");
    // No page of it can be written and executed; what can be executed comes from a file.
    assert!(!process::mapped_protections(worker).iter().any(|p| p.contains('w') && p.contains('x')));
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert_eq!(environment, b"");
    let arguments = std::fs::read(format!("/proc/{worker}/cmdline")).unwrap();
    assert_eq!(arguments, b"casemate-worker\0", "no model or tenant is named where others can read it");
    // Control: none of this is so in a process that no launcher made.
    let free = process::status(std::process::id());
    assert_ne!((free["Seccomp"].as_str(), free["NoNewPrivs"].as_str()), ("2", "1"));
    // What the server says about it is the same.
    let cage = casemate.status("m")["worker"]["cage"].clone();
    let layers: BTreeSet<&str> = cage.as_array().unwrap().iter().map(|l| l["layer"].as_str().unwrap()).collect();
    assert_eq!(layers.len(), 15, "{cage}");
}

#[test]
fn as_root_every_layer_is_in_force() {
    if !is_root() {
        // The same as the next test.
        return;
    }
    let casemate = digits().serve();
    check(&casemate, false);
    for layer in casemate.status("m")["worker"]["cage"].as_array().unwrap() {
        assert!(layer["in_force"] == true || optional(layer), "{layer}");
    }
    let worker = process::status(casemate.worker("m"));
    let uids: BTreeSet<&str> = worker["Uid"].split_whitespace().collect();
    assert_eq!(uids.len(), 1, "{uids:?}");
    let uid: u32 = uids.first().unwrap().parse().unwrap();
    assert!((1_879_100_001..1_879_104_097).contains(&uid), "{uid}");
    assert_eq!(worker["Gid"], worker["Uid"]);
    assert_eq!(worker["Groups"], "");
    let front = process::status(casemate.front());
    assert_eq!(front["Uid"].split_whitespace().next(), Some("1879100000"));
    assert_eq!(front["CapEff"], "0000000000000000");
    assert_eq!(front["CapBnd"], "0000000000000000");
    assert_eq!(front["NoNewPrivs"], "1");
}

/// Shown, and demanded nowhere: the kernel has it or not.
fn optional(layer: &serde_json::Value) -> bool {
    let evidence = layer["evidence"].as_str().unwrap();
    layer["layer"] == "core-scheduling" && evidence == "this kernel has no core scheduling"
}

#[test]
fn two_workers_never_share_a_uid() {
    if !is_root() {
        return;
    }
    let casemate = digits().simple("other", &models::double()).serve();
    let uid = |model: &str| process::status(casemate.worker(model))["Uid"].clone();
    assert_ne!(uid("m"), uid("other"));
}

#[test]
fn as_an_ordinary_user_only_its_waivers_are_missing() {
    let casemate = digits().as_user().serve();
    check(&casemate, true);
    for layer in casemate.status("m")["worker"]["cage"].as_array().unwrap() {
        let waived = ORDINARY_WAIVERS.iter().any(|waived| layer["layer"] == *waived);
        // A group may have been delegated to whoever runs this.
        let given = !is_root() && layer["layer"] == "cgroup";
        assert!(given || optional(layer) || layer["in_force"] == !waived, "{layer}");
    }
    let waived = casemate.status("m")["waived"].clone();
    assert_eq!(waived[0], "own-identity");
    assert!(casemate.log().contains("own-identity"), "a waiver must be in the log");
    let expected = if is_root() { ORDINARY } else { nix::unistd::geteuid().as_raw() };
    let worker = process::status(casemate.worker("m"));
    assert!(worker["Uid"].split_whitespace().all(|uid| uid == expected.to_string()));
}

#[test]
fn without_each_waiver_an_ordinary_user_is_refused_by_name() {
    if !is_root() {
        return println!("not root: somebody may have delegated a group to this user");
    }
    for (given, missing) in [("own-identity", "cgroup"), ("cgroup", "own-identity")] {
        let (code, says) = digits().as_user().waive(&[given]).refused();
        assert_eq!(code, Some(78), "{says}");
        assert!(says.contains(&format!("{missing}: ")) && !says.contains(&format!("{given}: ")), "{says}");
        assert!(!says.contains("listening"), "{says}");
    }
}

#[test]
fn without_the_waiver_an_ordinary_user_is_refused_by_name() {
    let setup = digits().as_user().waive(&[]);
    let (code, says) = setup.refused();
    assert_eq!(code, Some(78), "{says}");
    assert!(says.contains("accept_missing") && says.contains("own-identity"), "{says}");
}

/// Only the operator's word for one model opens it, and everything that speaks of that model says so.
#[test]
fn run_time_code_is_for_the_model_that_is_named() {
    let setup = Setup::new().simple("strict", &models::double()).simple("fast", &models::double());
    let casemate = setup.config("[models.fast]\nrun_time_code = \"allowed\"").serve();
    for (model, word, filter) in [("strict", "refused", "worker-serve"), ("fast", "allowed", "worker-serve-code")] {
        assert_eq!(casemate.row(model, [1.0; 4]).status, 200);
        let status = casemate.status(model);
        assert_eq!(status["run_time_code"], word);
        let cage = status["worker"]["cage"].as_array().unwrap().clone();
        let seccomp = cage.iter().find(|reading| reading["layer"] == "seccomp").unwrap();
        assert_eq!(seccomp["in_force"], true, "{seccomp}");
        let evidence = seccomp["evidence"].as_str().unwrap();
        assert!(evidence.contains(&format!("the last one {filter}; ")), "{evidence}");
        if word == "refused" && casemate_tests::casemate::is_root() {
            assert!(evidence.ends_with("; 0 mappings of run-time code"), "{evidence}");
        }
    }
    let log = casemate.log();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("run-time-code-allowed")).collect();
    assert!(matches!(warned[..], [line] if line.contains("model=fast/1")), "{warned:?}");
}
