//! `casemate bench` against a running server, as a user sees it: a table, JSON, and words where there is nothing to load.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code: what cannot be is a failure")]

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup, program};
use serde_json::Value;

fn server() -> Casemate {
    let (input, output) = (&["x:FP32[-1,4]", "m:INT64[-1]"], &["y:FP32[-1,4]", "n:INT64[-1]"]);
    let setup = Setup::new().echo("copy", "").version("two", "1", "echo", b"", input, output, "");
    setup.echo("broken", "fail = \"no\"").serve()
}

fn bench(url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program("casemate"));
    command.arg("bench").args(args).args(["--url", url, "--seconds", "1"]).env_remove("NO_COLOR");
    command.output().unwrap()
}

fn url(casemate: &Casemate) -> String {
    format!("http://{}", casemate.address)
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The code it ended with, which must be this one, and what it said.
fn fails(code: i32, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}{}", String::from_utf8_lossy(&output.stdout));
    said
}

#[test]
fn an_open_loop_sends_what_is_due_and_a_closed_one_what_it_can() {
    let casemate = server();
    let url = url(&casemate);
    let open = json(&bench(&url, &["copy", "--rate", "50", "--json"]));
    assert_eq!((&open["answers"], &open["unanswered"]), (&50.into(), &0.into()), "{open}");
    assert_eq!((&open["rate"], &open["connections"]), (&50.0.into(), &Value::Null), "{open}");
    let [p50, p99, longest] = ["p50", "p99", "longest"].map(|share| open["latency_us"][share].as_f64().unwrap());
    assert!(p50 > 0.0 && p50 <= p99 && p99 <= longest, "{open}");
    let served = casemate.metric("casemate_requests_total{model=\"copy\"");
    assert!(served >= 50.0, "{served}\n{}", casemate.get("/metrics").text());

    // Two inputs, several rows, numbers from a seed; a version by name.
    let args = ["two", "--version", "1", "--connections", "4", "--rows", "3", "--random", "7", "--json"];
    let closed = json(&bench(&url, &args));
    assert!(closed["answers"].as_u64().unwrap() >= 4, "{closed}");
    assert_eq!((&closed["connections"], &closed["rows"], &closed["rate"]), (&4.into(), &3.into(), &Value::Null));

    let output = bench(&url, &["copy", "--rate", "20"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("| answers | failed | answers/s | mean | p50 |"), "{table}");
    assert!(table.contains("\n| 20 | 0 | "), "{table}");
    // No terminal, so neither colours nor a line that is written over.
    assert!(!table.contains('\x1b') && !table.contains('\r'), "{table}");
}

#[test]
fn a_trace_needs_a_server_that_tells_its_stages() {
    let casemate = server();
    let output = bench(&url(&casemate), &["copy", "--rate", "20", "--trace"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{table}");
    let says = table.contains("`trace = true` under [listen]") || table.contains("| stage | p50 | p99 |");
    assert!(says, "{table}");
}

#[test]
fn what_cannot_be_loaded_is_told_in_words() {
    let casemate = server();
    let url = url(&casemate);
    let said = fails(66, &bench(&url, &["nothing"]));
    assert!(said.contains("no model nothing") && said.contains("copy"), "{said}");
    fails(66, &bench(&url, &["copy", "--version", "9"]));
    let said = fails(1, &bench(&url, &["broken"]));
    assert!(said.contains("the server answers 500"), "{said}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let said = fails(69, &bench(&nobody, &["copy"]));
    assert!(said.contains("no server answers") && said.contains("casemate serve --config FILE"), "{said}");

    fails(2, &bench("https://127.0.0.1", &["copy"]));
    fails(2, &bench(&url, &["copy", "--rate", "0"]));
    fails(2, &bench(&url, &["copy", "--rate", "5", "--connections", "1"]));
}

#[test]
fn a_server_that_goes_away_ends_it() {
    let mut casemate = server();
    let mut command = Command::new(program("casemate"));
    let url = url(&casemate);
    command.args(["bench", "copy", "--rate", "50", "--seconds", "60", "--url", &url]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    casemate.stop();
    let output = child.wait_with_output().unwrap();
    let said = fails(69, &output);
    assert!(said.contains("cannot connect"), "{said}");
}
