//! SECURITY.md, "What a model cannot do": TorchScript that reads, writes, loops, crashes, floods or lies, against a
//! running server with a neighbour that must not notice. Each act was seen to happen without a cage (the positive controls
//! stand in `tests/harness/models.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use casemate_tests::casemate::{Casemate, Setup};
use casemate_tests::lag::Lag;
use casemate_tests::models::{self, When};

const ASKED: [f32; 4] = [2000.0, 1.0, 1.0, 1.0];
const CALM: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// What these tests let past the gate, so that the cage is met.
const PAST_THE_GATE: &[&str] = &["aten::save", "aten::from_file", "inductor::_reinterpret_tensor"];

fn beside_a_neighbour(name: &str, model: &[u8]) -> Casemate {
    let setup = Setup::new().past_the_gate(name, PAST_THE_GATE);
    setup.simple(name, model).simple("neighbour", &models::double()).serve()
}

fn neighbour_answers(casemate: &Casemate) {
    let answer = Lag::within(Duration::from_secs(2), "the neighbour", || casemate.row("neighbour", CALM));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["outputs"][0]["data"], serde_json::json!([2.0, 4.0, 6.0, 8.0]));
    assert_eq!(casemate.status("neighbour")["starts"], 1, "the neighbour's worker was replaced");
}

/// How the first worker of a model ended. The client is answered before that is written down.
fn first_exit(casemate: &Casemate, name: &str) -> serde_json::Value {
    let mut exit = serde_json::Value::Null;
    casemate.wait_until("its end in the status", Duration::from_secs(10), || {
        exit = casemate.status(name)["last_exit"].clone();
        !exit.is_null()
    });
    exit
}

/// A model that is calm until asked; then its worker dies of this system call.
fn dies_of(name: &str, model: &[u8], call: &str) -> Casemate {
    let casemate = beside_a_neighbour(name, model);
    assert_eq!(casemate.row(name, CALM).status, 200, "the calm request must pass, or the act was never reached");
    let answer = casemate.row(name, ASKED);
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(!answer.text().contains("passwd") && !answer.text().contains("/tmp"), "{}", answer.text());
    let exit = first_exit(&casemate, name);
    assert_eq!(exit["cause"], "syscall", "{exit}");
    assert!(exit["detail"].as_str().unwrap().contains(call), "{exit}");
    casemate.wait_until("its line", Duration::from_secs(10), || casemate.log().contains(call));
    let ends = format!("casemate_worker_exits_total{{model=\"{name}\",version=\"1\",cause=\"syscall\"");
    casemate.wait_until("its number", Duration::from_secs(10), || casemate.metric(&ends) >= 1.0);
    neighbour_answers(&casemate);
    // The next worker serves on.
    casemate.wait_until("back", Duration::from_secs(20), || casemate.row(name, CALM).status == 200);
    casemate
}

#[test]
fn a_model_that_saves_a_file_leaves_none() {
    let path = "/tmp/casemate-hostile-save";
    dies_of("save", &models::save_file(When::Asked, path), "open");
    assert!(!Path::new(path).exists());
}

#[test]
fn a_model_that_reads_a_file_learns_nothing() {
    dies_of("read", &models::from_file_read(When::Asked, "/etc/passwd"), "open");
}

#[test]
fn a_model_that_maps_a_file_creates_none() {
    let path = "/tmp/casemate-hostile-map";
    dies_of("map", &models::from_file_create(When::Asked, path), "open");
    assert!(!Path::new(path).exists());
}

#[test]
fn acts_at_load_never_serve_and_leave_nothing() {
    let path = "/tmp/casemate-hostile-load";
    let casemate = Setup::new()
        .limit("start_attempts", 2)
        .limit("load_ms", 5000)
        .past_the_gate("save", PAST_THE_GATE)
        .past_the_gate("read", PAST_THE_GATE)
        .past_the_gate("map", PAST_THE_GATE)
        .simple("save", &models::save_file(When::Load, path))
        .simple("read", &models::from_file_read(When::Load, "/etc/passwd"))
        .simple("map", &models::from_file_create(When::Load, path))
        .simple("neighbour", &models::double())
        .serve();
    for name in ["save", "read", "map"] {
        let status = casemate.status(name);
        assert_eq!(status["state"], "failed", "{status}");
        assert_eq!(status["last_exit"]["cause"], "syscall", "{status}");
        assert_eq!(casemate.row(name, CALM).status, 503);
    }
    assert!(!Path::new(path).exists());
    neighbour_answers(&casemate);
}

#[test]
fn a_model_that_loops_is_killed_at_its_deadline() {
    let casemate = Setup::new()
        .model(
            "loops",
            &models::loop_forever(When::Asked),
            &["x:FP32[-1,4]"],
            &["y:FP32[-1,4]"],
            "[limits]\ndeadline_ms = 700",
        )
        .simple("neighbour", &models::double())
        .serve();
    let before = casemate.worker("loops");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let start = Instant::now();
            (casemate.row("loops", ASKED), start.elapsed())
        });
        for _ in 0..5 {
            neighbour_answers(&casemate);
        }
        let (answer, took) = asked.join().unwrap();
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert!((Duration::from_millis(650)..Duration::from_secs(3)).contains(&took), "{took:?}");
    });
    casemate
        .wait_until("killed", Duration::from_secs(5), || casemate.status("loops")["last_exit"]["cause"] == "deadline");
    assert!(!Path::new(&format!("/proc/{before}")).exists(), "the core that it burned is not freed");
    casemate.wait_until("back", Duration::from_secs(20), || casemate.row("loops", CALM).status == 200);
}

