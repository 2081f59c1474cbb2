//! SECURITY.md, "Violations are seen": what a layer refuses or ends is one event in the log, one number more, and in the
//! model's status; bytes that keep killing their workers rest; what a model prints stays with the operator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: what cannot be is a failure"
)]

use std::time::Duration;

use casemate_tests::casemate::{Casemate, Setup, is_root};
use casemate_tests::lag::Lag;
use casemate_tests::models::{self, When};
use serde_json::json;

const ASKED: [f32; 4] = [2000.0, 1.0, 1.0, 1.0];
const CALM: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const LONG: Duration = Duration::from_secs(20);

/// The events of a model in the log.
fn events(casemate: &Casemate, model: &str) -> Vec<String> {
    let of = |line: &&str| line.contains("event=\"violation\"") && line.contains(&format!(" model={model} "));
    casemate.log().lines().filter(of).map(str::to_owned).collect()
}

/// Waits until exactly this is what was refused or ended, in all three places.
fn seen(casemate: &Casemate, model: &str, layer: &str, cause: &str, times: usize) {
    casemate.wait_until("the violation", LONG, || casemate.status(model)["violations"]["total"] == times);
    let violations = casemate.status(model)["violations"].clone();
    assert_eq!(violations["counts"], json!([{"layer": layer, "cause": cause, "count": times}]), "{violations}");
    let last = violations["last"].as_array().unwrap();
    assert_eq!(last.len(), times.min(8), "{violations}");
    assert!(
        last.iter().all(|seen| seen["layer"] == layer && seen["at"].as_u64() > Some(1_600_000_000)),
        "{violations}"
    );
    let number =
        format!("casemate_violations_total{{model=\"{model}\",version=\"1\",layer=\"{layer}\",cause=\"{cause}\"}}");
    assert_eq!(casemate.metric(&number), times as f64);
    let all = format!("casemate_violations_total{{model=\"{model}\"");
    assert_eq!(casemate.metric(&all), times as f64, "something else was counted too");
    casemate.wait_until("the events", LONG, || events(casemate, model).len() >= times);
    let events = events(casemate, model);
    assert_eq!(events.len(), times, "{events:#?}");
    for event in events {
        for field in [format!("layer=\"{layer}\""), format!("cause=\"{cause}\""), "version=1".to_owned()] {
            assert!(event.contains(&field), "{field} is not in {event}");
        }
    }
}

/// The control: nothing was refused or ended so far.
fn nothing_seen(casemate: &Casemate, model: &str) {
    assert_eq!(casemate.status(model)["violations"], json!({"total": 0, "counts": [], "last": []}));
    assert_eq!(casemate.metric(&format!("casemate_violations_total{{model=\"{model}\"")), 0.0);
    assert_eq!(events(casemate, model), Vec::<String>::new());
}

#[test]
fn a_refused_call_is_told_with_everything_that_is_known() {
    told(Setup::new(), is_root());
}

#[test]
fn to_an_ordinary_user_it_is_told_too() {
    told(Setup::new().as_user(), false);
}

fn told(setup: Setup, own_uid: bool) {
    let casemate = setup
        .past_the_gate("save", &["aten::save"])
        .simple("save", &models::save_file(When::Asked, "/tmp/casemate-violation"))
        .simple("neighbour", &models::double())
        .serve();
    assert_eq!(casemate.row("save", CALM).status, 200);
    nothing_seen(&casemate, "save");
    let worker = casemate.status("save")["worker"].clone();
    let answer = casemate.row("save", ASKED);
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("open"), "{}", answer.text());
    seen(&casemate, "save", "seccomp", "syscall", 1);
    let event = events(&casemate, "save").remove(0);
    for field in ["worker=", "call=\"open", "number=", "args=\"0x", "instruction=\"0x", "thread=", "thread_name=\""] {
        assert!(event.contains(field), "{field} is not in {event}");
    }
    assert!(event.contains(&format!("pid={}", worker["pid"])), "{event}");
    assert_eq!(event.contains(" uid="), own_uid, "{event}");
    assert_eq!(worker["uid"].is_u64(), own_uid, "{worker}");
    // Where the call came from: a library that the launcher gave the worker, by name and offset.
    let last = casemate.status("save")["violations"]["last"][0].clone();
    let origin = last["origin"].as_str().unwrap();
    assert!(origin.starts_with("libc.so") && origin.contains("+0x"), "{last}");
    assert!(event.contains(&format!("origin=\"{origin}\"")), "{event}");
    assert!(last["call"][0].as_str().unwrap().starts_with("open") && last["call"][1].is_i64(), "{last}");
    assert_eq!(last["pid"], worker["pid"]);
    nothing_seen(&casemate, "neighbour");
}

