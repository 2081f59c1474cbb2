//! Back-pressure: deadlines of clients and operators, queues with bounds, and clients that hang up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::client::{self, Answer};
use serde_json::json;

const X: &[&str] = &["x:FP32[-1,4]"];
const Y: &[&str] = &["y:FP32[-1,4]"];

/// A model that takes so long for every run, and nobody's company.
fn slow(setup: Setup, name: &str, sleep_ms: u64) -> Setup {
    let script = format!("sleep_ms = {sleep_ms}");
    setup.version(name, "1", "echo", script.as_bytes(), X, Y, "[limits]\ndeadline_ms = 20000")
}

fn body(rows: usize) -> Vec<u8> {
    let data = vec![1.0; rows * 4];
    json!({"inputs": [{"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": data}]}).to_string().into_bytes()
}

fn within(casemate: &Casemate, model: &str, timeout_ms: &str) -> Answer {
    let path = format!("/v2/models/{model}/infer");
    casemate.send("POST", &path, &[("x-request-timeout-ms", timeout_ms)], &body(1))
}

/// So many requests at once, each in a thread.
fn crowd<'s>(
    scope: &'s Scope<'s, '_>,
    casemate: &'s Casemate,
    model: &'s str,
    count: usize,
) -> Vec<ScopedJoinHandle<'s, u16>> {
    let ask = || casemate.row(model, [1.0; 4]).status;
    (0..count).map(|_| scope.spawn(ask)).collect()
}

fn word(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.headers.get("x-casemate-error").map_or("", String::as_str))
}

/// Batches that the model's worker was given.
fn batches(casemate: &Casemate, model: &str) -> u64 {
    casemate.status(model)["worker"]["batches"].as_u64().unwrap()
}

#[test]
fn a_client_s_time_is_kept_and_costs_no_worker() {
    let casemate = slow(Setup::new(), "slow", 400).serve();
    let worker = casemate.worker("slow");
    for _ in 0..5 {
        let answer = within(&casemate, "slow", "1");
        assert_eq!(word(&answer), (504, "deadline"), "{}", answer.text());
        assert!(answer.error().contains("X-Request-Timeout-Ms"), "{}", answer.text());
    }
    let start = Instant::now();
    assert_eq!(within(&casemate, "slow", "100").status, 504);
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    // Control: with time enough it is answered, by the same worker.
    assert_eq!(within(&casemate, "slow", "20000").status, 200);
    assert_eq!(casemate.worker("slow"), worker);
    assert_eq!(casemate.status("slow")["starts"], 1);
}

#[test]
fn a_client_s_time_is_one_whole_number() {
    let casemate = slow(Setup::new(), "m", 0).serve();
    for bad in ["0", "-5", "1.5", "soon", "1e3", "99999999999", ""] {
        let answer = within(&casemate, "m", bad);
        assert_eq!(word(&answer), (400, "invalid"), "{bad:?}: {}", answer.text());
        assert!(answer.error().contains("X-Request-Timeout-Ms"), "{}", answer.text());
    }
    let path = "/v2/models/m/infer";
    let twice = [("x-request-timeout-ms", "5000"), ("x-request-timeout-ms", "5000")];
    assert_eq!(casemate.send("POST", path, &twice, &body(1)).status, 400);
    assert_eq!(within(&casemate, "m", "9999999999").status, 200);
}

#[test]
fn the_operator_s_time_is_the_longest() {
    // Every run but the first hangs; the manifest would allow 20 s.
    let setup = Setup::new().config("[models.m]\ndeadline_ms = 500");
    let script = b"sleep_ms = 60000\nafter = 1";
    let casemate = setup.version("m", "1", "echo", script, X, Y, "[limits]\ndeadline_ms = 20000").serve();
    assert_eq!(casemate.get("/casemate/v1/models/m/versions/1").json()["declared"]["deadline_ms"], 500);
    assert_eq!(within(&casemate, "m", "15000").status, 200, "the control");
    let start = Instant::now();
    assert_eq!(word(&within(&casemate, "m", "15000")), (504, "deadline"));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    casemate.wait_until("killed", Duration::from_secs(10), || casemate.status("m")["last_exit"]["cause"] == "deadline");
}

