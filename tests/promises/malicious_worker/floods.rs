//! Too much, and too little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_ipc::frame::MAX_FRAME;
use casemate_ipc::id::BatchId;
use casemate_ipc::work::{Failure, FromWorker, MAX_DETAIL};
use casemate_tests::fake_launcher::print;
use casemate_tests::puppet::{declared, inside, packet};
use nix::sys::socket::Shutdown;

use crate::liar::{base, first, found_out, honest, last_cause, lie, neighbour_answers, serve, unchanged};

#[test]
fn floods_end_their_worker_and_nobody_else() {
    let flood = |message: FromWorker| {
        lie(move |puppet, _| {
            let bytes = packet(&message);
            while puppet.raw(&bytes) {}
        })
    };
    let failed = FromWorker::Failed { batch: BatchId(9), failure: Failure::Model, detail: "x".repeat(MAX_DETAIL) };
    found_out(vec![
        ("flood-pong", flood(FromWorker::Pong { token: 5 })),
        ("flood-failed", flood(failed)),
        ("flood-bytes", lie(|puppet, _| while puppet.raw(&[0xa5; MAX_FRAME]) {})),
        ("half-open", lie(|puppet, _| puppet.close(Shutdown::Write))),
        ("closed", lie(|puppet, _| puppet.close(Shutdown::Both))),
        ("empty", lie(|puppet, _| _ = puppet.raw(b""))),
    ]);
}

#[test]
fn silence_is_ended_by_the_clock() {
    let parts = vec![
        honest(),
        ("silent", lie(|_, _| {})),
        ("deaf", first(|puppet| _ = (puppet.begin(), puppet.linger()))),
        (
            "never-ready",
            first(|puppet| {
                _ = puppet.say(&FromWorker::Verified { declared: declared(), inside: inside() }) && puppet.linger()
            }),
        ),
        ("mute", first(|puppet| _ = puppet.linger())),
    ];
    let mut launcher = serve(parts, "load_ms = 3000\nping_ms = 1000");
    let base = base(&launcher);
    assert_eq!(launcher.row("silent", [1.0; 4]).status, 200, "the control");
    let (address, launcher_ref) = (launcher.address, &launcher);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || launcher_ref.row("silent", [1.0; 4]).status);
        while !waiting.is_finished() {
            neighbour_answers(launcher_ref);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(waiting.join().unwrap(), 504, "{address}");
    });
    for name in ["silent", "deaf", "never-ready", "mute"] {
        launcher.wait_until(&format!("the end of {name}"), Duration::from_secs(20), || {
            last_cause(&launcher, name) == "deadline"
        });
    }
    launcher.wait_until("their successors", Duration::from_secs(10), || {
        ["silent", "deaf", "never-ready", "mute"].iter().all(|name| launcher.status(name)["state"] == "ready")
    });
    unchanged(&mut launcher, &base);
}

/// Printed without end, with everything that could move a terminal, over a pipe that outlives its worker.
#[test]
fn a_log_pipe_is_read_in_moderation_and_let_go() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    let part = first(move |puppet| {
        keep.lock().unwrap().push(puppet.log.try_clone().unwrap());
        let Some(_run) = puppet.honest_once() else { return };
        let copy = puppet.log.try_clone().unwrap();
        std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_secs(4);
            let line = b"\x1b[2J\x1b]0;title\x07\r2026 ERROR forged \xff\xfe\xe2\x80\xae\n".repeat(64);
            while Instant::now() < until && nix::unistd::write(&copy, &line).is_ok() {}
        });
        // A slow drip beside it.
        (0..20).for_each(|_| print(puppet, b"."));
        std::thread::sleep(Duration::from_secs(1));
        puppet.raw(b"now I am found out");
        puppet.linger();
    });
    let mut launcher = serve(vec![honest(), ("printer", part)], "");
    let base = base(&launcher);
    assert_eq!(launcher.row("printer", [1.0; 4]).status, 200, "the control");
    assert_eq!(launcher.row("printer", [1.0; 4]).status, 502);
    launcher.wait_until("a successor", Duration::from_secs(10), || launcher.status("printer")["state"] == "ready");
    // The pipe's other end is still open, in this test; the front does not wait for it.
    assert_eq!(held.lock().unwrap().len(), 1);
    unchanged(&mut launcher, &base);
    let log = launcher.log();
    assert!(log.contains("forged") && !log.contains('\u{1b}') && !log.contains('\u{202e}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("2026 ERROR forged")), "a line was forged");
    assert!(log.len() < 1 << 20, "{} bytes of log", log.len());
}