#[test]
fn every_refused_call_is_counted_and_the_last_eight_are_kept() {
    // 110 is getppid on x86-64, 173 on arm64: harmless, and not allowed.
    let number = if cfg!(target_arch = "x86_64") { 110 } else { 173 };
    let casemate = Setup::new()
        .limit("breaker_deaths", 1000)
        .echo("calls", &format!("after = 1\nsyscall = {number}"))
        .simple("neighbour", &models::double())
        .serve();
    for times in 1..=10 {
        casemate.wait_until("ready", LONG, || casemate.status("calls")["state"] == "ready");
        assert_eq!(casemate.row("calls", CALM).status, 200);
        assert_eq!(casemate.row("calls", CALM).status, 502);
        casemate.wait_until("counted", LONG, || casemate.status("calls")["violations"]["total"] == times);
    }
    seen(&casemate, "calls", "seccomp", "syscall", 10);
    assert!(events(&casemate, "calls").iter().all(|event| event.contains("call=\"getppid\"")));
    nothing_seen(&casemate, "neighbour");
}

/// A denial by errno: the model is told no and its worker goes on, and it does not look healthy.
#[test]
fn memory_that_was_refused_is_counted_though_the_worker_lives() {
    let casemate = Setup::new()
        .config("[models.bomb]\nmemory_mib = 512")
        .simple("bomb", &models::memory_bomb(When::Asked, 4 << 30))
        .serve();
    assert_eq!(casemate.row("bomb", CALM).status, 200);
    nothing_seen(&casemate, "bomb");
    for _ in 0..2 {
        assert_eq!(casemate.row("bomb", ASKED).headers["x-casemate-error"], "model_memory");
    }
    seen(&casemate, "bomb", "resource-limits", "memory", 2);
    assert_eq!(casemate.status("bomb")["starts"], 1);
}

#[test]
fn what_the_front_ends_is_counted_and_a_crash_is_not() {
    let casemate = Setup::new()
        .echo("liar", "after = 1\nlie = \"shape\"")
        .echo("late", "after = 1\nstop = true")
        .echo("crash", "after = 1\ncrash = \"segv\"")
        .serve();
    for (model, status) in [("liar", 502), ("late", 504), ("crash", 502)] {
        assert_eq!(casemate.row(model, CALM).status, 200);
        nothing_seen(&casemate, model);
        assert_eq!(casemate.row(model, CALM).status, status, "{model}");
        casemate.wait_until("its end", LONG, || casemate.status(model)["last_exit"].is_object());
    }
    seen(&casemate, "liar", "supervision", "protocol", 1);
    seen(&casemate, "late", "supervision", "deadline", 1);
    // It is in the exits; no layer held anything.
    assert_eq!(casemate.metric("casemate_worker_exits_total{model=\"crash\",version=\"1\",cause=\"signal\"}"), 1.0);
    nothing_seen(&casemate, "crash");
}

#[test]
fn bytes_that_are_not_the_manifests_are_a_violation() {
    let setup = Setup::new().simple("a", &models::double()).simple("b", &models::double());
    let file = setup.store().join("a/1/model.pt");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let casemate = setup.serve();
    seen(&casemate, "a", "archive", "verify", 1);
    assert_eq!(casemate.metric("casemate_model_refusals_total{model=\"a\",version=\"1\",step=\"verify\"}"), 1.0);
    nothing_seen(&casemate, "b");
}

