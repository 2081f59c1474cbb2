//! SECURITY.md, "One model's end is not another's": killed, stopped, crash-looping and refused workers, and an orderly end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_ipc::work::FromWorker;
use casemate_tests::casemate::{self, Casemate, Setup};
use casemate_tests::fake_launcher::{FakeLauncher, Part};
use casemate_tests::models;
use casemate_tests::puppet::{Puppet, declared, inside};
use nix::sys::signal::Signal;

const CALM: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

fn two() -> Setup {
    Setup::new().simple("a", &models::double()).simple("b", &models::double())
}

fn again(casemate: &Casemate, model: &str) -> Duration {
    let start = Instant::now();
    casemate.wait_until("an answer", Duration::from_secs(20), || casemate.row(model, CALM).status == 200);
    start.elapsed()
}

#[test]
fn a_killed_worker_is_replaced_and_the_neighbour_does_not_notice() {
    let casemate = two().serve();
    let (first, other) = (casemate.worker("a"), casemate.worker("b"));
    casemate::kill(first, Signal::SIGKILL);
    assert_eq!(casemate.row("b", CALM).status, 200);
    println!("first good answer after {:?}", again(&casemate, "a"));
    assert_ne!(casemate.worker("a"), first);
    assert_eq!(casemate.worker("b"), other);
    let exit = casemate.status("a")["last_exit"].clone();
    assert_eq!(exit["cause"], "signal", "{exit}");
    assert!(exit["detail"].as_str().unwrap().contains("SIGKILL"), "{exit}");
    assert!(casemate.metric("casemate_worker_exits_total{model=\"a\"") >= 1.0);
}

#[test]
fn a_stopped_worker_is_found_and_replaced() {
    let casemate = two().limit("ping_ms", 500).serve();
    let first = casemate.worker("a");
    casemate::kill(first, Signal::SIGSTOP);
    casemate
        .wait_until("noticed", Duration::from_secs(10), || casemate.status("a")["last_exit"]["cause"] == "deadline");
    assert_eq!(casemate.row("b", CALM).status, 200);
    again(&casemate, "a");
    assert!(!Path::new(&format!("/proc/{first}")).exists());
}

#[test]
fn a_model_whose_bytes_were_changed_is_never_loaded() {
    let setup = two();
    let file = setup.store().join("a/1/model.pt");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let casemate = setup.serve();
    let status = casemate.status("a");
    assert_eq!((status["state"].as_str(), status["starts"].as_u64()), (Some("failed"), Some(1)), "{status}");
    assert!(status["last_exit"]["detail"].as_str().unwrap().contains("verify"), "{status}");
    assert_eq!(casemate.row("a", CALM).status, 503);
    assert_eq!(casemate.row("b", CALM).status, 200);
}

#[test]
fn a_file_that_is_no_model_is_given_up_with_its_reason() {
    let casemate = Setup::new()
        .limit("start_attempts", 2)
        .simple("a", b"PK this is no archive")
        .simple("b", &models::double())
        .serve();
    let status = casemate.status("a");
    assert_eq!(status["state"], "failed", "{status}");
    assert!(status["reason"].as_str().unwrap().contains("gate"), "{status}");
    assert!(!casemate.row("a", CALM).text().contains("at byte"), "the client is told no details");
    assert_eq!(casemate.row("b", CALM).status, 200);
}

#[test]
fn a_model_that_dies_at_every_request_slows_down_but_is_not_given_up() {
    let casemate = Setup::new().echo("a", "crash = \"segv\"").simple("b", &models::double()).serve();
    for _ in 0..4 {
        casemate.wait_until("ready", Duration::from_secs(20), || casemate.status("a")["state"] == "ready");
        assert_eq!(casemate.row("a", CALM).status, 502);
        assert_eq!(casemate.row("b", CALM).status, 200);
    }
    assert!(casemate.status("a")["starts"].as_u64().unwrap() >= 4);
    assert_eq!(casemate.status("b")["starts"], 1);
}

#[test]
fn sigterm_lets_running_requests_finish() {
    let mut casemate = Setup::new().echo("slow", "sleep_ms = 800").simple("b", &models::double()).serve();
    let workers = [casemate.worker("slow"), casemate.worker("b"), casemate.front()];
    let address = casemate.address;
    let asked = std::thread::spawn(move || {
        let body = br#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
        casemate_tests::client::send(address, "POST", "/v2/models/slow/infer", &[], body)
    });
    casemate
        .wait_until("the request", Duration::from_secs(20), || casemate.metric("casemate_requests_in_flight") >= 1.0);
    assert_eq!(casemate.stop(), Some(0));
    let answer = asked.join().unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    for pid in workers {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left over");
    }
}

