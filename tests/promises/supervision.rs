//! SECURITY.md, "One model's end is not another's": killed, stopped, crash-looping and refused workers, and an orderly end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use casemate_tests::casemate::{self, Casemate, Setup};
use casemate_tests::models;
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
    let casemate = two().limit("ping_ms", 200).serve();
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
    assert!(status["reason"].as_str().unwrap().contains("load"), "{status}");
    assert!(!casemate.row("a", CALM).text().contains("archive"), "the client is told no details");
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
    std::thread::sleep(Duration::from_millis(300));
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
