//! SECURITY.md, "Three programs": no rule of the launcher's, the front's and a zygote's filter stands
//! for nothing. A server is watched through its whole life, as root and as an ordinary user; each rule is asked for at least
//! once, or says in its file (`spare`) why it stands all the same. `worker/tests/fired.rs` does this for the workers' filters.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code: what cannot be is a failure")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_lockdown::policy::{self, Rule};
use casemate_tests::casemate::{Casemate, Setup, is_root, kill, program};
use casemate_tests::models::{self, When};
use casemate_tests::witness::{Fired, Witness, listed};
use nix::sys::signal::Signal;
use serde_json::json;

/// Everything is slower while each call is looked at.
const PATIENCE: Duration = Duration::from_secs(120);
const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// What one server asked for, from its first act to its end.
fn life(user: bool) -> Fired {
    let witness = Witness::default();
    let setup = Setup::new()
        .simple("born", &models::double())
        .simple("next", &models::double())
        .simple("own", &models::double())
        .simple("loud", &models::print_flood(When::Asked, 50))
        .echo("bad", &format!("after = 1\nsyscall = {}", nix::libc::SYS_socket))
        .echo("faulty", "after = 1\ncrash = \"segv\"")
        .echo("large", "")
        .sandbox("spawn = \"zygote\"\nzygote_births = 3\n")
        .limit("request_bytes", 8 << 20)
        .limit("response_bytes", 8 << 20)
        .limit("arena_rest_ms", 300)
        .config("[models.own]\nspawn = \"exec\"\n[models.born]\ntenant = \"t\"\n[models.next]\ntenant = \"t\"");
    // A folder that its owner alone may enter: the front's new identity cannot find its program by path.
    let closed = tempfile::tempdir().unwrap();
    let setup = if user { setup.as_user() } else { setup.programs(&lay_into(closed.path())) };
    let mut casemate = setup.seen_by(&witness).start();
    ready(&casemate);
    for model in ["born", "next", "own", "loud", "bad", "faulty", "large"] {
        assert_eq!(casemate.row(model, ROW).status, 200, "{model}\n{}", casemate.log());
    }
    casemate.row("loud", [2000.0; 4]);
    // Tensors as bytes, larger than any buffer; their pages are given back after a rest.
    let raw = [("inference-header-content-length", "0")];
    assert_eq!(casemate.send("POST", "/v2/models/large/infer", &raw, &vec![0; 4 << 20]).status, 200);
    let rows = 50_000;
    let data = vec![0.5; rows * 4];
    let long = json!({"inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": data}]});
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(casemate.infer("large", &long).status, 200));
        }
    });
    for path in ["/metrics", "/v2/models/own", "/v2/health/live", "/none", "/casemate/v1/models"] {
        casemate.get(path);
    }
    // A worker that asks for what it must not, one that meets a fault, and some that are killed; each has a successor.
    for model in ["bad", "faulty"] {
        assert_ne!(casemate.row(model, ROW).status, 200);
    }
    for model in ["own", "born", "next", "born"] {
        let dead = casemate.worker(model);
        kill(dead, Signal::SIGKILL);
        ready_again(&casemate, model, dead);
        assert_eq!(casemate.row(model, ROW).status, 200);
    }
    // Both are stopped in a timed wait, and go on.
    let front = casemate.front();
    for pid in [front, casemate.launcher()].into_iter().cycle().take(6) {
        kill(pid, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(300));
        kill(pid, Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(100));
    }
    ready(&casemate);
    // It dies, and all of it comes once more; then it ends in order.
    kill(front, Signal::SIGKILL);
    ready(&casemate);
    assert_eq!(casemate.row("born", ROW).status, 200);
    assert_eq!(casemate.stop(), Some(0), "{}", casemate.log());
    witness.fired()
}

/// The programs once more, and the folder.
fn lay_into(folder: &Path) -> PathBuf {
    for name in ["casemate-launcher", "casemate-front", "casemate-worker"] {
        // By another process: nobody in this one ever has a program open for writing.
        assert!(Command::new("cp").arg(program(name)).arg(folder).status().unwrap().success());
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
    folder.to_owned()
}

/// What only a launcher with an identity to give up asks for, or one that may make control groups.
const ROOT_ALONE: [&str; 4] = ["setgroups", "execveat", "rmdir", "flock"];

fn ready(casemate: &Casemate) {
    casemate.wait_until("ready", PATIENCE, || {
        let answer = casemate_tests::client::send(casemate.address, "GET", "/v2/health/ready", &[], b"");
        answer.is_ok_and(|answer| answer.status == 200)
    });
}

fn ready_again(casemate: &Casemate, model: &str, dead: u32) {
    let next = || casemate.status(model)["worker"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(dead));
    casemate.wait_until("its next worker", PATIENCE, || {
        next() && casemate.status(model)["state"] == "ready" && casemate.row(model, ROW).status == 200
    });
}

#[test]
fn no_rule_of_the_other_programs_stands_for_nothing() {
    let mut fired = life(true);
    if is_root() {
        for (rule, values) in life(false) {
            fired.entry(rule).or_default().extend(values);
        }
    } else {
        println!("SKIPPED in part: what only a root launcher asks for is not seen");
    }
    let (mut idle, mut seen) = (Vec::new(), 0);
    for stage in ["launcher", "front", "zygote"] {
        let filter = policy::filter(stage).unwrap();
        let warm = policy::filter("worker-warm").unwrap();
        // What a zygote has as any worker is judged there.
        let taken_over = |rule: &Rule| {
            stage == "zygote"
                && warm.rules.iter().any(|other| (other.call, other.condition()) == (rule.call, rule.condition()))
        };
        for rule in filter.rules.iter().filter(|rule| !taken_over(rule)) {
            let asked = fired.get(&(stage, rule.call, rule.condition()));
            seen += usize::from(asked.is_some());
            match (asked, rule.spare) {
                (Some(_), Some(why)) => println!("{stage}: {} is asked for after all ({why})", rule.call),
                (None, None) if !is_root() && ROOT_ALONE.contains(&rule.call) => {}
                (None, None) => idle.push(format!("{stage}: {} ({})", rule.call, rule.condition())),
                (Some(values), None) => {
                    let all: BTreeSet<u64> = listed(rule).flat_map(|(_, values)| values.iter().copied()).collect();
                    let unseen: Vec<_> = all.difference(values).collect();
                    if !unseen.is_empty() {
                        println!("{stage}: {} ({}): not {unseen:?}", rule.call, rule.condition());
                    }
                }
                (None, Some(_)) => {}
            }
        }
    }
    println!("{seen} rules were asked for");
    assert!(seen > 120, "{seen} rules were seen: the witness is blind");
    assert!(idle.is_empty(), "nothing that a server does asks for\n{}", idle.join("\n"));
}