#[test]
fn a_front_that_dies_takes_its_workers_along_and_is_replaced() {
    let casemate = two().serve();
    let (front, worker) = (casemate.front(), casemate.worker("a"));
    casemate::kill(front, Signal::SIGKILL);
    casemate
        .wait_until("its workers' end", Duration::from_secs(10), || !Path::new(&format!("/proc/{worker}")).exists());
    casemate.wait_until("a new front", Duration::from_secs(30), || {
        let ready = casemate_tests::client::send(casemate.address, "GET", "/v2/health/ready", &[], b"");
        ready.is_ok_and(|answer| answer.status == 200)
    });
    assert_ne!(casemate.front(), front);
    assert_eq!(casemate.row("a", CALM).status, 200);
}

#[test]
fn a_launcher_that_dies_leaves_nobody() {
    let casemate = two().serve();
    let everybody = [casemate.front(), casemate.worker("a"), casemate.worker("b")];
    casemate.signal(Signal::SIGKILL);
    casemate.wait_until("everybody's end", Duration::from_secs(10), || {
        everybody.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

#[test]
fn what_a_model_keeps_is_gone_with_its_worker() {
    let casemate = Setup::new().simple("keeps", &models::keeps_state()).serve();
    let last = |row| casemate.row("keeps", row).json()["outputs"][0]["data"].clone();
    last([7.0; 4]);
    // Control: within one worker a model sees what it was given before. That is why tenants never share one.
    assert_eq!(last([8.0; 4]), serde_json::json!([7.0, 7.0, 7.0, 7.0]));
    casemate::kill(casemate.worker("keeps"), Signal::SIGKILL);
    casemate.wait_until("replaced", Duration::from_secs(20), || {
        let status = casemate.status("keeps");
        status["starts"] == 2 && status["state"] == "ready"
    });
    assert_eq!(last([9.0; 4]), serde_json::json!([0.0, 0.0, 0.0, 0.0]));
}

/// Many models, each slow to begin and none in a hurry: together they take longer than one of them may take, and all serve.
#[test]
fn models_start_in_turns_and_the_clock_of_each_begins_with_its_turn() {
    const SLOW: Duration = Duration::from_millis(200);
    const ALLOWED: Duration = Duration::from_millis(3000);
    let turns = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let names: Vec<String> = (0..turns * 18).map(|number| format!("m{number}")).collect();
    let (starting, most, loading, together) =
        <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counts = (Arc::clone(&starting), Arc::clone(&most), Arc::clone(&loading), Arc::clone(&together));
    let part: Part = Arc::new(move |mut puppet: Puppet| {
        let (starting, most, loading, together) = &counts;
        most.fetch_max(starting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(SLOW);
        starting.fetch_sub(1, Ordering::SeqCst);
        puppet.say(&FromWorker::Verified { declared: declared(), inside: inside() });
        // What is up to the model holds nobody else up.
        together.fetch_max(loading.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(3 * SLOW);
        loading.fetch_sub(1, Ordering::SeqCst);
        puppet.say(&FromWorker::Ready { load_us: 1 });
        puppet.serve();
    });
    let parts = names.iter().map(|name| (name.as_str(), Arc::clone(&part))).collect();
    let begun = Instant::now();
    let launcher = FakeLauncher::start(parts, &format!("load_ms = {}", ALLOWED.as_millis()));
    launcher.wait_until("every model's worker", Duration::from_secs(60), || {
        names.iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    assert!(begun.elapsed() > ALLOWED, "all were started within the time of one, which shows nothing");
    for name in &names {
        let status = launcher.status(name);
        assert_eq!((&status["starts"], &status["last_exit"]), (&1.into(), &serde_json::Value::Null), "{status}");
    }
    assert!(most.load(Ordering::SeqCst) <= turns);
    assert!(together.load(Ordering::SeqCst) > turns, "a model that loads held a turn");
}

#[test]
fn a_worker_that_cuts_its_channel_and_stays_is_killed_at_once() {
    let part: Part = Arc::new(|mut puppet: Puppet| {
        if puppet.incarnation > 0 {
            puppet.begin();
            return puppet.serve();
        }
        if puppet.honest_once().is_some() {
            puppet.close(nix::sys::socket::Shutdown::Write);
            puppet.linger();
        }
    });
    let launcher = FakeLauncher::start(vec![("cuts", part)], "");
    launcher.wait_until("ready", Duration::from_secs(30), || launcher.status("cuts")["state"] == "ready");
    assert_eq!(launcher.row("cuts", CALM).status, 200, "the control");
    // Its clients wait two seconds; it is found out before that.
    let answer = launcher.row("cuts", CALM);
    assert_eq!(answer.status, 502, "{}", answer.text());
    launcher
        .wait_until("its end", Duration::from_secs(10), || launcher.status("cuts")["last_exit"]["cause"] == "protocol");
    launcher.wait_until("the next one", Duration::from_secs(10), || launcher.row("cuts", CALM).status == 200);
}
