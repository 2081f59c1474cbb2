//! The demo against a launcher that only pretends: a shell script, with this test as its HTTP server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const LAYERS: [&str; 15] = [
    "cgroup",
    "resource-limits",
    "user-namespace",
    "namespaces",
    "own-identity",
    "no-nested-namespaces",
    "speculation",
    "core-scheduling",
    "no-new-privileges",
    "non-dumpable",
    "empty-root",
    "no-capabilities",
    "landlock",
    "seccomp",
    "descriptors",
];

/// Lacks everything.
const GIVEN_UP: &str = "the model";

/// Answers as a server whose model knows each of the samples, and whose worker lacks one layer.
fn serve(lacks: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || while answer(stream.as_ref().unwrap(), lacks).is_some() {});
        }
    });
    port
}

fn answer(stream: &TcpStream, lacks: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = if head.starts_with("POST /v2/models/digits/infer ") {
        let digit = label(&body);
        let scores: Vec<f64> = (0..10).map(|i| if i == digit { 0.91 } else { 0.01 }).collect();
        serde_json::json!({ "outputs": [
            { "name": "scores", "shape": [1, 10], "datatype": "FP32", "data": scores },
            { "name": "digit", "shape": [1], "datatype": "INT64", "data": [digit] },
        ] })
    } else if head.starts_with("GET /casemate/v1/models/digits/versions/1 ") {
        if lacks == GIVEN_UP {
            return reply(stream, 200, &serde_json::json!({ "state": "failed", "reason": "five starts failed" }));
        }
        let cage = LAYERS
            .map(|layer| serde_json::json!({ "layer": layer, "in_force": layer != lacks, "evidence": "Seccomp: 2" }));
        serde_json::json!({ "worker": { "pid": 7, "cage": cage } })
    } else {
        assert!(head.starts_with("GET /v2/models/digits/ready "), "{head}");
        return reply(stream, if lacks == GIVEN_UP { 503 } else { 200 }, &serde_json::json!({}));
    };
    reply(stream, 200, &answer)
}

fn reply(mut stream: &TcpStream, code: u16, answer: &serde_json::Value) -> Option<()> {
    let answer = answer.to_string();
    write!(stream, "HTTP/1.1 {code} X\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).ok()
}

fn label(body: &[u8]) -> u64 {
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    let input = &request["inputs"][0];
    assert_eq!((&input["name"], &input["shape"]), (&"pixels".into(), &serde_json::json!([1, 64])));
    let samples: serde_json::Value =
        serde_json::from_str(include_str!("../../../packaging/demo/samples.json")).unwrap();
    let sample = samples.as_array().unwrap().iter().find(|sample| sample["pixels"] == input["data"]);
    sample.unwrap()["label"].as_u64().unwrap()
}

fn place(launcher: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let draft = folder.path().join("draft");
    fs::write(&draft, format!("#!/bin/sh\n{launcher}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    copy(Path::new(env!("CARGO_BIN_EXE_casemate")), &folder.path().join("casemate"));
    copy(&draft, &folder.path().join("casemate-launcher"));
    folder
}

/// By another process: a test beside this one may fork while a copy is being written here, and a program that anybody has
/// open for writing cannot be started.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

fn demo(folder: &Path) -> (Output, String) {
    let output =
        Command::new(folder.join("casemate")).args(["demo", "--once"]).env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, said)
}

/// Notes where the config lies, listens as told, and is there until it is ended.
fn pretend(port: u16) -> String {
    format!(
        "trap 'echo ended > \"${{0%/*}}/ended\"; exit 0' TERM\n\
         cp \"$2\" \"${{0%/*}}/config\"; echo 'casemate: warming up' >&2\n\
         echo 'casemate: listening on http://127.0.0.1:{port}' >&2\n\
         while :; do sleep 0.05; done"
    )
}

#[test]
fn the_right_digit_in_a_whole_cage_is_0() {
    let folder = place(&pretend(serve("")));
    let (output, said) = demo(folder.path());
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("The model says 8; its writer meant 8: right."), "{said}");
    assert!(said.contains("20 of 20 right") && said.contains("✓   seccomp"), "{said}");
    assert!(said.contains("curl -s http://127.0.0.1:"), "{said}");
    assert!(folder.path().join("ended").exists(), "the launcher was not asked to end");
    let config = fs::read_to_string(folder.path().join("config")).unwrap();
    let store = config.lines().find_map(|line| line.strip_prefix("store = ")).unwrap();
    assert!(!Path::new(store.trim_matches('"')).exists(), "the folder is still there");
}

#[test]
fn a_missing_layer_is_1() {
    let folder = place(&pretend(serve("seccomp")));
    let (output, said) = demo(folder.path());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("✗   seccomp") && said.contains("1 of 15 layers are not in force"), "{said}");
}

#[test]
fn a_launcher_that_gives_up_is_69_with_its_words() {
    let folder = place("printf 'casemate: no user namespaces \\033[2J\\n' >&2; exit 78");
    let (output, said) = demo(folder.path());
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("exit code 78") && said.contains("no user namespaces \\u{1b}[2J"), "{said}");
}

#[test]
fn a_termination_ends_the_launcher_too() {
    let folder = place(&pretend(serve("")));
    let mut child = Command::new(folder.path().join("casemate")).arg("demo").stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let serving = said.lines().any(|line| line.unwrap() == "Serving until Ctrl-C.");
    assert!(serving, "it never came so far");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(folder.path().join("ended").exists());
}

#[test]
fn a_model_that_is_given_up_is_not_waited_for() {
    let folder = place(&pretend(serve(GIVEN_UP)));
    let began = Instant::now();
    let (output, said) = demo(folder.path());
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("gave the model up: five starts failed") && said.contains("| casemate: warming up"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}