#[test]
fn bytes_that_keep_killing_their_workers_rest_and_their_neighbours_do_not() {
    const DEADLY: &str = "crash = \"segv\"";
    let specs: (&[&str], &[&str]) = (&["x:FP32[-1,4]"], &["y:FP32[-1,4]"]);
    let casemate = Setup::new()
        .limit("breaker_deaths", 3)
        .limit("breaker_rest_ms", 600_000)
        .config("[models.deadly]\nversions = \"all\"")
        .echo("deadly", DEADLY)
        .version("deadly", "2", "echo", b"# another version\n", specs.0, specs.1, "")
        .echo("twin", DEADLY)
        .simple("neighbour", &models::double())
        .serve();
    let one = "/v2/models/deadly/versions/1/infer";
    let body = json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": CALM}]}).to_string();
    let ask = || casemate.send("POST", one, &[("content-type", "application/json")], body.as_bytes());
    for _ in 0..3 {
        casemate.wait_until("ready", LONG, || casemate.status("deadly")["state"] == "ready");
        assert_eq!(ask().status, 502);
    }
    casemate.wait_until("open", LONG, || casemate.status("deadly")["state"] == "open");
    let status = casemate.status("deadly");
    assert!(status["reason"].as_str().unwrap().contains("signal"), "{status}");
    assert_eq!(status["breaker"]["state"], "open", "{status}");
    assert!(status["breaker"]["until"].as_u64() > status["last_exit"]["at"].as_u64(), "{status}");
    // At once: the deadline of this model is 2 s, the rest is 10 minutes.
    let answer = Lag::within(Duration::from_millis(1500), "a refusal", ask);
    assert_eq!((answer.status, answer.headers["x-casemate-error"].as_str()), (503, "breaker_open"));
    let after: u64 = answer.headers["retry-after"].parse().unwrap();
    assert!((1..=600).contains(&after), "{after}");
    // The same bytes by another name rest too, though that worker lives; a new version and a neighbour do not.
    assert_eq!(casemate.row("twin", CALM).headers["x-casemate-error"], "breaker_open");
    assert_eq!(casemate.status("twin")["state"], "open");
    assert_eq!(casemate.status("twin")["starts"], 1);
    let newer = casemate.row("deadly", CALM);
    assert_eq!(newer.status, 200, "{}", newer.text());
    assert_eq!(casemate.row("neighbour", CALM).status, 200);
    // A model at rest takes nobody's traffic away.
    assert_eq!(casemate.get("/v2/health/ready").status, 200);
    assert_eq!(casemate.get("/v2/models/deadly/versions/1/ready").status, 503);
    assert_eq!(casemate.metric("casemate_breaker_opened_total{model=\"deadly\",version=\"1\"}"), 1.0);
    assert_eq!(casemate.metric("casemate_model_state{model=\"deadly\",version=\"1\",state=\"open\"}"), 1.0);
    casemate.wait_until("its line", LONG, || casemate.log().contains("event=\"breaker_open\""));
    assert_eq!(casemate.status("deadly")["starts"], 3);
}

#[test]
fn a_breaker_closes_by_itself_with_the_first_good_answer() {
    let casemate = Setup::new()
        .limit("breaker_deaths", 2)
        .limit("breaker_rest_ms", 300)
        .past_the_gate("segv", &["inductor::_reinterpret_tensor"])
        .simple("segv", &models::crash_sigsegv(When::Asked))
        .serve();
    for _ in 0..2 {
        casemate.wait_until("ready", LONG, || casemate.status("segv")["state"] == "ready");
        assert_eq!(casemate.row("segv", ASKED).status, 502);
    }
    casemate.wait_until("half-open", LONG, || casemate.status("segv")["breaker"]["state"] == "half-open");
    casemate.wait_until("a good answer", LONG, || casemate.row("segv", CALM).status == 200);
    assert_eq!(casemate.status("segv")["breaker"]["state"], "closed");
    assert_eq!(casemate.metric("casemate_breaker_opened_total{model=\"segv\""), 1.0);
    // Half-open it would have opened again at once.
    assert_eq!(casemate.row("segv", ASKED).status, 502);
    casemate.wait_until("ready", LONG, || casemate.status("segv")["state"] == "ready");
    assert_eq!(casemate.metric("casemate_breaker_opened_total{model=\"segv\""), 1.0);
}