#[test]
fn a_body_that_comes_too_late_is_refused_by_the_client_s_own_time() {
    let casemate = slow(Setup::new(), "m", 0).serve();
    let mut stream = TcpStream::connect(casemate.address).unwrap();
    let head =
        "POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\nx-request-timeout-ms: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert_eq!(word(&client::parse(&said).unwrap()), (504, "deadline"));
}

#[test]
fn who_waits_no_longer_is_not_run() {
    let casemate = slow(Setup::new(), "slow", 600).serve();
    std::thread::scope(|scope| {
        // One runs, one is with the worker already.
        let first = crowd(scope, &casemate, "slow", 2);
        casemate.wait_until("given", Duration::from_secs(10), || batches(&casemate, "slow") == 2);
        // One whose time ends, and one that hangs up, while both wait.
        assert_eq!(word(&within(&casemate, "slow", "50")), (504, "deadline"));
        let mut stream = TcpStream::connect(casemate.address).unwrap();
        let body = body(1);
        let head = format!("POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        casemate.wait_until("heard", Duration::from_secs(10), || in_flight(&casemate) == 3.0);
        stream.shutdown(Shutdown::Both).unwrap();
        casemate.wait_until("gone", Duration::from_secs(10), || in_flight(&casemate) == 2.0);
        assert!(first.into_iter().all(|asked| asked.join().unwrap() == 200));
    });
    // Control: one that stays is run.
    assert_eq!(casemate.row("slow", [1.0; 4]).status, 200);
    assert_eq!(batches(&casemate, "slow"), 3);
}

#[test]
fn a_client_that_hangs_up_while_it_is_run_costs_no_worker() {
    let casemate = slow(Setup::new(), "slow", 500).serve();
    let worker = casemate.worker("slow");
    let mut stream = TcpStream::connect(casemate.address).unwrap();
    let body = body(1);
    let head = format!("POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    casemate.wait_until("given", Duration::from_secs(10), || batches(&casemate, "slow") == 1);
    drop(stream);
    casemate.wait_until("gone", Duration::from_secs(10), || in_flight(&casemate) == 0.0);
    assert_eq!(casemate.row("slow", [1.0; 4]).status, 200);
    assert_eq!(casemate.worker("slow"), worker);
    assert_eq!(casemate.status("slow")["starts"], 1);
}

#[test]
fn a_full_queue_answers_before_the_body_is_sent() {
    let casemate = slow(Setup::new().limit("queue", 3), "slow", 1000).serve();
    std::thread::scope(|scope| {
        // Two that the worker has; only then three that fill the queue.
        let mut asked = crowd(scope, &casemate, "slow", 2);
        casemate.wait_until("given", Duration::from_secs(10), || batches(&casemate, "slow") == 2);
        asked.extend(crowd(scope, &casemate, "slow", 3));
        casemate.wait_until("full", Duration::from_secs(10), || in_flight(&casemate) == 5.0);
        let start = Instant::now();
        let mut stream = TcpStream::connect(casemate.address).unwrap();
        let head = "POST /v2/models/slow/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let answer = client::parse(&said).unwrap();
        assert_eq!(word(&answer), (503, "busy"), "{}", answer.text());
        assert!(answer.error().contains("limits.queue"), "{}", answer.text());
        assert!(answer.headers["retry-after"].parse::<u64>().unwrap() >= 1);
        // Nobody waited for a run; generous for a machine with other work.
        println!("refused within {:?}", start.elapsed());
        assert!(asked.into_iter().all(|asked| asked.join().unwrap() == 200));
    });
    assert!(casemate.metric("casemate_requests_total{model=\"slow\",version=\"1\",outcome=\"busy\"}") >= 1.0);
}

#[test]
fn bytes_that_wait_are_bounded_and_a_neighbour_has_its_own() {
    let setup = Setup::new().limit("queue_bytes", 4096);
    let casemate = slow(slow(setup, "slow", 1500), "neighbour", 0).serve();
    let ask = |model: &str, rows| casemate.send("POST", &format!("/v2/models/{model}/infer"), &[], &body(rows));
    std::thread::scope(|scope| {
        let mut asked = crowd(scope, &casemate, "slow", 2);
        casemate.wait_until("given", Duration::from_secs(10), || batches(&casemate, "slow") == 2);
        // 3,200 bytes wait; 1,600 more are too many, 16 are not.
        asked.push(scope.spawn(|| ask("slow", 200).status));
        casemate.wait_until("waits", Duration::from_secs(10), || in_flight(&casemate) == 3.0);
        let refused = ask("slow", 100);
        assert_eq!(word(&refused), (503, "busy"), "{}", refused.text());
        assert!(refused.error().contains("limits.queue_bytes"), "{}", refused.text());
        asked.push(scope.spawn(|| ask("slow", 1).status));
        assert_eq!(ask("neighbour", 100).status, 200);
        assert!(asked.into_iter().all(|asked| asked.join().unwrap() == 200));
    });
    // More than the whole bound is taken where nobody waits.
    assert_eq!(ask("neighbour", 1000).status, 200);
}

#[test]
fn nobody_begins_to_wait_who_cannot_be_in_time_and_an_idle_model_never_refuses() {
    let casemate = slow(Setup::new(), "slow", 100).serve();
    std::thread::scope(|scope| {
        let crowd = crowd(scope, &casemate, "slow", 30);
        casemate.wait_until("a pace to be seen", Duration::from_secs(10), || batches(&casemate, "slow") >= 6);
        let start = Instant::now();
        let refused = within(&casemate, "slow", "500");
        assert_eq!(word(&refused), (503, "overload"), "{}", refused.text());
        println!("refused within {:?}", start.elapsed());
        assert!(refused.headers["retry-after"].parse::<u64>().unwrap() >= 1);
        // Control: who has time is taken in.
        assert_eq!(within(&casemate, "slow", "20000").status, 200);
        assert!(crowd.into_iter().all(|asked| asked.join().unwrap() == 200));
    });
    // Nobody waits: even what cannot be in time is tried.
    assert_eq!(word(&within(&casemate, "slow", "50")), (504, "deadline"));
    sleep(Duration::from_millis(300));
    assert_eq!(within(&casemate, "slow", "5000").status, 200);
}

#[test]
fn the_operator_bounds_batches() {
    let manifest = "[batching]\nmax_batch_size = 8\nmax_batch_delay_us = 1000000\n[limits]\ndeadline_ms = 10000";
    let config = "[models.at-once]\nmax_batch_delay_ms = 0\n[models.alone]\nmax_batch_size = 1";
    let setup = Setup::new().config(config);
    let setup = setup.version("at-once", "1", "echo", b"", X, Y, manifest);
    let setup = setup.version("waits", "1", "echo", b"", X, Y, manifest);
    let casemate = setup.version("alone", "1", "echo", b"", X, Y, manifest).serve();
    let took = |model: &str| {
        let start = Instant::now();
        assert_eq!(casemate.row(model, [1.0; 4]).status, 200);
        start.elapsed()
    };
    let least = (0..5).map(|_| took("at-once")).min().unwrap();
    assert!(least < Duration::from_millis(500), "{least:?}");
    assert!(took("waits") >= Duration::from_secs(1), "the control: alone, it waits for company");
    // With time for less than the delay, nobody waits all of it.
    assert_eq!(within(&casemate, "waits", "800").status, 200);
    let declared = |model: &str| casemate.status(model)["declared"].clone();
    assert_eq!(declared("at-once")["max_batch_delay_us"], 0);
    assert_eq!((&declared("alone")["max_batch_size"], &declared("waits")["max_batch_size"]), (&json!(1), &json!(8)));
    assert!(took("alone") < Duration::from_millis(900), "where nobody may ride along, nobody is waited for");
}

/// Inferences that the front is at.
fn in_flight(casemate: &Casemate) -> f64 {
    casemate.metric("casemate_requests_in_flight ")
}
