//! Bad input gets a 4xx that says what to do, in the protocol's form, and no worker ever hears of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use casemate_tests::casemate::Setup;
use casemate_tests::{client, models};

#[test]
fn no_bad_request_reaches_a_worker() {
    let casemate = Setup::new().simple("m", &models::double()).limit("request_bytes", 100_000).serve();
    let good = r#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let spoilt = |from: &str, to: &str| {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from:?} is not in the request");
        text
    };
    let cases: Vec<(String, u16, &str)> = vec![
        ("{".to_owned(), 400, ""),
        (good[..good.len() - 3].to_owned(), 400, ""),
        ("[]".to_owned(), 400, ""),
        ("".to_owned(), 400, ""),
        ("null".to_owned(), 400, ""),
        ("{}".to_owned(), 400, "input"),
        (spoilt("[1,4]", "[1,5]"), 400, ""),
        (spoilt("[1,4]", "[4]"), 400, "[-1,4]"),
        (spoilt("[1,4]", "[-1,4]"), 400, ""),
        (spoilt("[1,4]", "[4611686018427387904,4]"), 400, ""),
        (spoilt("[1,4]", "[1.5,4]"), 400, ""),
        (spoilt("FP32", "FP64"), 400, "FP32"),
        (spoilt("FP32", "BYTES"), 400, "BYTES"),
        (spoilt("FP32", "FLOAT"), 400, "FLOAT"),
        (spoilt("\"x\"", "\"z\""), 400, "x:FP32[-1,4]"),
        (spoilt("[1,2,3,4]", "[1,2,3]"), 400, "3"),
        (spoilt("[1,2,3,4]", "[1,2,3,4,5]"), 400, ""),
        (spoilt("[1,2,3,4]", "[1,2,3,\"4\"]"), 400, ""),
        (spoilt("[1,2,3,4]", "[1,2,3,1e400]"), 400, ""),
        (spoilt("[1,2,3,4]", "[[1,2],[3,4]]"), 400, ""),
        (spoilt("[1,2,3,4]", "{}"), 400, ""),
        (spoilt("[1,2,3,4]", &"[".repeat(20_000)), 400, ""),
        (spoilt("]}]}", "]},{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}"), 400, "x"),
        (spoilt("]}]}", "]}],\"outputs\":[{\"name\":\"q\"}]}"), 400, "q"),
        (format!("{good}{}", " ".repeat(100_000)), 413, "request_bytes"),
    ];
    for (body, status, says) in &cases {
        let answer = casemate.send("POST", "/v2/models/m/infer", &[], body.as_bytes());
        let short: String = body.chars().take(100).collect();
        assert_eq!(answer.status, *status, "{short}: {}", answer.text());
        assert!(!answer.error().is_empty() && answer.error().contains(says), "{short}: {}", answer.text());
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let with_length = |length: &str| {
        casemate.send("POST", "/v2/models/m/infer", &[("Inference-Header-Content-Length", length)], good.as_bytes())
    };
    for length in ["-1", "999999", "x", "18446744073709551616", "10"] {
        assert_eq!(with_length(length).status, 400, "{length}");
    }
    for (method, path, status) in [
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/m/versions/9/infer", 404),
        ("POST", "/v2/models/..%2f..%2fetc/infer", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("GET", "/nothing", 404),
        ("DELETE", "/v2", 405),
    ] {
        let answer = casemate.send(method, path, &[], good.as_bytes());
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(!answer.error().is_empty(), "{method} {path}: {}", answer.text());
    }
    let status = casemate.status("m");
    assert_eq!((status["worker"]["batches"].as_u64(), status["starts"].as_u64()), (Some(0), Some(1)), "{status}");
    // Control: the good one does reach it.
    assert_eq!(casemate.send("POST", "/v2/models/m/infer", &[], good.as_bytes()).status, 200);
    assert_eq!(casemate.status("m")["worker"]["batches"], 1);
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let casemate = Setup::new().simple("m", &models::double()).serve();
    let mut stream = TcpStream::connect(casemate.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).unwrap();
    assert!(bytes[..read].starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&bytes[..read]));
}

#[test]
fn a_body_that_is_cut_off_disturbs_nobody() {
    let casemate = Setup::new().simple("m", &models::double()).limit("body_ms", 500).serve();
    let head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{\"inputs\"";
    let mut cut = TcpStream::connect(casemate.address).unwrap();
    cut.write_all(head).unwrap();
    drop(cut);
    let mut slow = TcpStream::connect(casemate.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    slow.write_all(head).unwrap();
    let mut bytes = Vec::new();
    let _ = slow.read_to_end(&mut bytes);
    assert!(bytes.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(casemate.row("m", [1.0; 4]).status, 200);
}

#[test]
fn a_slow_head_is_cut_off_and_a_long_one_refused() {
    let casemate = Setup::new().simple("m", &models::double()).limit("header_ms", 300).serve();
    let mut slow = TcpStream::connect(casemate.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    slow.write_all(b"GET /v2 HTTP/1.1\r\nhost: ").unwrap();
    let start = Instant::now();
    let _ = slow.read_to_end(&mut Vec::new());
    assert!(start.elapsed() < Duration::from_secs(3), "a slow head was borne for {:?}", start.elapsed());
    let long = "x".repeat(100_000);
    let answer = client::send(casemate.address, "GET", "/v2", &[("x-long", &long)], b"");
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == 431), "a head of 100 kB passed");
    assert_eq!(casemate.get("/v2").status, 200);
}

#[test]
fn a_full_queue_answers_at_once() {
    let casemate = Setup::new().echo("slow", "sleep_ms = 700").limit("queue", 1).serve();
    let body = br#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || client::send(casemate.address, "POST", "/v2/models/slow/infer", &[], body).unwrap().status;
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|a| a.join().unwrap()).collect()
    });
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    assert!(statuses.iter().all(|s| [200, 503, 504].contains(s)), "{statuses:?}");
}