/// Whoever sends a deadly request now and then, while others get answers, does not switch a model off.
#[test]
fn deaths_between_good_answers_open_nothing() {
    let casemate = Setup::new().limit("breaker_deaths", 2).echo("a", "after = 1\ncrash = \"segv\"").serve();
    for _ in 0..6 {
        casemate.wait_until("ready", LONG, || casemate.status("a")["state"] == "ready");
        assert_eq!(casemate.row("a", CALM).status, 200);
        assert_eq!(casemate.row("a", CALM).status, 502);
    }
    assert_eq!(casemate.metric("casemate_breaker_opened_total{model=\"a\""), 0.0);
}

#[test]
fn what_a_model_prints_is_counted_for_all_and_told_to_the_operator_alone() {
    let casemate = Setup::new().echo("talks", "after = 1\nprint = \"famous last words\"\ncrash = \"segv\"").serve();
    assert_eq!(casemate.row("talks", CALM).status, 200);
    let before = casemate.status("talks")["output"].clone();
    assert!(!casemate.log().contains("famous"), "the control: nothing is printed yet");
    assert_eq!(casemate.row("talks", CALM).status, 502);
    casemate.wait_until("the last words", LONG, || casemate.log().contains("output_tail="));
    let log = casemate.log();
    let ended = log.lines().find(|line| line.contains("output_tail=")).unwrap();
    assert!(ended.contains("famous last words"), "{ended}");
    let output = casemate.status("talks")["output"].clone();
    assert!(output["lines"].as_u64() > before["lines"].as_u64(), "{before} {output}");
    assert!(output["bytes"].as_u64() > before["bytes"].as_u64(), "{before} {output}");
    for path in ["/casemate/v1/models", "/casemate/v1/models/talks", "/metrics"] {
        assert!(!casemate.get(path).text().contains("famous"), "{path}");
    }
}

/// Whoever may ask for an inference may read a status too.
#[test]
fn what_a_model_says_while_it_is_loaded_is_in_no_status() {
    let casemate = Setup::new()
        .limit("start_attempts", 1)
        .past_the_gate("raises", &[])
        .simple("raises", &models::raises(When::Load, "the secret is 42"))
        .simple("neighbour", &models::double())
        .serve();
    assert_eq!(casemate.status("raises")["state"], "failed");
    casemate.wait_until("the control: it was said", LONG, || casemate.log().contains("the secret is 42"));
    let reason = casemate.status("raises")["reason"].clone();
    assert!(reason.as_str().unwrap().contains("load"), "{reason}");
    for path in ["/casemate/v1/models", "/casemate/v1/models/raises", "/metrics", "/v2/models/raises"] {
        assert!(!casemate.get(path).text().contains("secret"), "{path}");
    }
    assert!(!casemate.row("raises", CALM).text().contains("secret"));
}

#[test]
fn the_cage_is_told_from_inside_and_from_outside() {
    let casemate = Setup::new().simple("a", &models::double()).serve();
    let worker = casemate.status("a")["worker"].clone();
    let inside = &worker["inside"];
    for fact in ["no_new_privs", "non_dumpable", "empty_root", "no_capabilities", "landlock_complete"] {
        assert_eq!(inside[fact], true, "{fact}: {worker}");
    }
    assert_eq!(inside["seccomp_mode"], 2);
    let abi = inside["landlock_abi"].as_u64().unwrap();
    assert_eq!(casemate.metric("casemate_landlock_abi{model=\"a\",version=\"1\"}"), abi as f64);
    for layer in worker["cage"].as_array().unwrap() {
        let name = layer["layer"].as_str().unwrap();
        let gauge = format!("casemate_layer_in_force{{model=\"a\",version=\"1\",layer=\"{name}\"}} ");
        assert!(casemate.get("/metrics").text().contains(&gauge), "{name}");
        assert_eq!(casemate.metric(&gauge), f64::from(u8::from(layer["in_force"] == true)), "{name}");
    }
}