#[test]
fn a_model_that_crashes_names_its_signal_and_comes_back() {
    for (name, model, signal) in
        [("fpe", models::crash_sigfpe(When::Asked), "SIGFPE"), ("segv", models::crash_sigsegv(When::Asked), "SIGSEGV")]
    {
        let casemate = beside_a_neighbour(name, &model);
        let answer = casemate.row(name, ASKED);
        assert_eq!(answer.status, 502, "{}", answer.text());
        let exit = first_exit(&casemate, name);
        assert_eq!(exit["cause"], "signal", "{exit}");
        assert!(exit["detail"].as_str().unwrap().contains(signal), "{exit}");
        neighbour_answers(&casemate);
        casemate.wait_until("back", Duration::from_secs(20), || casemate.row(name, CALM).status == 200);
    }
}

#[test]
fn what_the_gate_can_tell_never_meets_the_cage() {
    let path = "/tmp/casemate-hostile-gate";
    let mut cut = models::double();
    cut.pop();
    let refused = [
        ("save", models::save_file(When::Asked, path), "graph-denied"),
        ("hook", models::save_file(When::Load, path), "graph-denied"),
        ("map", models::from_file_create(When::Always, path), "graph-denied"),
        ("deep", models::deep_parentheses(), "code-depth"),
        ("cut", cut, "archive-structure"),
    ];
    let setup = refused.iter().fold(Setup::new(), |setup, (name, model, _)| setup.simple(name, model));
    let casemate = setup.simple("neighbour", &models::double()).serve();
    for (name, _, code) in refused {
        let status = casemate.status(name);
        assert_eq!((&status["state"], &status["starts"]), (&"failed".into(), &1.into()), "it is tried once: {status}");
        let exit = &status["last_exit"];
        assert_eq!(exit["cause"], "refused", "{status}");
        // The operator's log has the place; who can read a status is told the class of reason, and no word of the model's.
        let told = |line: &str| line.contains(" at byte ") && line.contains(&format!("model={name}"));
        assert!(casemate.log().lines().any(told), "{}", casemate.log());
        assert!(exit["detail"].as_str().unwrap().contains(code), "{status}");
        assert!(!status.to_string().contains(" at byte "), "{status}");
        let answer = casemate.row(name, CALM);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.error().contains(&format!("({code})")), "{}", answer.text());
        assert!(!answer.text().contains("casemate-hostile") && !answer.text().contains("code/"), "{}", answer.text());
    }
    assert!(!Path::new(path).exists());
    neighbour_answers(&casemate);
}

#[test]
fn memory_is_bounded_and_the_worker_goes_on() {
    let casemate = Setup::new()
        .config("[models.bomb]\nmemory_mib = 512")
        .simple("bomb", &models::memory_bomb(When::Asked, 4 << 30))
        .simple("neighbour", &models::double())
        .serve();
    let answer = casemate.row("bomb", ASKED);
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.error().contains("memory"), "{}", answer.text());
    assert_eq!(casemate.row("bomb", CALM).status, 200);
    assert_eq!(casemate.status("bomb")["starts"], 1);
    neighbour_answers(&casemate);
}

#[test]
fn prints_reach_the_log_bounded_and_made_safe() {
    let casemate = beside_a_neighbour("prints", &models::print_once(When::Asked, "hello \u{1b}[31mred\u{7} world"));
    assert_eq!(casemate.row("prints", ASKED).status, 200);
    casemate.wait_until("the print", Duration::from_secs(5), || casemate.log().contains("hello "));
    assert!(!casemate.log().contains('\u{1b}'), "a terminal escape reached the log");
    let flood = beside_a_neighbour("floods", &models::print_flood(When::Asked, 50_000));
    assert_eq!(flood.row("floods", ASKED).status, 200, "a print must never block a model");
    flood.wait_until("the number of dropped bytes", Duration::from_secs(10), || {
        flood.metric("casemate_worker_log_dropped_bytes_total{model=\"floods\"") > 0.0
    });
    assert!(flood.log().len() < 400_000, "{} bytes of a flood reached the log", flood.log().len());
    neighbour_answers(&flood);
}

#[test]
fn errors_of_a_model_stay_with_the_operator() {
    let casemate = beside_a_neighbour("raises", &models::raises(When::Asked, "the secret is \u{1b}[31m42"));
    let answer = casemate.row("raises", ASKED);
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(!answer.text().contains("secret"), "{}", answer.text());
    casemate.wait_until("its line", Duration::from_secs(10), || casemate.log().contains("the secret is"));
    assert!(!casemate.log().contains('\u{1b}'));
    assert_eq!(casemate.row("raises", CALM).status, 200);
    assert_eq!(casemate.status("raises")["starts"], 1, "an exception is no reason to end a worker");
}

#[test]
fn outputs_that_are_not_declared_are_refused() {
    for (name, model) in [
        ("shape", models::wrong_shape_output(When::Asked)),
        ("dtype", models::wrong_dtype_output(When::Asked)),
        ("nan", models::nan_output(When::Asked)),
        ("expanded", models::expanded_output(When::Asked)),
        ("rows", models::mutates_rows(When::Asked)),
    ] {
        let casemate = beside_a_neighbour(name, &model);
        let answer = casemate.row(name, ASKED);
        assert_eq!(answer.status, 502, "{name}: {}", answer.text());
        assert_eq!(casemate.row(name, CALM).status, 200, "{name}");
        assert_eq!(casemate.status(name)["starts"], 1, "{name}");
    }
}
